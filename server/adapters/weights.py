"""What an adapter changes in the base: the one form that every method's reader makes.

Tensors are in host memory, in the types of the artifact. Paths are full module paths as in the
checkpoint, such as `model.layers.0.self_attn.q_proj`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update `scaling * B A x` of a linear map (LoRA, arXiv:2106.09685). A is [r, in], B is
    [out, r]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another weight [out, in] with its bias [out] in place of the base's."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class ReplacedRows:
    """Rows of a weight, one per token, in place of the base's."""

    token_ids: torch.Tensor
    """[n], ascending."""
    weight: torch.Tensor
    """[n, in]."""


@dataclass(frozen=True, slots=True)
class LinearChange:
    """What an adapter makes of the linear `W x + b`:

    `scale * (W (input_scale * x) + scaling * B A x) + b + shift`, where `scale` is `output_scale`,
    or for DoRA (arXiv:2402.09353) `magnitude / ||W + scaling * B A||` by output.
    """

    low_rank: LowRank | None = None
    input_scale: torch.Tensor | None = None
    """[in]."""
    output_scale: torch.Tensor | None = None
    """[out]; scales the base's bias too. Not beside `magnitude`."""
    magnitude: torch.Tensor | None = None
    """[out]; leaves the base's bias alone."""
    shift: torch.Tensor | None = None
    """[out]."""
    bias: torch.Tensor | None = None
    """[out]; stands in for the base's bias."""
    replacement: Replacement | None = None
    """Stands in for W and b; alone."""
    rows: ReplacedRows | None = None
    """Stand in for rows of W; alone, on an output head without a bias."""

    @property
    def is_low_rank(self) -> bool:
        """Whether the low-rank update is all."""
        return (
            self.input_scale is None
            and self.output_scale is None
            and self.magnitude is None
            and self.shift is None
            and self.bias is None
            and self.replacement is None
            and self.rows is None
        )


@dataclass(frozen=True, slots=True)
class NormChange:
    """Another weight and bias [size] of a normalization; None: the base's."""

    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingChange:
    """What an adapter makes of the input embeddings W [vocabulary, hidden]:

    `W[t] + scaling * (B A)[t]`, for DoRA times `magnitude / ||W + scaling * (B A)||` by channel.
    """

    low_rank: LowRank | None = None
    """A is [r, vocabulary], B is [hidden, r]."""
    magnitude: torch.Tensor | None = None
    """[hidden]."""
    replacement: torch.Tensor | None = None
    """Stands in for W."""
    rows: ReplacedRows | None = None
    """Stand in for rows of W; not beside `low_rank`."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A head over the final hidden state of a prompt's last token."""

    weight: torch.Tensor
    """[labels, hidden]."""
    labels: tuple[str, ...]
    """Names of the rows."""


@dataclass(frozen=True, eq=False)
class AddedVocabulary:
    """The base's tokens and more behind them, for which embeddings and head have rows."""

    num_tokens: int
    """The base's included."""
    num_unnamed: int
    """Added rows that are no token of the tokenizer."""
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]
    """Added tokens that end a text."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        # As the base's own: cleaning up would change text that a stream has sent already.
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter, read and checked against the base."""

    linears: Mapping[str, LinearChange] = field(default_factory=dict)
    """By module path."""
    norms: Mapping[str, NormChange] = field(default_factory=dict)
    """By module path."""
    embedding: EmbeddingChange | None = None
    prompt: torch.Tensor | None = None
    """Embeddings [n, hidden] of virtual tokens, which enter in front of the prompt's."""
    prefix: torch.Tensor | None = None
    """Keys and values [layers, n, 2, K, D] of virtual tokens, as attention reads them: the keys
    are turned by no RoPE. Not beside `prompt`."""
    classifier: Classifier | None = None
    """The adapter classifies, and generates nothing."""
    vocabulary: AddedVocabulary | None = None
    """Where tokens were added to the base's."""

    @cached_property
    def rank(self) -> int:
        """The largest rank of its low-rank updates; 0 without any."""
        updates = [change.low_rank for change in self.linears.values()]
        if self.embedding is not None:
            updates.append(self.embedding.low_rank)
        return max((len(update.a) for update in updates if update is not None), default=0)

    @property
    def num_virtual_tokens(self) -> int:
        """Positions of the context that the adapter itself takes."""
        return self.num_given if self.prompt is None else len(self.prompt)

    @property
    def num_given(self) -> int:
        """Those of them whose keys and values it brings, so that they are never computed."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    @property
    def size_bytes(self) -> int:
        """Memory its tensors take."""
        return self._totals[0]

    @property
    def num_values(self) -> int:
        """Numbers in its tensors."""
        return self._totals[1]

    @cached_property
    def _totals(self) -> tuple[int, int]:
        sizes = [(tensor.nbytes, tensor.numel()) for tensor in tensors_of(self)]
        return sum(num_bytes for num_bytes, _ in sizes), sum(count for _, count in sizes)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in an adapter's dataclasses, mappings and tuples, in no particular order."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Mapping):
            left.extend(item.values())
        elif isinstance(item, tuple):
            left.extend(item)
        else:
            parts = [getattr(item, name) for name in _field_names(item.__class__)]
            left += [part for part in parts if part is not None]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()
