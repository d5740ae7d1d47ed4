"""What a model answers to validation prompts, and how good that is."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from trainer.examples import Examples
from trainer.tokens import Encoded

# Of one pass while generating: prompts and answers in the cache.
BATCH_ROWS = 16


@dataclass(frozen=True)
class Sample:
    """An answer beside the text that was to be learnt."""

    prompt: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Answerer:
    """Generates answers, greedily: the same ones in any company."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    """Most tokens of an answer."""
    context_length: int | None
    """Most positions of the model, virtual tokens apart."""
    left_pads: bool
    """Whether prompts of different lengths may share a pass, padded on the left. With virtual
    tokens they may not: PEFT drops the positions, and the padding would count."""

    def samples(self, model: Any, examples: Sequence[Encoded]) -> list[Sample]:
        """The model's answer to each example, in their order; leaves the model in eval mode.

        Of a chat with several learnt turns it is the last that is answered.
        """
        model.eval()
        asked = [_last_turn(example) for example in examples]
        order = sorted(range(len(asked)), key=lambda i: (len(asked[i][0]), i))
        answers: dict[int, list[int]] = {}
        for group in self._groups(order, [prompt for prompt, _ in asked]):
            generated = self._generate(model, [asked[i][0] for i in group])
            answers |= dict(zip(group, generated, strict=True))
        return [
            Sample(self._text(prompt), self._text(reference), self._text(answers[i]))
            for i, (prompt, reference) in enumerate(asked)
        ]

    def _groups(self, order: list[int], prompts: list[tuple[int, ...]]) -> list[list[int]]:
        groups = [order]
        if not self.left_pads:
            groups = [list(g) for _, g in groupby(order, key=lambda i: len(prompts[i]))]
        return [g[i : i + BATCH_ROWS] for g in groups for i in range(0, len(g), BATCH_ROWS)]

    @torch.no_grad()
    def _generate(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        longest = max(map(len, prompts))
        room = self.max_new_tokens
        is_pair = bool(model.config.is_encoder_decoder)
        if self.context_length is not None:
            room = min(room, self.context_length - (1 if is_pair else longest))
        if room < 1:
            return [[] for _ in prompts]
        input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            # An encoder is padded on the right, as while training.
            begin = 0 if is_pair else longest - len(prompt)
            input_ids[row, begin : begin + len(prompt)] = torch.tensor(prompt)
            mask[row, begin : begin + len(prompt)] = 1
        end = self.tokenizer.eos_token_id
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=room, eos_token_id=end, pad_token_id=end, use_cache=True
        )
        with warnings.catch_warnings():
            # Of PEFT, that it makes positions by itself, and of rows that ended early.
            warnings.simplefilter("ignore", UserWarning)
            output = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
            )
        # Behind the prompt, or behind the token with which every decoder begins.
        rows = output[:, 1 if is_pair else longest :].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def spread(examples: Examples, num: int) -> list[Encoded]:
    """At most `num` of the examples, evenly over all of them."""
    places = np.linspace(0, len(examples) - 1, min(num, len(examples))).round().astype(int)
    return [examples[i] for i in places.tolist()]


def _last_turn(example: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before the last text to learn, and that text's."""
    learnt = example.learnt or (True,) * len(example.completion_ids)
    end = max(i for i, one in enumerate(learnt) if one) + 1
    begin = next((i for i in range(end, 0, -1) if not learnt[i - 1]), 0)
    return example.prompt_ids + example.completion_ids[:begin], example.completion_ids[begin:end]


def _rouge_l(samples: Sequence[Sample]) -> float:
    # Loads nltk, which takes a second that most runs have no use for.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [scorer.score(s.reference, s.answer)["rougeL"].fmeasure for s in samples]
    return float(sum(scores) / len(scores))


def _bleu(samples: Sequence[Sample]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    score = BLEU().corpus_score([s.answer for s in samples], [[s.reference for s in samples]])
    return float(score.score)


def _accuracy(samples: Sequence[Sample]) -> float:
    return sum(s.answer == s.reference for s in samples) / len(samples)


SCORES: dict[str, Callable[[Sequence[Sample]], float]] = {
    "rouge_l": _rouge_l,
    "bleu": _bleu,
    "accuracy": _accuracy,
}
"""Samples -> score, larger is better. `rouge_l`: mean F1 of rouge-score with stemming, 0 to 1;
`bleu`: sacrebleu's of the corpus, 0 to 100; `accuracy`: share that equal the reference, ends of
white space apart."""


def scores(samples: Sequence[Sample]) -> dict[str, float]:
    """All of SCORES."""
    return {name: score(samples) for name, score in SCORES.items()}
