"""Several processes that train one adapter together: each takes its share of every batch.

The launcher (`accelerate launch`, or torch's own) starts the processes and tells each its place in
the environment. The gradients of all are added up before every step, so all hold the same adapter
and the same state; the first one logs, writes and publishes.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.errors import ConfigError, TrainerError

if TYPE_CHECKING:
    from torch.nn import Parameter

    from trainer.examples import Indices
    from trainer.run_file import Run

T = TypeVar("T")


def num_launched() -> int:
    """Processes that the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return num_launched() == 1 or int(os.environ.get("RANK") or 0) == 0


def check_single(verb: str) -> None:
    """Raises ConfigError in one of several processes, for a verb that runs in one."""
    if num_launched() > 1:
        raise ConfigError(f"{verb} runs in one process; start it without `accelerate launch`")


class Group:
    """One process alone: nothing is shared, and nothing changes."""

    rank = 0
    size = 1

    def share(self, indices: "Indices") -> "Indices":
        """This process's part of a batch; together they are the batch, each example once."""
        return indices[self.rank :: self.size]

    def draw(self, step: int) -> int:
        """What tells this process's randomness in `step` from that of others and of other steps."""
        return step * self.size + self.rank

    def sums(self, *values: float) -> list[float]:
        """Each value, summed over the processes."""
        return list(values)

    def add_gradients(self, parameters: Mapping[str, "Parameter"]) -> None:
        """Sets each gradient to the sum of all processes' ones; none where none has any."""

    def texts(self, text: str) -> str:
        """What the processes have to say, in one line; those with nothing to say left out."""
        return text

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes."""
        return values

    def by_main(self, ask: Callable[[], T]) -> T:
        """What `ask` gives in the main process."""
        return ask()

    def largest(self, number: int | None) -> int | None:
        """The largest number that any process has."""
        return number

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process refuses or fails at inside, all do. Raises TrainerError."""
        yield


ALONE = Group()


class Several(Group):
    """Processes that torch has connected."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        """`device`: where the gradients are, `cpu` or `cuda`."""
        self.rank, self.size, self._device = rank, size, device

    def sums(self, *values: float) -> list[float]:
        """In float64, in the same order everywhere."""
        import torch

        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def add_gradients(self, parameters: Mapping[str, "Parameter"]) -> None:
        """All of them in one message, with who has any."""
        import torch

        tensors = list(parameters.values())
        has = [float(p.grad is not None) for p in tensors]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in tensors]
        flat = torch.cat(
            [torch.tensor(has, device=self._device), *(part.flatten().float() for part in parts)]
        )
        torch.distributed.all_reduce(flat)
        sums = flat[len(has) :].split([p.numel() for p in tensors])
        for parameter, anyone, total in zip(tensors, flat[: len(has)].tolist(), sums, strict=True):
            if anyone:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def texts(self, text: str) -> str:
        """Joined in the processes' order."""
        return ", ".join(said for said in self.gather([text]) if said)

    def gather(self, values: list[Any]) -> list[Any]:
        """In the processes' order."""
        import torch

        all_values: list[list[Any]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(all_values, values)
        return [value for those in all_values for value in those]

    def by_main(self, ask: Callable[[], T]) -> T:
        """The others wait."""
        import torch

        answers: list[Any] = [ask() if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(answers, src=0)
        answer: T = answers[0]
        return answer

    def largest(self, number: int | None) -> int | None:
        """None if no process has one."""
        import torch

        value = torch.tensor(number or 0, device=self._device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return int(value) or None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raises the first process's error everywhere; its own where that is no TrainerError."""
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            # Whatever it is, the others must not wait for this process.
            error = raised
        refusals = self.gather([] if error is None else [self._told(error)])
        if error is not None and not isinstance(error, TrainerError):
            raise error
        if refusals:
            kind, text = refusals[0]
            raise kind(text) from error

    def _told(self, error: Exception) -> tuple[type[TrainerError], str]:
        """What the others raise."""
        if isinstance(error, TrainerError):
            return type(error), str(error)
        text = " ".join(str(error).split())[:200]
        return TrainerError, f"process {self.rank} failed: {type(error).__name__}: {text}"


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Connects the processes that the launcher started, for as long as the block runs.

    On `cuda` each gets a device of its own. Raises ConfigError if there are too few devices.
    """
    if num_launched() == 1:
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    local = int(os.environ.get("LOCAL_RANK") or 0)
    if device == "cuda" and local >= torch.cuda.device_count():
        raise ConfigError(
            f"key 'device': the launcher started {local + 1} processes or more on this machine, "
            f"which has {torch.cuda.device_count()} CUDA devices; start one for each"
        )
    state = PartialState(cpu=device == "cpu")
    try:
        yield Several(state.process_index, state.num_processes, device)
    finally:
        state.destroy_process_group()


@contextmanager
def folders_of(run: "Run", group: Group) -> Iterator["Run"]:
    """`run` in the main process; in others it goes to folders that are gone at the end, and
    publishes nothing."""
    if group.rank == 0:
        yield run
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _moved(run, Path(folder))


def _moved(run: "Run", folder: Path) -> "Run":
    configs = [
        replace(config, output=replace(config.output, dir=folder / str(number), publish=False))
        for number, config in enumerate(run.configs)
    ]
    alone = len(configs) == 1
    return replace(run, directory=folder / "0" if alone else folder, configs=tuple(configs))
