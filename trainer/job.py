"""One adapter in training: its model, data, optimiser and position."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor

from trainer.batches import BatchPlan, cut
from trainer.config import TrainConfig
from trainer.distributed import ALONE, Group
from trainer.errors import CheckpointError, NonFiniteLossError
from trainer.examples import Examples, Indices, TaskRange
from trainer.methods import METHODS
from trainer.objectives import Objective
from trainer.optimisers import OPTIMISERS
from trainer.schedule import learning_rate_at, seeded
from trainer.stopping import num_without_gain

# Parameters whose gradients are not finite that a message names; they tend to be all.
MAX_NAMED = 3

Collate = Callable[[list[Any], str], Any]
"""Examples and device -> batch."""
Judge = Callable[[Any], dict[str, float]]
"""Model -> scores of what it generates, larger is better. Changes nothing but the mode."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did. `loss` is the mean over the step's terms."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    num_tokens: int
    time_s: float


@dataclass(frozen=True)
class Best:
    """The state that validated best, by `loop.metric`."""

    step: int
    loss: float
    tensors: dict[str, Tensor]


class Job:
    """Trains one adapter, one `train_step` at a time.

    Order and randomness are functions of the seed and the step alone, so a job can stop and
    continue anywhere, and jobs that take turns do not disturb each other.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: peft.PeftModel,
        objective: Objective,
        train: Examples,
        validation: Examples,
        collate: Collate | None = None,
        judge: Judge | None = None,
        notes: tuple[str, ...] = (),
        group: Group = ALONE,
    ) -> None:
        """`config` is resolved; `model` has its adapter attached.

        `collate` stands in for the objective's, where rows may hold several examples; `judge` is
        asked at every validation; `notes` are for whoever watches the run; `group` are the
        processes that train it.
        """
        assert config.device is not None
        self.config = config
        self.model = model
        self.step = 0
        self.elapsed_s = 0.0
        self.best: Best | None = None
        self.validation_losses: dict[int, float] = {}
        self.validation_metrics: dict[int, dict[str, float]] = {}
        """By step, what the objective and the judge measure beside the loss."""
        self.notes = notes
        self.group = group
        self.packed = collate is not None
        self._objective = objective
        self._collate = collate or objective.collate
        self._judge = judge
        self._device = config.device
        self._train = train
        self._validation = validation
        self._plan = BatchPlan(train, config.optimiser, config.seed)
        self.steps_per_epoch = self._plan.steps_per_epoch
        self.num_steps = self._plan.num_steps
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        groups = METHODS[config.method.type].parameter_groups(config.method, self.parameters)
        self._rates = [group.rate for group in groups]
        self._optimizer = OPTIMISERS[config.optimiser.algorithm](
            [{"params": [self.parameters[n] for n in group.names]} for group in groups],
            config.optimiser,
        )

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or more are not worth it."""
        return self.step >= self.num_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether `loop.patience` is exhausted: a function of the validations so far."""
        settings = self.config.loop
        if settings.patience is None:
            return False
        scores = [self.score_at(step) for step in sorted(self.validation_losses)]
        return num_without_gain(scores, settings.min_delta) >= settings.patience

    @property
    def mixture(self) -> dict[str, int]:
        """How many examples of each task an epoch shows; empty for a run without tasks."""
        return {task.name: task.num_per_epoch for task in self._train.tasks if task.name}

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return len(self._validation) > 0

    def train_step(self) -> StepReport:
        """One optimiser step. Raises NonFiniteLossError naming the rows, before any update."""
        begin = time.monotonic()
        shares = map(self.group.share, self._plan.batches_of(self.step))
        batches = [self._batch(self._train, indices) for indices in shares if len(indices)]
        num_terms, num_tokens = self.group.sums(
            sum(batch.num_terms for batch in batches), sum(batch.num_tokens for batch in batches)
        )
        learning_rate = learning_rate_at(self.step, self.num_steps, self.config.optimiser)
        total, failure = 0.0, ""
        self.model.train()
        with seeded(self.config.seed, "step", self.group.draw(self.step)):
            for batch in batches:
                loss = self._objective.summed_loss(self.model, batch) / num_terms
                value = loss.item()
                total += value
                if not math.isfinite(value):
                    failure = f"the loss is {value}; rows {', '.join(batch.where)}"
                    break
                loss.backward()
        (total,) = self.group.sums(total)
        if not math.isfinite(total):
            self._optimizer.zero_grad()
            raise NonFiniteLossError(f"step {self.step + 1}: {self.group.texts(failure)}")
        self.group.add_gradients(self.parameters)
        norm = self._clip()
        if not math.isfinite(norm):
            rows = self.group.texts(", ".join(row for batch in batches for row in batch.where))
            names = self._not_finite()
            self._optimizer.zero_grad()
            raise NonFiniteLossError(
                f"step {self.step + 1}: the gradient is {norm}, of {names}; rows {rows}"
            )
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        time_s = time.monotonic() - begin
        self.elapsed_s += time_s
        return StepReport(self.step, total, norm, learning_rate, int(num_tokens), time_s)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss per term over the validation examples; keeps the state if it is the best."""
        begin = time.monotonic()
        total, num_terms = 0.0, 0.0
        observed: list[Any] = []
        by_task: dict[str, float] = {}
        self.model.eval()
        for task in self._validation.tasks:
            task_total, task_terms, seen = self._measure(task)
            if task.name and task_terms:
                by_task[f"loss/{task.name}"] = task_total / task_terms
            total += task_total
            num_terms += task_terms
            observed += seen
        loss = total / num_terms
        metrics = self._objective.metrics(observed) | by_task
        if (judge := self._judge) is not None:
            with seeded(self.config.seed, "judge", self.step):
                metrics |= self.group.by_main(lambda: judge(self.model))
        self.validation_losses[self.step] = loss
        self.validation_metrics[self.step] = metrics
        if self.best is None or self.score_at(self.step) > self.score_at(self.best.step):
            self.best = Best(self.step, loss, self.tensors())
        self.elapsed_s += time.monotonic() - begin
        return loss

    def _measure(self, task: TaskRange) -> tuple[float, float, list[Any]]:
        """Summed loss, terms and observations of a task's validation examples."""
        total, num_terms = 0.0, 0.0
        observed: list[Any] = []
        whole = np.arange(task.begin, task.end)
        for indices in cut(whole, self._validation.lengths, self.config.optimiser):
            if len(share := self.group.share(indices)):
                batch = self._batch(self._validation, share)
                summed_loss, seen = self._objective.measure(self.model, batch)
                total += summed_loss.item()
                num_terms += batch.num_terms
                observed += seen
        total, num_terms = self.group.sums(total, num_terms)
        return total, num_terms, self.group.gather(observed)

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the trained parameters, on CPU."""
        return {n: p.detach().to("cpu", copy=True) for n, p in self.parameters.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Sets the trained parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        """Everything needed to continue, as tensors, numbers and text."""
        best = self.best
        return {
            "num_processes": self.group.size,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "tensors": self.tensors(),
            "optimizer": self._optimizer.state_dict(),
            "validation_losses": dict(self.validation_losses),
            "validation_metrics": dict(self.validation_metrics),
            "best": None if best is None else (best.step, best.loss, best.tensors),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave. Raises CheckpointError."""
        if (count := state["num_processes"]) != self.group.size:
            raise CheckpointError(
                f"the interrupted run had {count} processes, this one has {self.group.size}, and "
                "its sums would round otherwise; start as many, or start over with --overwrite"
            )
        self.step = state["step"]
        self.elapsed_s = state["elapsed_s"]
        self.load_tensors(state["tensors"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.validation_losses = state["validation_losses"]
        self.validation_metrics = state["validation_metrics"]
        self.best = None if state["best"] is None else Best(*state["best"])

    def score_at(self, step: int) -> float:
        """What `loop.metric` was at a validation, so that larger is better; minus infinity for what
        is no number, with which nothing compares."""
        if self.config.loop.metric == "loss":
            loss = self.validation_losses[step]
            return -math.inf if math.isnan(loss) else -loss
        return self.validation_metrics[step][self.config.loop.metric]

    def _batch(self, examples: Examples, indices: Indices) -> Any:
        return self._collate([examples[i] for i in indices], self._device)

    def _clip(self) -> float:
        """The norm of all gradients together, before they were scaled down to the limit."""
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters.values() if p.grad is not None]
        )
        limit = self.config.optimiser.clip_norm
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), limit, norm)
        return norm.item()

    def _not_finite(self) -> str:
        """Parameters whose gradients are not finite, the first few of them by name."""
        names = [
            name
            for name, p in self.parameters.items()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        if not names:
            return "all together, of none alone"
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return ", ".join(names[:MAX_NAMED]) + more
