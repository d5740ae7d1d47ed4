"""What changes a row of logits before its token is drawn, greedily or not.

In this order, which is that of transformers where transformers has them: logit bias; repetition
penalty (Keskar et al. 2019, section 4.1) over the tokens of prompt and generation; frequency and
presence penalties (OpenAI's) over the generated tokens alone. Tokens that must not be drawn stay
so: the ends of sequence before min_tokens, and what a grammar does not allow. A row's cost follows
the tokens it touches, not the vocabulary; a row with a grammar pays for its own mask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from server.types import SamplingParams

TokenIdArray = npt.NDArray[np.int64]

# What eight packed bits add to eight logits [256, 8]: 0 for tokens that are allowed.
_BYTES = np.arange(256, dtype=np.uint8)[:, np.newaxis]
_ADDENDS = torch.from_numpy(
    np.where(np.unpackbits(_BYTES, axis=1, bitorder="little"), 0, -np.inf).astype(np.float32)
)
_LARGEST = torch.finfo(torch.float32).max


class LogitEdits:
    """Bias and penalties of one sample, and the tokens they depend on."""

    def __init__(self, params: SamplingParams, prompt_token_ids: TokenIdArray) -> None:
        self.params = params
        self.bias_ids = np.array([i for i, _ in params.logit_bias], dtype=np.int64)
        self.bias = np.array([value for _, value in params.logit_bias], dtype=np.float32)
        self._prompt = prompt_token_ids
        self._places: dict[int, int] = {}
        self._ids = np.empty(16, dtype=np.int64)
        self._counts = np.empty(16, dtype=np.float32)

    @property
    def seen(self) -> TokenIdArray:
        """Tokens of prompt and generation; some are there twice."""
        return np.concatenate((self._prompt, self.generated))

    @property
    def generated(self) -> TokenIdArray:
        """Distinct generated tokens [n]."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """How often each of `generated` was generated [n]."""
        return self._counts[: len(self._places)]

    def push(self, token_id: int) -> None:
        """Takes the next token of the generation."""
        place = self._places.get(token_id)
        if place is not None:
            self._counts[place] += 1
            return
        place = self._places[token_id] = len(self._places)
        if place == len(self._ids):
            self._ids = np.resize(self._ids, 2 * place)
            self._counts = np.resize(self._counts, 2 * place)
        self._ids[place], self._counts[place] = token_id, 1


def distinct_tokens(params: SamplingParams, prompt_token_ids: Sequence[int]) -> TokenIdArray:
    """The prompt's distinct tokens, as far as `params` need them. Samples may share them."""
    if params.repetition_penalty == 1.0:
        return np.empty(0, dtype=np.int64)
    return np.unique(np.array(prompt_token_ids, dtype=np.int64))


def logit_edits(params: SamplingParams, prompt_token_ids: TokenIdArray) -> LogitEdits | None:
    """A new sample's edits, None where nothing is to be changed. `prompt_token_ids` are those of
    `distinct_tokens`."""
    changes = (
        params.logit_bias
        or params.repetition_penalty != 1.0
        or params.frequency_penalty
        or params.presence_penalty
    )
    return LogitEdits(params, prompt_token_ids) if changes else None


@dataclass(frozen=True, slots=True)
class Draw:
    """What to draw from one row of logits."""

    params: SamplingParams
    position: int
    """Tokens generated before this one."""
    banned: tuple[int, ...] = ()
    """Token ids that must not be drawn: the end of sequence before min_tokens."""
    edits: LogitEdits | None = None
    allowed: bytes | None = None
    """Packed bits of the only tokens that may be drawn: `server.types.TokenMatcher.allowed`."""


def mask(logits: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Overwrites tokens that must not be drawn in `logits` [N, V], of any dtype, with -inf."""
    for row, item in enumerate(draws):
        if item.banned:
            logits[row, list(item.banned)] = float("-inf")
    constrained = [
        (row, item.allowed) for row, item in enumerate(draws) if item.allowed is not None
    ]
    if constrained:
        packed = np.frombuffer(b"".join(bits for _, bits in constrained), dtype=np.uint8)
        index = torch.from_numpy(packed.astype(np.int32)).to(logits.device)
        # Adding is faster than filling: it has no branches, and a grammar's mask no pattern.
        addends = torch.nn.functional.embedding(index, _ADDENDS.to(logits.device, logits.dtype))
        addends = addends.view(len(constrained), -1)[:, : logits.shape[1]]
        for (row, _), addend in zip(constrained, addends, strict=True):
            logits[row].add_(addend)


def edit(scores: torch.Tensor, edits: Mapping[int, LogitEdits]) -> None:
    """Applies each row's edits to `scores` [N, V], float32, in place: all rows at once."""
    biased = {row: item for row, item in edits.items() if item.params.logit_bias}
    if biased:
        bias = _like(scores, np.concatenate([item.bias for item in biased.values()]))
        _change(
            scores, {row: item.bias_ids for row, item in biased.items()}, lambda old: old + bias
        )
    repeating = {i: item for i, item in edits.items() if item.params.repetition_penalty != 1.0}
    if repeating:
        seen = {row: item.seen for row, item in repeating.items()}
        values = [item.params.repetition_penalty for item in repeating.values()]
        penalty = _like(scores, _spread(values, seen))
        _change(scores, seen, lambda old: torch.where(old < 0, old * penalty, old / penalty))
    counting = {
        row: item
        for row, item in edits.items()
        if item.params.frequency_penalty or item.params.presence_penalty
    }
    if counting:
        generated = {row: item.generated for row, item in counting.items()}
        counts = np.concatenate([item.counts for item in counting.values()])
        frequency = _spread([i.params.frequency_penalty for i in counting.values()], generated)
        presence = _spread([i.params.presence_penalty for i in counting.values()], generated)
        loss = _like(scores, counts * frequency + presence)
        _change(scores, generated, lambda old: old - loss)


def _change(
    scores: torch.Tensor,
    token_ids: Mapping[int, TokenIdArray],
    new_values: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Replaces the scores of some tokens of some rows.

    What overflows becomes the largest number there is; what is not finite stays as it is.
    """
    size = scores.shape[1]
    places = np.concatenate([row * size + ids for row, ids in token_ids.items()])
    index = torch.from_numpy(places).to(scores.device)
    flat = scores.view(-1)
    old = flat[index]
    new = new_values(old).clamp(-_LARGEST, _LARGEST)
    flat[index] = torch.where(old.isfinite(), new, old)


def _spread(
    values: Sequence[float], token_ids: Mapping[int, TokenIdArray]
) -> npt.NDArray[np.float32]:
    """Each row's value, once for each of its tokens."""
    lengths = [len(ids) for ids in token_ids.values()]
    return np.repeat(np.array(values, dtype=np.float32), lengths)


def _like(tensor: torch.Tensor, values: npt.NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(values).to(tensor.device)
