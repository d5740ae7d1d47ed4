"""What a run would do, from its checked inputs; and, if asked for, by timed steps of it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer import build, facts
from trainer.batches import BatchPlan
from trainer.config import TrainConfig
from trainer.estimate import (
    MemoryEstimate,
    TimeEstimate,
    available_bytes,
    estimate_memory,
    estimate_time,
)
from trainer.estimate.memory import size
from trainer.estimate.speed import of_steps
from trainer.examples import Examples
from trainer.preflight import Prepared
from trainer.resolve import OTHER_RATES, default_rate

# Timed steps of `--measure`, after one that is not.
NUM_TIMED_STEPS = 3
SHOWN_CHARACTERS = 600
# A learning rate further than this factor from its method's default is pointed out. A hair more
# than ten, which decimal fractions miss.
FAR_FROM_DEFAULT = 10.001


@dataclass(frozen=True)
class Measured:
    """What timed steps took."""

    time: TimeEstimate
    peak_bytes: int
    """Of the process, libraries included; on a GPU, of its memory."""


def plan(config: TrainConfig, prepared: Prepared, measured: Measured | None) -> dict[str, Any]:
    """The plan of one job as JSON values; `config` is resolved."""
    batches = BatchPlan(prepared.train, config.optimiser, config.seed)
    spent = measured.time if measured else estimate_time(config, prepared)
    shown = prepared.train[0]
    decode = prepared.tokenizer.decode
    is_usual = config.optimiser.algorithm not in OTHER_RATES
    return {
        "name": config.name,
        "base": config.base.name,
        "quantization": config.quantization,
        "device": config.device,
        "method": config.method.type,
        "learning_rate": config.optimiser.learning_rate,
        "default_learning_rate": default_rate(config) if is_usual else None,
        "num_trainable": prepared.num_trainable,
        "trainable_share": prepared.num_trainable / prepared.outline.num_parameters(),
        "rows": {
            "train": len(prepared.train),
            "validation": len(prepared.validation),
            "test": len(prepared.test_rows),
            "overlong": prepared.num_overlong,
        },
        "tasks": [task.report() for task in prepared.tasks if task.name],
        "tokens": _tokens(prepared.train),
        "steps": batches.num_steps,
        "steps_per_epoch": batches.steps_per_epoch,
        "epochs": round(batches.num_steps / batches.steps_per_epoch, 3),
        "wordings": prepared.wordings_report(),
        "example": {
            "row": shown.where,
            "prompt": decode(list(shown.prompt_ids)),
            "completion": decode(list(shown.completion_ids)),
        },
        "leakage": prepared.leakage.to_json(),
        "memory": {
            **asdict(estimate_memory(config, prepared)),
            "measured_peak": measured.peak_bytes if measured else None,
        },
        "time": asdict(spent),
        "output": {
            "dir": str(config.output.dir),
            "store": str(config.output.store)
            if config.output.store and config.output.publish
            else None,
        },
    }


def measure(config: TrainConfig, prepared: Prepared) -> Measured:
    """Loads the base and times the largest step and some others. Writes nothing."""
    base = build.load_base(config, prepared.objective.task)
    job = build.make_job(config, prepared, base, alone=True)
    batches = BatchPlan(prepared.train, config.optimiser, config.seed)
    lengths = prepared.train.lengths
    steps = range(min(batches.num_steps, batches.steps_per_epoch))
    largest = max(
        steps,
        key=lambda step: max(len(b) * int(lengths[b].max()) for b in batches.batches_of(step)),
    )
    timed: list[tuple[float, int]] = []
    for step in (largest, *np.linspace(0, len(steps) - 1, NUM_TIMED_STEPS).astype(int).tolist()):
        job.step = step
        begin = time.perf_counter()
        timed.append((-begin, job.train_step().num_tokens))
        timed[-1] = (time.perf_counter() - begin, timed[-1][1])
    elapsed = sum(seconds for seconds, _ in timed[1:])
    speed = sum(tokens for _, tokens in timed[1:]) / elapsed
    step_s = _mean_tokens(prepared, batches) / speed
    peak = facts.peak_device_memory_bytes(config.device or "cpu") or facts.peak_memory_bytes()
    return Measured(of_steps(config, prepared, batches, step_s, speed, measured=True), peak)


def text(found: dict[str, Any], memory: MemoryEstimate | None, device: str) -> list[str]:
    """The plan for people: a line for each thing to know; None leaves out the run's memory."""
    rows, tokens, spent, example = (found[k] for k in ("rows", "tokens", "time", "example"))
    leaks = found["leakage"]
    compared = ", ".join(leaks["compared_with"]) or "nothing"
    kinds = [f"{o['num_rows']} {o['kind']} ({o['source']})" for o in leaks["overlaps"]]
    how = ", by timed steps" if spent["measured"] else " (rough; --measure times it)"
    wordings = found["wordings"]
    peak = found["memory"]["measured_peak"]
    return [
        f"{found['name']}: {found['method']} on {found['base']}, {found['quantization']}, on "
        f"{found['device']}",
        f"trains    {found['num_trainable']:,} parameters, {found['trainable_share']:.3%} of the "
        "base",
        f"rows      {rows['train']:,} training, {rows['validation']:,} validation, "
        f"{rows['test']:,} test, {rows['overlong']:,} left out as too long",
        *(f"task      {t['name']}: {t['num_train']:,} training" for t in found["tasks"]),
        f"tokens    {tokens['total']:,}; an example has {tokens['min']} to {tokens['max']}, median "
        f"{tokens['median']}, 95% at most {tokens['p95']}",
        f"steps     {found['steps']:,} over {found['epochs']:g} epochs",
        _rate_line(found),
        f"leakage   compared with {compared}: {', '.join(kinds) or 'none'}",
        *([memory_line(memory, device)] if memory is not None else []),
        *([f"peak      {size(peak)}, measured"] if peak else []),
        f"time      {_duration(spent['training_s'])}, {spent['tokens_per_s']:,.0f} tokens/s{how}",
        f"output    {found['output']['dir']}"
        + (f", store {found['output']['store']}" if found["output"]["store"] else ""),
        f"wording   {wordings[0]['name']}"
        + (f" and {len(wordings) - 1} more" if len(wordings) > 1 else ""),
        f"example   {example['row']}",
        *_indented(example["prompt"]),
        "          ->",
        *_indented(example["completion"]),
    ]


def memory_line(memory: MemoryEstimate, device: str) -> str:
    """What a run is estimated to need beside what there is."""
    available = available_bytes(device)
    return f"memory    {memory.text()} beside what Python holds; " + (
        f"{size(available)} available" if available is not None else "available: unknown"
    )


def _rate_line(found: dict[str, Any]) -> str:
    rate, usual = found["learning_rate"], found["default_learning_rate"]
    line = f"rate      {rate:g}"
    if usual is None or usual / FAR_FROM_DEFAULT <= rate <= usual * FAR_FROM_DEFAULT:
        return line
    times = f"{rate / usual:,.0f} times" if rate > usual else f"1/{usual / rate:,.0f} of"
    return f"{line}: {times} the default of {found['method']}, {usual:g}"


def _tokens(examples: Examples) -> dict[str, int]:
    lengths = examples.lengths
    return {
        "total": int(lengths.sum()),
        "min": int(lengths.min()),
        "median": int(np.median(lengths)),
        "p95": int(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
    }


def _mean_tokens(prepared: Prepared, batches: BatchPlan) -> float:
    """Tokens of a step, on average."""
    mean = float(prepared.train.lengths.mean())
    return mean * prepared.train.num_per_epoch / batches.steps_per_epoch


def _indented(text: str) -> Sequence[str]:
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[: SHOWN_CHARACTERS // 2]} [...] {text[-SHOWN_CHARACTERS // 2 :]}"
    return [f"          | {line}" for line in text.splitlines()]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
