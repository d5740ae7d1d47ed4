"""AdapterService: thin servicers over the tiers and the catalog. All of it reads the disk."""

import asyncio
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import grpc

from server.adapters.catalog import AdapterStatus, Catalog, Key, Wanted
from server.adapters.remote import RemoteSources, is_remote
from server.adapters.store import Reference, parse_reference
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterNotFoundError, InvalidRequestError
from server.rpc import convert
from server.rpc.watch import AdapterFeed, InMemory
from server.types import AdapterEvent, Tier
from understudy.v1 import adapter_service_pb2 as pb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
# Of the versions in memory that a watch begins with.
_MESSAGES_AT_A_TIME = 256

T = TypeVar("T")


@dataclass(frozen=True)
class AdapterServer(AdapterServiceServicer):
    """Answers `understudy.v1.AdapterService`. Raises the server's errors."""

    tiers: AdapterTiers
    catalog: Catalog
    executor: Executor
    """Answers questions, which read the disk."""
    loader: Executor
    """Loads adapters."""
    remote: RemoteSources
    downloader: Executor
    """Fetches adapters, which may take minutes."""
    mover: Executor
    """Moves aliases, and may wait for others who write to the store."""
    feed: AdapterFeed

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """A page of adapters: by name, newest version first."""
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        after = _decode_token(request.page_token)
        wanted = Wanted(request.name_prefix, request.method, convert.tier_filter(request.tier))
        statuses, last = await self._beside(lambda: self.catalog.page(wanted, after, size))
        return pb.ListAdaptersResponse(
            adapters=map(convert.adapter, statuses), next_page_token=_encode_token(last)
        )

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: Context
    ) -> pb.GetAdapterResponse:
        """One adapter with its manifest and evaluation results."""
        reference = parse_reference(request.adapter)
        details = await self._beside(lambda: self.catalog.details(reference))
        return pb.GetAdapterResponse(
            adapter=convert.adapter(details.status),
            manifest_json=details.manifest_json,
            evals_json=details.evals_json,
        )

    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        """Loads a version; new requests for the name use it."""
        name, source, pin = _bare_name(request.name), request.source, request.pin
        started = time.monotonic()
        if is_remote(source):
            # All of it there: also where the client has left, what was fetched is removed.
            fetch = partial(self._fetch, name, source, pin)
            exact = await asyncio.get_running_loop().run_in_executor(self.downloader, fetch)
        else:
            exact = await self._load(lambda: self.tiers.load(name, source, pin))
        status = await self._beside(lambda: self.catalog.status(exact))
        load_s = time.monotonic() - started
        return pb.LoadAdapterResponse(adapter=convert.adapter(status), load_s=load_s)

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Takes a version out of service."""
        reference = parse_reference(request.adapter)
        num_leases = await self._beside(lambda: self.tiers.unload(reference))
        return pb.UnloadAdapterResponse(num_leases=num_leases)

    async def PinAdapter(
        self, request: pb.PinAdapterRequest, context: Context
    ) -> pb.PinAdapterResponse:
        """Keeps a version in memory, or lets it go."""
        reference = parse_reference(request.adapter)

        def pin() -> AdapterStatus:
            return self.catalog.status(self.tiers.pin(reference, request.pinned))

        # Letting one go loads nothing.
        status = await (self._load(pin) if request.pinned else self._beside(pin))
        return pb.PinAdapterResponse(adapter=convert.adapter(status))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Points an alias of the store at a version, or removes it."""
        name = _bare_name(request.name)

        def set_alias() -> AdapterStatus:
            self.tiers.set_alias(name, request.alias, request.version, self.loader)
            version = request.version or self.tiers.resolve(Reference(name))
            return self.catalog.status(Reference(name, version))

        status = await asyncio.get_running_loop().run_in_executor(self.mover, set_alias)
        return pb.SetAliasResponse(adapter=convert.adapter(status))

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """What is in memory, then changes, until the client leaves, is too slow, or the drain."""
        in_memory, watch = self.feed.start(request.name_prefix)
        try:
            keys = sorted(in_memory)
            for begin in range(0, len(keys), _MESSAGES_AT_A_TIME):
                some = {key: in_memory[key] for key in keys[begin : begin + _MESSAGES_AT_A_TIME]}
                for message in await asyncio.to_thread(self._residents, some):
                    yield message
            yield pb.WatchAdaptersResponse(
                change=pb.ADAPTER_CHANGE_SYNCED, at=convert.timestamp(time.time())
            )
            while True:
                for message in await asyncio.to_thread(self._changes, await watch.next()):
                    yield message
        finally:
            self.feed.stop(watch)

    def _residents(self, in_memory: Mapping[Key, InMemory]) -> list[pb.WatchAdaptersResponse]:
        at = convert.timestamp(time.time())
        return [
            pb.WatchAdaptersResponse(
                change=pb.ADAPTER_CHANGE_RESIDENT,
                adapter=convert.adapter(replace(self._status(*key), tier=w.tier, pinned=w.pinned)),
                at=at,
            )
            for key, w in in_memory.items()
        ]

    def _changes(self, events: Iterable[AdapterEvent]) -> list[pb.WatchAdaptersResponse]:
        return [convert.adapter_event(e, self._status(e.name, e.version)) for e in events]

    def _status(self, name: str, version: str) -> AdapterStatus:
        """What is known of a version, also if that is only its name by now."""
        try:
            return self.catalog.status(Reference(name, version))
        except AdapterNotFoundError:
            return AdapterStatus(name, version, "", (), Tier.DISK)

    def _fetch(self, name: str, source: str, pin: bool) -> Reference:
        with self.remote.fetched(name, source) as directory:
            load = self.loader.submit(self.tiers.load_fetched, name, directory, source, pin)
            exact = load.result()
            # Not on the loader: whoever waits for an adapter would wait for the disk too.
            self.tiers.keep_fetched(exact, directory)
            return exact

    async def _load(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.loader, work)

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)


def _bare_name(text: str) -> str:
    """The request's field `name`. Raises InvalidRequestError, also for a version or an alias."""
    reference = parse_reference(text, "name")
    if reference.selector:
        raise InvalidRequestError("name", "takes a bare name, without '@'")
    return reference.name


def _encode_token(last: Key | None) -> str:
    return urlsafe_b64encode("@".join(last).encode()).decode() if last is not None else ""


def _decode_token(token: str) -> Key | None:
    if not token:
        return None
    try:
        reference = parse_reference(urlsafe_b64decode(token.encode()).decode())
    except (ValueError, InvalidRequestError) as error:
        raise InvalidRequestError("page_token", "is not one that this server gave") from error
    return reference.name, reference.selector
