"""The adapters a server knows, in both colours: `Client.adapters` and `AsyncClient.adapters`."""

from collections.abc import AsyncIterator, Iterator

import grpc

from understudy import _decode, _encode
from understudy._retry import USE_CLIENT_DEFAULT, Timeout
from understudy._stream import AsyncStream, Stream, WatchReader
from understudy._unary import AsyncCaller, Caller
from understudy.types import AdapterDetails, AdapterEvent, AdapterInfo, LoadResult, Tier
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceStub


class AdapterClient:
    """The adapters a server knows."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub = AdapterServiceStub(channel)
        self._caller = caller

    def list(
        self,
        *,
        name_prefix: str = "",
        method: str = "",
        tier: Tier = Tier.UNSPECIFIED,
        page_size: int = 0,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> Iterator[AdapterInfo]:
        """Adapters by name, newest version first; pages are fetched as they are needed.

        Empty filters and Tier.UNSPECIFIED keep all. `timeout` is per page.
        """
        request = _encode.list_request(name_prefix, method, tier, page_size)
        while True:
            page = self._caller.call(self._stub.ListAdapters, request, timeout)
            yield from map(_decode.adapter_info, page.adapters)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def get(self, adapter: str, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> AdapterDetails:
        """One adapter with its manifest and evaluation results."""
        request = _encode.build(adapter_pb.GetAdapterRequest, adapter=adapter)
        answer = self._caller.call(self._stub.GetAdapter, request, timeout)
        return _decode.adapter_details(answer)

    def load(
        self,
        name: str,
        *,
        source: str = "",
        pin: bool = False,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> LoadResult:
        """Loads an adapter; requests under way finish on the version they run.

        `source` is a directory on the server's machine, or a URL that the server is configured to
        fetch: hf://, s3://, gs:// or https://. Empty: what `latest` means in its store.
        """
        request = _encode.build(adapter_pb.LoadAdapterRequest, name=name, source=source, pin=pin)
        answer = self._caller.call(self._stub.LoadAdapter, request, timeout)
        return _decode.load_result(answer)

    def unload(self, adapter: str, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> int:
        """Takes an adapter out of service and returns the number of requests still running on it.

        Not retried: a second attempt would not find what the first one took out.
        """
        request = _encode.build(adapter_pb.UnloadAdapterRequest, adapter=adapter)
        answer = self._caller.call(self._stub.UnloadAdapter, request, timeout, retry=False)
        return answer.num_leases

    def pin(
        self, adapter: str, *, pinned: bool = True, timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> AdapterInfo:
        """Keeps an adapter in memory, or lets it go."""
        request = _encode.build(adapter_pb.PinAdapterRequest, adapter=adapter, pinned=pinned)
        answer = self._caller.call(self._stub.PinAdapter, request, timeout)
        return _decode.adapter_info(answer.adapter)

    def set_alias(
        self, name: str, alias: str, version: str, *, timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> AdapterInfo:
        """Points an alias at a version. An empty version removes the alias."""
        request = _encode.build(adapter_pb.SetAliasRequest, name=name, alias=alias, version=version)
        answer = self._caller.call(self._stub.SetAlias, request, timeout)
        return _decode.adapter_info(answer.adapter)

    def watch(self, *, name_prefix: str = "", timeout: float | None = None) -> Stream[AdapterEvent]:
        """Changes of residency and aliases as they happen, until closed or `timeout` (no client's
        default; DeadlineExceededError).

        First each version in memory (RESIDENT), then SYNCED, then changes. Raises
        ResourceExhaustedError if they are read too slowly, UnavailableError when the server shuts
        down; watch again then.
        """
        request = _encode.build(adapter_pb.WatchAdaptersRequest, name_prefix=name_prefix)
        return Stream(
            lambda seconds: self._stub.WatchAdapters(
                request, timeout=seconds, metadata=self._caller.config.metadata
            ),
            self._caller.config.attempts(timeout),
            WatchReader(),
        )


class AsyncAdapterClient:
    """As AdapterClient, for the event loop."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        self._stub = AdapterServiceStub(channel)
        self._caller = caller

    async def list(
        self,
        *,
        name_prefix: str = "",
        method: str = "",
        tier: Tier = Tier.UNSPECIFIED,
        page_size: int = 0,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> AsyncIterator[AdapterInfo]:
        """As AdapterClient.list."""
        request = _encode.list_request(name_prefix, method, tier, page_size)
        while True:
            page = await self._caller.call(self._stub.ListAdapters, request, timeout)
            for adapter in page.adapters:
                yield _decode.adapter_info(adapter)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, adapter: str, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> AdapterDetails:
        """As AdapterClient.get."""
        request = _encode.build(adapter_pb.GetAdapterRequest, adapter=adapter)
        answer = await self._caller.call(self._stub.GetAdapter, request, timeout)
        return _decode.adapter_details(answer)

    async def load(
        self,
        name: str,
        *,
        source: str = "",
        pin: bool = False,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> LoadResult:
        """As AdapterClient.load."""
        request = _encode.build(adapter_pb.LoadAdapterRequest, name=name, source=source, pin=pin)
        answer = await self._caller.call(self._stub.LoadAdapter, request, timeout)
        return _decode.load_result(answer)

    async def unload(self, adapter: str, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> int:
        """As AdapterClient.unload."""
        request = _encode.build(adapter_pb.UnloadAdapterRequest, adapter=adapter)
        answer = await self._caller.call(self._stub.UnloadAdapter, request, timeout, retry=False)
        return answer.num_leases

    async def pin(
        self, adapter: str, *, pinned: bool = True, timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> AdapterInfo:
        """As AdapterClient.pin."""
        request = _encode.build(adapter_pb.PinAdapterRequest, adapter=adapter, pinned=pinned)
        answer = await self._caller.call(self._stub.PinAdapter, request, timeout)
        return _decode.adapter_info(answer.adapter)

    async def set_alias(
        self, name: str, alias: str, version: str, *, timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> AdapterInfo:
        """As AdapterClient.set_alias."""
        request = _encode.build(adapter_pb.SetAliasRequest, name=name, alias=alias, version=version)
        answer = await self._caller.call(self._stub.SetAlias, request, timeout)
        return _decode.adapter_info(answer.adapter)

    def watch(
        self, *, name_prefix: str = "", timeout: float | None = None
    ) -> AsyncStream[AdapterEvent]:
        """As AdapterClient.watch."""
        request = _encode.build(adapter_pb.WatchAdaptersRequest, name_prefix=name_prefix)
        return AsyncStream(
            lambda seconds: self._stub.WatchAdapters(
                request, timeout=seconds, metadata=self._caller.config.metadata
            ),
            self._caller.config.attempts(timeout),
            WatchReader(),
        )
