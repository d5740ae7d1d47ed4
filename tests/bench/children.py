"""Children as variants."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from tests.bench.child import Child
from tests.bench.load import Load, Round, prompts
from tests.bench.plan import Disk
from tests.bench.rounds import Variant


def start_child(
    disk: Disk, stack: ExitStack, name: str, command: Sequence[str], **environment: str
) -> Child:
    """Start a child that computes with the plan's threads; it ends with `stack`.

    `name` is unique: its log has it.
    """
    threads = str(disk.plan.threads)
    variables: Mapping[str, str] = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        **environment,
    }
    child = Child(command, disk.folder / f"{name}.log", variables)
    stack.callback(child.close)
    return child


def start_module(disk: Disk, stack: ExitStack, name: str, module: str, **environment: str) -> Child:
    """Start a module of this project, with this Python."""
    command = [sys.executable, "-m", f"tests.bench.{module}"]
    return start_child(disk, stack, name, command, **environment)


def child_variant(
    disk: Disk, child: Child, name: str, kind: str, adapters: Sequence[str]
) -> Variant:
    """One batch: a prompt for each of `adapters`. `kind` seeds the prompts, as in `ours`."""

    def run(seed: str, load: Load) -> Round:
        wanted = prompts(disk.plan.shape, load, len(adapters), f"{kind}/{seed}")
        answer = child.ask(
            "play", prompts=wanted, num_tokens=load.output_tokens, adapter_names=adapters
        )
        token_ids = answer["token_ids"]
        return Round(
            wall_s=answer["wall_s"],
            num_tokens=sum(map(len, token_ids)),
            token_ids=token_ids,
            decode_step_s=answer.get("decode_step_s"),
        )

    return Variant(name, child.process.pid, run)
