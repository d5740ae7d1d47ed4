"""One adapter in training: its model, data, optimiser and position."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor

from trainer.batches import epoch_batches, num_steps, steps_per_epoch
from trainer.config import TrainConfig
from trainer.errors import NonFiniteLossError
from trainer.examples import Examples, Indices
from trainer.methods import METHODS
from trainer.objectives import Objective
from trainer.schedule import learning_rate_at, seeded


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
    """The state of lowest validation loss."""

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
    ) -> None:
        """`config` is resolved; `model` has its adapter attached."""
        assert config.device is not None
        self.config = config
        self.model = model
        self.step = 0
        self.elapsed_s = 0.0
        self.best: Best | None = None
        self.validation_losses: dict[int, float] = {}
        self._objective = objective
        self._device = config.device
        self._train = train
        self._validation = validation
        settings = config.optimiser
        shape = (train.num_per_epoch, settings.batch_size, settings.accumulation)
        self.steps_per_epoch = steps_per_epoch(*shape)
        wanted = num_steps(*shape, settings.epochs)
        self.num_steps = min(wanted, settings.max_steps or wanted)
        self._epoch = -1
        self._epoch_batches: list[Indices] = []
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        groups = METHODS[config.method.type].parameter_groups(config.method, self.parameters)
        self._rates = [group.rate for group in groups]
        self._optimizer = torch.optim.AdamW(
            [{"params": [self.parameters[n] for n in group.names]} for group in groups],
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.num_steps

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return len(self._validation) > 0

    def train_step(self) -> StepReport:
        """One optimiser step. Raises NonFiniteLossError naming the rows, before any update."""
        begin = time.monotonic()
        batches = [
            self._objective.collate([self._train[i] for i in indices], self._device)
            for indices in self._batches_of(self.step)
        ]
        num_terms = sum(batch.num_terms for batch in batches)
        learning_rate = learning_rate_at(self.step, self.num_steps, self.config.optimiser)
        total = 0.0
        self.model.train()
        with seeded(self.config.seed, "step", self.step):
            for batch in batches:
                loss = self._objective.summed_loss(self.model, batch) / num_terms
                value = loss.item()
                if not math.isfinite(value):
                    self._optimizer.zero_grad()
                    raise NonFiniteLossError(
                        f"step {self.step + 1}: the loss is {value}; rows {', '.join(batch.where)}"
                    )
                loss.backward()
                total += value
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), self.config.optimiser.clip_norm
        ).item()
        if not math.isfinite(norm):
            self._optimizer.zero_grad()
            rows = ", ".join(row for batch in batches for row in batch.where)
            raise NonFiniteLossError(f"step {self.step + 1}: the gradient is {norm}; rows {rows}")
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        time_s = time.monotonic() - begin
        self.elapsed_s += time_s
        num_tokens = sum(batch.num_tokens for batch in batches)
        return StepReport(self.step, total, norm, learning_rate, num_tokens, time_s)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss per term over the validation examples; keeps the state if it is the best."""
        begin = time.monotonic()
        total, num_terms = 0.0, 0.0
        self.model.eval()
        size = self.config.optimiser.batch_size
        order = np.argsort(self._validation.lengths, kind="stable")
        for first in range(0, len(order), size):
            chosen = [self._validation[i] for i in order[first : first + size]]
            batch = self._objective.collate(chosen, self._device)
            total += self._objective.summed_loss(self.model, batch).item()
            num_terms += batch.num_terms
        loss = total / num_terms
        self.validation_losses[self.step] = loss
        if self.best is None or loss < self.best.loss:
            self.best = Best(self.step, loss, self.tensors())
        self.elapsed_s += time.monotonic() - begin
        return loss

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
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "tensors": self.tensors(),
            "optimizer": self._optimizer.state_dict(),
            "validation_losses": dict(self.validation_losses),
            "best": None if best is None else (best.step, best.loss, best.tensors),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.step = state["step"]
        self.elapsed_s = state["elapsed_s"]
        self.load_tensors(state["tensors"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.validation_losses = state["validation_losses"]
        self.best = None if state["best"] is None else Best(*state["best"])

    def _batches_of(self, step: int) -> list[Indices]:
        settings = self.config.optimiser
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            seed = self.config.seed
            shown = self._train.epoch(seed, epoch)
            self._epoch_batches = epoch_batches(
                shown, self._train.lengths, settings.batch_size, seed, epoch
            )
        first = position * settings.accumulation
        return self._epoch_batches[first : first + settings.accumulation]
