"""A task's texts as token ids, in the wording of each example, kept in memory or on disk."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.data import Example
from trainer.examples import Examples
from trainer.objectives import Objective
from trainer.preflight.lengths import Fitting
from trainer.preflight.reading import ReadingView
from trainer.preflight.split import draw
from trainer.preflight.storage import Append, Storage, hash_of
from trainer.preflight.texts import TaskTexts

# Files that decide what a tokenizer makes of a text.
TOKENIZER_FILES = ("*token*", "vocab*", "merges*", "*.model", "spiece*")


@dataclass(frozen=True)
class TaskTokens:
    """The examples of a task, as token ids."""

    train: Examples
    validation: Examples
    num_by_wording: Mapping[str, int]
    """Training examples that got each wording."""
    num_overlong: int
    """Examples left out for their length."""


def encode_texts(
    texts: TaskTexts,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    max_length: int | None,
    storage: Storage,
    view: ReadingView,
) -> TaskTokens:
    """Token ids of a task's training and validation examples. Raises DataError."""
    config = texts.task.config
    seed = config.seed

    def encode_part(
        part: str, examples: Sequence[Example], *, reworded: bool
    ) -> tuple[Examples, Any]:
        def fill(append: Append) -> Mapping[str, Any]:
            fitting, counts = Fitting(max_length), Counter[str]()
            what = f"tokenizing {texts.task.name} {part}".replace("  ", " ")
            for chunk in view.chunks(examples, what):
                worded = (
                    texts.wordings.reword(chunk, seed) if reworded else [(e, "") for e in chunk]
                )
                encoded = objective.encode(tokenizer, [example for example, _ in worded])
                for (_, name), example in zip(worded, encoded, strict=True):
                    if fitting.takes(example):
                        counts[name] += 1
                        append(example)
            return {
                "num": fitting.num,
                "num_long": fitting.num_long,
                "longest": fitting.longest,
                "num_by_wording": dict(counts),
            }

        def key() -> str:
            wordings = texts.wordings.all + texts.wordings.inverted if reworded else ()
            return hash_of(
                _texts_hash(examples),
                [[wording.name, wording.template.template] for wording in wordings],
                [texts.wordings.inverted_share, seed, max_length],
                [config.objective.type, objective.labels],
                tokenizer_hash(config),
            )

        kept, facts = storage.tokens(key, texts.task.name, fill)
        fitting = Fitting(max_length, facts["num"], facts["num_long"], tuple(facts["longest"]))
        fitting.check(config.data.max_overlong_share)
        return kept, facts

    train, facts = encode_part("training", texts.split.train, reworded=True)
    validation = draw(texts.split.validation, config.data.max_validation_rows, seed)
    watched, watched_facts = encode_part("validation", validation, reworded=False)
    return TaskTokens(
        train,
        watched,
        facts["num_by_wording"],
        facts["num_long"] + watched_facts["num_long"],
    )


def _texts_hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for text in (example.where, example.content, example.prompt, *example.answers):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(repr(example.learnt).encode())
    return digest.hexdigest()


def tokenizer_hash(config: TrainConfig) -> str:
    """sha256, in hex, of the base's tokenizer."""
    paths = {path for pattern in TOKENIZER_FILES for path in config.base.glob(pattern)}
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        digest.update(hashlib.sha256(path.name.encode()).digest())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
