"""What a run tells at its end: a line for one job, a table for several."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.config import TrainConfig
from trainer.run_file import Run


def print_summary(run: Run, summary: dict[str, Any]) -> None:
    """Prints what `train_all` returned."""
    if len(run.configs) == 1:
        print(_line(summary["jobs"][0], run.configs[0]))
        return
    table = Table(title=str(run.directory), title_justify="left", highlight=False)
    for column in ("job", "method", "steps", "validation loss", "tokens/s", "state", "adapter"):
        numeric = column in ("steps", "tokens/s", "state")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for job, config in zip(summary["jobs"], run.configs, strict=True):
        failed = "error" in job
        table.add_row(
            job["name"],
            job["method"],
            str(job["steps"]),
            "" if failed else _losses(job),
            "" if failed else f"{job['tokens_per_s']:,.0f}",
            _mib(job["state_bytes"]),
            f"[red]failed: {job['error']}" if failed else _where(job, config),
        )
    width = None if sys.stdout.isatty() else 160
    Console(soft_wrap=False, width=width).print(table)
    memory = summary["memory"]
    print(
        f"memory: the base once {_mib(memory['base_bytes'])}, the jobs' state "
        f"{_mib(memory['state_bytes'])}, peak {_mib(memory['peak_bytes'])}; "
        f"{_mib(memory['saved_bytes'])} less than with a base for each"
    )


def _line(job: dict[str, Any], config: TrainConfig) -> str:
    losses = _losses(job)
    return (
        f"{job['name']}: {job['steps']} steps in {job['training_s']:.0f} s, "
        f"{f'validation loss {losses}, ' if losses else ''}{job['tokens_per_s']:,.0f} tokens/s; "
        f"{job['result']} in {_where(job, config)}"
    )


def _losses(job: dict[str, Any]) -> str:
    before, after = job["validation_loss_before"], job["validation_loss"]
    return "" if after is None else f"{before:.4f} -> {after:.4f}"


def _where(job: dict[str, Any], config: TrainConfig) -> str:
    if job["version"] is None:
        return str(job["artifact"])
    assert config.output.store is not None
    return str(Path(config.output.store) / job["name"] / job["version"])


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
