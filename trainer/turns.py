"""Several jobs over one base, taking turns; one job is the plain case of it.

Every job has its own modules, optimiser, log and random numbers, and shares nothing with another
but weights that nobody writes. So each ends with the bits that it would have alone, and one that
fails ends alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainer import checkpoint, files, loop
from trainer.build import make_job
from trainer.config import TrainConfig
from trainer.distributed import ALONE, Group
from trainer.errors import ExportError, InterruptedRunError, NonFiniteLossError, OutputError
from trainer.finish import finish
from trainer.job import Job
from trainer.log import MetricsLog
from trainer.preflight import Prepared
from trainer.progress import ProgressView
from trainer.shared import SharedBase, num_bytes_in
from trainer.tensorboard import EventFiles


class Member:
    """One job of a run, from its checked inputs to its summary."""

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        identity: checkpoint.Identity,
        group: Group = ALONE,
    ) -> None:
        """`config` is resolved; `group` are the processes that train it."""
        self._group = group
        self.config = config
        self.identity = identity
        self.summary: dict[str, Any] | None = None
        """What `finish` gave, once the adapter is there."""
        self.error: NonFiniteLossError | ExportError | None = None
        """Why there will be no adapter."""
        self.num_state_bytes = 0
        """Memory of what the job keeps from step to step: parameters, optimiser, best state."""
        self.prepared = prepared
        self._job: Job | None = None
        self._last: checkpoint.Saved | None = None
        self._turns: Iterator[bool] = iter(())

    @property
    def name(self) -> str:
        """The adapter's name."""
        return self.config.name

    @property
    def ended(self) -> bool:
        """Whether it takes no more turns."""
        return self.summary is not None or self.error is not None

    def start(
        self, base: SharedBase, saved: checkpoint.Saved | None, *, alone: bool, stack: ExitStack
    ) -> None:
        """Attaches the adapter to the base, fresh or as it was `saved`; opens the log."""
        self._job = make_job(self.config, self.prepared, base, alone=alone, group=self._group)
        if saved is not None:
            self._job.load_state(saved.state)
        output = self.config.output.dir
        # What was logged before lies in the main process's folder.
        num_bytes = saved.num_log_bytes if saved and self._group.rank == 0 else 0
        self._log = stack.enter_context(MetricsLog(output / files.METRICS, num_bytes))
        if self.config.loop.tensorboard:
            # A validation before the first step is written at step 0.
            last = self._job.step if saved is not None else -1
            events = EventFiles(output / files.TENSORBOARD, last)
            self._log.also = stack.enter_context(events).write

    def show(self, view: ProgressView) -> None:
        """Takes its place in the progress."""
        job = self._training
        self._turns = loop.turns(job, self._log, view.add(self.name, job.num_steps, job.step))

    def turn(self) -> bool:
        """Takes a turn: a step, or the export after the last one. Whether a checkpoint is due."""
        try:
            due = next(self._turns, None)
            if due is None:
                self._end()
            return bool(due)
        except (NonFiniteLossError, ExportError) as error:
            # Raised before anything was updated, so what is saved can be tried again.
            self._keep()
            self._job = None
            self.error = error
            return False

    def saved(self) -> checkpoint.Saved:
        """Its part of a checkpoint."""
        if self._last is not None:
            return self._last
        return checkpoint.Saved(self.identity, self._training.state(), self._log.sync())

    @property
    def step(self) -> int:
        """Steps done."""
        state = self._last.state if self._last is not None else None
        return int(state["step"]) if state is not None else self._training.step

    @property
    def _training(self) -> Job:
        assert self._job is not None, f"{self.name} has ended"
        return self._job

    def fresh_score(self) -> tuple[int, float] | None:
        """Step and score of a validation in the last turn; None if there was none."""
        job = self._job
        if job is None or job.step not in job.validation_losses:
            return None
        return job.step, job.score_at(job.step)

    def _end(self) -> None:
        """Exports and publishes. Its modules go; its state stays for the run's checkpoints."""
        self._keep()
        job, self._job = self._training, None
        if self._group.rank:
            self.summary = {"name": self.name, "steps": job.step}
            return
        try:
            self.summary = finish(job, self.prepared, self.identity)
        except (OSError, SafetensorError) as error:
            raise OutputError.of(self.config.output.dir, error) from error

    def _keep(self) -> None:
        if self._last is None:
            self._last = self.saved()
            self.num_state_bytes = num_bytes_in(self._last.state)


def run(
    members: Sequence[Member],
    bases: Mapping[str, SharedBase],
    directory: Path,
    saved: dict[str, checkpoint.Saved],
    *,
    alone: bool,
    quiet: bool,
    watch: Callable[[int, float], None] | None = None,
    group: Group = ALONE,
) -> None:
    """Trains all members to their ends, from `saved` on, with checkpoints in `directory`.

    `group` are the processes that do, the first of which saves. `bases` holds the base once for
    every task that the members' objectives ask for. A member that fails holds its error; a single
    member raises it. `alone`: nobody needs the base's modules after it. `watch` as in `train_all`.
    Raises InterruptedRunError after saving a checkpoint, and
    OutputError.
    """
    single = len(members) == 1
    with loop.stop_on_signal() as stop, ExitStack() as stack:
        for member in members:
            base = bases[member.prepared.objective.task]
            member.start(base, saved.get(member.name), alone=alone, stack=stack)
        view = stack.enter_context(ProgressView(quiet))
        for member in members:
            member.show(view)

        def save() -> None:
            with group.together():
                if group.rank == 0:
                    states = {m.name: m.saved() for m in members}
                    checkpoint.save(directory / files.CHECKPOINT, states)

        try:
            while active := [member for member in members if not member.ended]:
                due = False
                for member in active:
                    if (number := group.largest(stop.number)) is not None:
                        save()
                        raise InterruptedRunError(number, _steps(members), directory)
                    due = member.turn() or due
                    if watch is not None and (score := member.fresh_score()) is not None:
                        watch(*score)
                    if member.error is not None and not single:
                        view.print(member.name, f"failed, the others go on: {member.error}")
                if due:
                    save()
        except OutputError as error:
            raise OutputError(
                f"{error}; mend that, then continue with `python -m trainer resume {directory}`"
            ) from error
        if single and members[0].error is not None:
            raise members[0].error


def _steps(members: Sequence[Member]) -> str:
    if len(members) == 1:
        return f"step {members[0].step}"
    return "steps " + ", ".join(f"{member.step} of {member.name}" for member in members)
