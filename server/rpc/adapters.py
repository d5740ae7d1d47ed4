"""AdapterService: thin servicers over the tiers and the catalog. All of it reads the disk."""

import asyncio
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc

from server.adapters.catalog import AdapterStatus, Catalog
from server.adapters.remote import RemoteSources, is_remote
from server.adapters.store import Reference, parse_reference
from server.adapters.tiers import AdapterTiers
from server.errors import InvalidRequestError, UnsupportedError
from server.rpc import convert
from server.types import Tier
from understudy.v1 import adapter_service_pb2 as pb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

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

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """A page of adapters: by name, newest version first."""
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        after = _decode_token(request.page_token)
        tier = convert.tier_filter(request.tier)

        def page() -> tuple[list[AdapterStatus], str]:
            return _page(self.catalog, request, tier, after, size)

        statuses, token = await self._beside(page)
        return pb.ListAdaptersResponse(
            adapters=map(convert.adapter, statuses), next_page_token=token
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
        reference = parse_reference(request.name, "name")
        if reference.selector:
            raise InvalidRequestError("name", "takes a bare name, without '@'")

        name, source, pin = request.name, request.source, request.pin
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

        return pb.PinAdapterResponse(adapter=convert.adapter(await self._load(pin)))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Points an alias of the store at a version, or removes it."""
        name = parse_reference(request.name, "name").name

        def set_alias() -> AdapterStatus:
            self.tiers.set_alias(name, request.alias, request.version)
            version = request.version or self.tiers.resolve(Reference(name))
            return self.catalog.status(Reference(name, version))

        return pb.SetAliasResponse(adapter=convert.adapter(await self._load(set_alias)))

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """Not served yet."""
        raise UnsupportedError("WatchAdapters: this server does not support it yet")
        yield

    def _fetch(self, name: str, source: str, pin: bool) -> Reference:
        with self.remote.fetched(name, source) as directory:
            load = self.loader.submit(self.tiers.load_fetched, name, directory, source, pin)
            return load.result()

    async def _load(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.loader, work)

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)


def _page(
    catalog: Catalog,
    request: pb.ListAdaptersRequest,
    tier: Tier | None,
    after: tuple[str, str] | None,
    size: int,
) -> tuple[list[AdapterStatus], str]:
    """Up to `size` matching adapters behind `after`, and the token of the next page."""
    found: list[AdapterStatus] = []
    skipping = after is not None
    for status in catalog.list(request.name_prefix):
        key = (status.name, status.version)
        if skipping and after is not None:
            # The version may be gone meanwhile: then the page begins with the next name.
            if key == after:
                skipping = False
                continue
            if status.name <= after[0]:
                continue
            skipping = False
        if tier is not None and status.tier is not tier:
            continue
        if request.method and status.method != request.method:
            continue
        if len(found) == size:
            return found, _encode_token(found[-1])
        found.append(status)
    return found, ""


def _encode_token(last: AdapterStatus) -> str:
    return urlsafe_b64encode(f"{last.name}@{last.version}".encode()).decode()


def _decode_token(token: str) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        reference = parse_reference(urlsafe_b64decode(token.encode()).decode())
    except (ValueError, InvalidRequestError) as error:
        raise InvalidRequestError("page_token", "is not one that this server gave") from error
    return reference.name, reference.selector
