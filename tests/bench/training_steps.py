"""Training steps to compare: the trainer's own, and the same written plainly."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trainer import held
from trainer.batches import BatchPlan
from trainer.config import (
    DataConfig,
    LoraConfig,
    OptimiserConfig,
    OutputConfig,
    PromptTuningConfig,
    TrainConfig,
)
from trainer.examples import InMemory
from trainer.job import Job
from trainer.methods import METHODS
from trainer.model import DTYPES, load_base, load_tokenizer
from trainer.objectives.supervised import Supervised
from trainer.resolve import detect_hardware, resolve, should_hold
from trainer.schedule import seeded
from trainer.tokens import IGNORED, Encoded, collate

SETTINGS: dict[str, LoraConfig | PromptTuningConfig] = {
    "lora": LoraConfig(),
    "prompt_tuning": PromptTuningConfig(type="prompt_tuning"),
}
COMPLETION_SHARE = 0.3
"""Of an example's tokens: instructions and what they are about are longer than answers."""
SIGMA = 0.7
"""Of the logarithm of the lengths. A batch's longest example is some three times its median."""


def make_examples(num: int, median_length: int, longest: int, vocab: int) -> InMemory:
    """Random tokens; lengths from a log-normal distribution."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(median_length), SIGMA, num)).round().astype(int)
    examples = []
    for number, length in enumerate(lengths.clip(8, longest).tolist()):
        ids = random.integers(3, vocab, length).tolist()
        begin = length - max(1, round(COMPLETION_SHARE * length))
        examples.append(Encoded(tuple(ids[:begin]), tuple(ids[begin:]), f"row {number}"))
    return InMemory(examples)


def make_config(base: Path, method: str, device: str, batch_size: int) -> TrainConfig:
    """The trainer's defaults, apart from the size of a batch and a rate that does not change."""
    config = TrainConfig(
        name="bench",
        base=base,
        data=DataConfig(train=(Path("made"),), validation=0),
        output=OutputConfig(dir=Path("unwritten")),
        method=SETTINGS[method],
        optimiser=OptimiserConfig(
            learning_rate=1e-3,
            batch_size=batch_size,
            epochs=1000,
            schedule="constant",
            warmup_share=0,
        ),
        device=device,  # type: ignore[arg-type]
    )
    return resolve(config, detect_hardware())


def attach(config: TrainConfig) -> Any:
    """The base with a fresh adapter: the same numbers every time."""
    assert config.device is not None
    assert config.dtype is not None
    base = load_base(
        config.base,
        quantization=config.quantization,
        dtype=DTYPES[config.dtype],
        device=config.device,
        task="CAUSAL_LM",
    )
    tokenizer = load_tokenizer(config.base)
    method = METHODS[config.method.type]
    settings = method.bind(config.method, base, tokenizer)
    with seeded(0, "adapter"):
        return method.attach(base, settings, tokenizer)


class Ours:
    """The trainer's own step, as a run takes it."""

    def __init__(self, config: TrainConfig, examples: InMemory, *, packed: bool) -> None:
        """`packed`: several examples share a row where that is less work."""
        assert config.dtype is not None
        self.model = attach(config)
        num_held_bytes = held.num_held_bytes(self.model, DTYPES[config.dtype])
        if should_hold(config, num_held_bytes):
            held.hold(self.model, {})
        objective = Supervised()
        width = self.model.config.get_text_config().hidden_size
        self._job = Job(
            config,
            self.model,
            objective,
            examples,
            InMemory([]),
            collate=partial(objective.collate_packed, width=width) if packed else None,
        )

    def step(self) -> tuple[float, int]:
        """Takes the next step; its loss and its number of tokens."""
        report = self._job.train_step()
        return report.loss, report.num_tokens


class Plain:
    """The same step with transformers and PEFT alone: padding, a mask, all logits."""

    def __init__(self, config: TrainConfig, examples: InMemory, *, sorted_batches: bool) -> None:
        """`sorted_batches`: the trainer's batches of like length; otherwise in random order."""
        self.model = attach(config).train()
        self._examples = examples
        self._settings = config.optimiser
        self._device = config.device
        self._plan = BatchPlan(examples, config.optimiser, config.seed)
        self._order = (
            None if sorted_batches else np.random.default_rng(0).permutation(len(examples))
        )
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=1e-3, weight_decay=0.0)
        self._step = 0

    def step(self) -> tuple[float, int]:
        """Takes the next step; its loss and its number of tokens."""
        rows = [self._examples[i] for i in self._indices()]
        self._step += 1
        longest = max(row.num_tokens for row in rows)
        input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full_like(input_ids, IGNORED)
        mask = torch.zeros_like(input_ids)
        for number, row in enumerate(rows):
            input_ids[number, : row.num_tokens] = torch.tensor(row.input_ids)
            labels[number, : row.num_tokens] = torch.tensor(row.labels)
            mask[number, : row.num_tokens] = 1
        loss = self.model(
            input_ids=input_ids.to(self._device),
            attention_mask=mask.to(self._device),
            labels=labels.to(self._device),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm or 0.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return loss.item(), sum(row.num_tokens for row in rows)

    def _indices(self) -> Sequence[int]:
        if self._order is None:
            indices: list[int] = self._plan.batches_of(self._step)[0].tolist()
            return indices
        size = self._settings.batch_size
        first = self._step * size % (len(self._order) - size + 1)
        return [int(i) for i in self._order[first : first + size]]


def kept_bytes(model: Any, num_rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for the way back, weights apart.

    Twice the rows keep twice as much, the weights that are kept with them stay the same.
    """

    def kept(rows: int) -> int:
        storages: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        alive: list[Tensor] = []  # so that no address is used twice
        row = Encoded((5,) * (length - length // 4), (6,) * (length // 4), "row")
        batch = collate([replace(row) for _ in range(rows)], str(model.device))
        model.train()
        with saved_tensors_hooks(note, lambda tensor: tensor):
            Supervised().summed_loss(model, batch)
        return sum(storages.values())

    return kept(2 * num_rows) - kept(num_rows)
