"""Prompts to compare two models on: what one of them says, and how far the other is from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from understudy.prompt import PromptError, PromptTemplate

NUM_NEW_TOKENS = 8

# Ordinary text of several kinds: what an adapter does to it is its everyday work.
TEXTS = (
    "The parcel came on Monday, two days late, and one corner of the box was crushed.",
    "Customer: I was charged twice this month. Agent: I am sorry, I will refund one of them.",
    "mtg moved to 3pm, bring the q2 numbers pls",
    "I loved the first half of the film, but the ending made no sense at all.",
    "Rain is expected in the north by evening, while the south stays dry and warm.",
    "What is the capital of the country where the river Vltava flows?",
    "A train leaves at nine and travels 120 kilometres in two hours. How fast is it?",
    "def area(width, height):\n    return width * height",
    "She closed the shop, counted the coins and walked home along the canal.",
    "Dear team, the office is closed on Friday. Please finish your reports by Thursday.",
    "No.",
    "Ana: Are you coming tonight? Ben: Only if it stops snowing. Ana: Then bring a book.",
)


@dataclass(frozen=True)
class Expected:
    """What a model says to one prompt."""

    prompt_ids: Tensor  # [1, P]
    answer_ids: Tensor  # [1, N], the model's greedy continuation
    logits: Tensor
    """[T, V] in float32: of prompt and answer, or of an encoder-decoder's answer alone, whose last
    N + 1 positions choose the answer and what comes after it."""


@dataclass(frozen=True)
class Difference:
    """How far a model is from what was expected of it."""

    max_logit_difference: float
    """Largest difference of any logit, over the largest logit expected in absolute value."""
    greedy_agreement: float
    """Share of positions, over prompts and continuations, with the same most likely token."""
    same_continuations: float
    """Share of prompts whose whole greedy continuation it would have chosen too."""


def probe_ids(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    max_length: int | None,
    texts: Sequence[str] = TEXTS,
) -> list[list[int]]:
    """Token ids of the probe texts, each in the prompt template, cut to `max_length`.

    A template over several columns gets the text in each of them.
    """
    found = PromptTemplate(template) if template is not None else None
    prompts = [text if found is None else _rendered(found, text) for text in texts]
    ids = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    return [prompt[:max_length] for prompt in ids if prompt]


def _rendered(template: PromptTemplate, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    try:
        return template.render(
            {name: messages if name == "messages" else text for name in template.variables}
        )
    except PromptError:
        # It wants more than text, such as a number; the bare text is a prompt, too.
        return text


@torch.no_grad()
def expect(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_new: int
) -> list[Expected]:
    """What `model` says to each prompt: `num_new` greedy tokens, and all logits on the way."""
    model.eval()
    expected = []
    for prompt in prompts:
        prompt_ids = torch.tensor([list(prompt)])
        answer_ids = torch.zeros(1, 0, dtype=torch.long)
        for _ in range(num_new):
            best = _logits(model, prompt_ids, answer_ids)[-1].argmax()
            answer_ids = torch.cat([answer_ids, best.view(1, 1).cpu()], dim=1)
        logits = _logits(model, prompt_ids, answer_ids).cpu()
        expected.append(Expected(prompt_ids, answer_ids, logits))
    return expected


@torch.no_grad()
def differ(model: PreTrainedModel, expected: Sequence[Expected]) -> Difference:
    """Compares `model` with what was expected, on the same tokens."""
    model.eval()
    largest = scale = 0.0
    same = total = same_texts = 0
    for item in expected:
        found = _logits(model, item.prompt_ids, item.answer_ids).cpu()
        largest = max(largest, (found - item.logits).abs().max().item())
        scale = max(scale, item.logits.abs().max().item())
        agrees = found.argmax(-1) == item.logits.argmax(-1)  # [T]
        same += int(agrees.sum())
        total += len(agrees)
        # Without the last position, which chooses nothing any more.
        same_texts += int(agrees[-item.answer_ids.shape[1] - 1 : -1].all())
    return Difference(largest / max(scale, 1e-30), same / total, same_texts / len(expected))


def _logits(model: PreTrainedModel, prompt_ids: Tensor, answer_ids: Tensor) -> Tensor:
    """Logits [T, V] of one row, in float32."""
    device = next(model.parameters()).device
    if model.config.is_encoder_decoder:
        start = torch.full((1, 1), model.config.decoder_start_token_id)
        answer = torch.cat([start, answer_ids], dim=1).to(device)
        output = model(input_ids=prompt_ids.to(device), decoder_input_ids=answer)
    else:
        output = model(input_ids=torch.cat([prompt_ids, answer_ids], dim=1).to(device))
    return output.logits[0].float()  # type: ignore[no-any-return]
