"""What rows cost: latency, throughput, memory and size, measured here and now.

Nothing is taken from a table of other machines. The measurement is `load`'s; its file lies beside a
run's others, and the report shows it. It is no part of `report.json`, which holds no times.
"""

import asyncio
import contextlib
import json
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalsuite.errors import InputError, ServerError
from understudy import AsyncClient
from understudy.errors import UnderstudyError

EFFICIENCY_FILE = "efficiency.json"
_FORMAT = 1
_RESIDENT = re.compile(r"^process_resident_memory_bytes ([\d.e+]+)$", re.MULTILINE)
_SAMPLE_S = 0.25


async def holdings(address: str, adapters: Sequence[str]) -> dict[str, Any]:
    """The base and the adapters named, with their sizes in bytes. Raises ServerError."""
    async with AsyncClient(address, timeout=30.0) as client:
        try:
            info = await client.model_info()
            found = {name: (await client.adapters.get(name)).adapter for name in adapters if name}
        except UnderstudyError as error:
            raise ServerError(f"{address}: {error}") from error
    return {
        "server": {
            "base_model": info.base_model,
            "quantization": info.quantization,
            "weight_form": info.weight_form,
            "dtype": info.dtype,
            "device": info.device,
            "num_parameters": info.num_parameters,
            "weights_bytes": info.resident_bytes,
            "max_batch_size": info.max_batch_size,
            "server_version": info.server_version,
        },
        "adapters": {
            name: {
                "version": one.version,
                "method": one.method,
                "rank": one.rank,
                "num_virtual_tokens": one.num_virtual_tokens,
                "size_bytes": one.size_bytes,
            }
            for name, one in found.items()
        },
    }


class MemoryWatch:
    """The largest resident memory of a server's process, sampled from its Prometheus metrics.

    Use as an asynchronous context manager; without a URL it watches nothing.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._task: asyncio.Task[None] | None = None
        self.peak_bytes: int | None = None

    async def __aenter__(self) -> "MemoryWatch":
        """Takes the first sample. Raises InputError if there is nothing to read."""
        if self._url is not None:
            await self._look()
            self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            # A server under load may be late with an answer; the next look is soon.
            with contextlib.suppress(InputError):
                await self._look()

    async def _look(self) -> None:
        assert self._url is not None
        found = await asyncio.to_thread(_resident_bytes, self._url)
        self.peak_bytes = max(found, self.peak_bytes or 0)


def _resident_bytes(url: str) -> int:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--metrics-url: '{url}' is no http:// or https:// address")
    try:
        with urllib.request.urlopen(url, timeout=5.0) as response:
            text = response.read().decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"--metrics-url: {url} cannot be read: {error}") from error
    found = _RESIDENT.search(text)
    if found is None:
        raise InputError(f"--metrics-url: {url} has no process_resident_memory_bytes")
    return int(float(found[1]))


def efficiency_fields(
    load: dict[str, Any], held: dict[str, Any], peak_bytes: int | None
) -> dict[str, Any]:
    """The file's content: what `load` measured, beside what the server held meanwhile."""
    rows = {
        name: {**held["adapters"].get(name, {}), **measured}
        for name, measured in load["adapters"].items()
    }
    whole = {name: value for name, value in load.items() if name != "adapters"}
    server = {**held["server"], "peak_resident_bytes": peak_bytes}
    return {"format": _FORMAT, "server": server, "load": whole, "rows": rows}


def read_efficiency(directory: Path) -> dict[str, Any] | None:
    """What was measured beside a run; None if nothing was. Raises InputError for another file."""
    path = directory / EFFICIENCY_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError("another format")
        return {name: found[name] for name in ("server", "load", "rows")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a measurement of `load --out`; remove it") from error
