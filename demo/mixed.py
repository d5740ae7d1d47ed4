"""Requests for several adapters and the bare base, streamed from one running batch."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from understudy import AsyncClient, RawPrompt, StoppingParams, StreamDelta, StreamFinished


@dataclass
class Part:
    """One request of the mixed batch and what has come back so far."""

    title: str
    adapter: str
    """Adapter name; empty for the bare base."""
    shown: str
    """The input as the table shows it."""
    input: str | RawPrompt
    max_tokens: int = 48
    text: str = field(default="", init=False)
    max_batch_size: int = field(default=0, init=False)


async def _play(client: AsyncClient, part: Part) -> None:
    stopping = StoppingParams(max_tokens=part.max_tokens)
    async with client.stream(part.input, adapter=part.adapter, stopping=stopping) as events:
        async for event in events:
            if isinstance(event, StreamDelta):
                part.text += event.text
            elif isinstance(event, StreamFinished):
                part.max_batch_size = event.usage.max_batch_size


def _table(parts: Sequence[Part]) -> Table:
    table = Table(title="One batch, streamed side by side", show_lines=True, expand=True)
    for part in parts:
        table.add_column(part.title, ratio=1, overflow="fold")
    table.add_row(*(Text(part.shown, style="dim") for part in parts))
    table.add_row(*(Text(part.text.strip()) for part in parts))
    return table


async def play(address: str, parts: Sequence[Part], console: Console) -> int:
    """Streams all parts at once and shows them as they come.

    Returns the largest number of sequences that shared one step, as the server counted it.
    """
    async with AsyncClient(address) as client:
        tasks = [asyncio.create_task(_play(client, part)) for part in parts]
        try:
            if console.is_terminal:
                with Live(_table(parts), console=console, refresh_per_second=12) as live:
                    while not all(task.done() for task in tasks):
                        await asyncio.sleep(0.05)
                        live.update(_table(parts))
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    if not console.is_terminal:
        console.print(_table(parts))
    return max(part.max_batch_size for part in parts)
