"""The base model as the server knows it: what adapters are checked against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NormInfo:
    """A normalization of the base: its channels, and whether it adds a bias."""

    size: int
    has_bias: bool


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """The base's input embeddings: module path, and the shape [tokens, size] of their weight."""

    path: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """The base model as loaded: what adapters are checked against and GetModelInfo reports."""

    name: str
    fingerprint: str
    architecture: str
    quantization: str
    """`nf4`, `int8` or `none`."""
    weight_form: str
    """How quantized weights are held: `nf4_held`, `nf4_packed`, `int8`, `dense`."""
    dtype: str
    device: str
    max_context_tokens: int
    vocab_size: int
    hidden_size: int
    num_parameters: int
    resident_bytes: int
    int8_threshold: float
    deterministic: bool
    linear_shapes: Mapping[str, tuple[int, int]]
    """(out_features, in_features) of each linear an adapter may target, by its full module path
    as in the checkpoint, such as `model.layers.0.self_attn.q_proj`."""
    norms: Mapping[str, NormInfo] = field(default_factory=dict)
    """Each norm an adapter may change, by its module path."""
    embedding: EmbeddingInfo | None = None
    """The input embeddings, if an adapter may change them."""
    head: str = ""
    """Module path of the output head, one of `linear_shapes`; empty where no adapter may change
    it."""
    tied: bool = False
    """Whether input embeddings and output head are one weight."""
    is_own_weight: Callable[[str, object], bool] = lambda path, weight: False
    """Whether a tensor is the base's own weight of its embeddings or head, by module path, as far
    as that has rows."""
    biased_linears: frozenset[str] = frozenset()
    """Those of them that have a bias."""
    transposed_linears: frozenset[str] = frozenset()
    """Those whose checkpoints hold their weight as [in, out] (transformers' `Conv1D`)."""
    has_body: bool = True
    """Whether the model has final hidden states apart from its output head, for classifiers."""
    tokenizer: object = None
    """transformers' tokenizer of the base, for adapters that add tokens."""
    cache_shape: tuple[int, int, int] = (0, 0, 0)
    """(layers, heads of keys and values, head size): what a position's states are."""
