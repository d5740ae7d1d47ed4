"""Requests for several adapters and the bare base, streamed from one running batch."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from understudy import (
    AsyncClient,
    GenerateRequest,
    RawPrompt,
    StoppingParams,
    StreamDelta,
    StreamFinished,
    StructuredOutput,
)

# The client's own default is too short for a batch on a machine that is busy otherwise.
TIMEOUT_S = 300.0


@dataclass
class Part:
    """One request of the mixed batch and what has come back so far."""

    title: str
    does: str
    adapter: str
    """Adapter name; empty for the bare base."""
    shown: str
    """The input as the table shows it."""
    input: str | RawPrompt
    max_tokens: int = 64
    schema: Mapping[str, object] | None = None
    """JSON schema that the server holds the answer to."""
    text: str = field(default="", init=False)
    max_batch_size: int = field(default=0, init=False)


async def _play(client: AsyncClient, part: Part) -> None:
    constraint = None
    if part.schema is not None:
        constraint = StructuredOutput(json_schema=json.dumps(part.schema))
    request = GenerateRequest(
        part.input,
        adapter=part.adapter,
        stopping=StoppingParams(max_tokens=part.max_tokens),
        structured_output=constraint,
    )
    async with client.stream(request, timeout=TIMEOUT_S) as events:
        async for event in events:
            if isinstance(event, StreamDelta):
                part.text += event.text
            elif isinstance(event, StreamFinished):
                part.max_batch_size = event.usage.max_batch_size


def _table(parts: Sequence[Part]) -> Table:
    table = Table(title="One batch, streamed side by side", show_lines=True, expand=True)
    table.add_column("role", ratio=2, min_width=17)
    table.add_column("asked", ratio=4, style="dim")
    table.add_column("answered", ratio=4)
    for part in parts:
        role = Text(part.title, style="bold").append(f"\n{part.does}", style="not bold dim")
        table.add_row(role, Text(part.shown), Text(part.text.strip()))
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
