"""The configuration of methods that train virtual tokens."""

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptTuningConfig:
    """Trained embeddings in front of the prompt (Lester et al., arXiv 2104.08691)."""

    type: Literal["prompt_tuning"]
    """The method's name."""
    num_virtual_tokens: Positive = 20
    """Number of trained embeddings. Lester et al., figure 3(a): little is gained beyond 20."""
    init: Literal["text", "vocab", "class_labels", "random"] = "vocab"
    """Where they start: at the words of `init_text`, at words drawn from the vocabulary, at those
    of the class labels and behind them drawn ones, or at noise. Figure 3(b) there: labels and words
    beat noise, most of all for small models."""
    init_text: str | None = None
    """For `init: text`: repeated or cut to `num_virtual_tokens` tokens."""
    init_labels: tuple[str, ...] | None = None
    """For `init: class_labels`: one virtual token each, the mean of the label's tokens (section 3.2
    there). Null: the different completions of the training examples."""
    init_vocab_size: Positive = 5000
    """Draw words among this many first ids, the most common (section 3.2 there)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PTuningConfig:
    """Prompt tuning whose embeddings come out of a small network, which is trained with them and
    left away afterwards (Liu et al., arXiv 2103.10385)."""

    type: Literal["p_tuning"]
    """The method's name."""
    num_virtual_tokens: Positive = 20
    """Number of virtual tokens, as for prompt tuning."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network: three layers, or a bidirectional LSTM before two (section 3.2 there has both;
    PEFT recommends the first)."""
    hidden_size: Positive | None = None
    """Width of the network. Null: the base's, as in PEFT."""
    num_layers: Positive = 2
    """Layers of the LSTM, as in PEFT."""
    dropout: Share = 0.0
    """Between the layers of the LSTM."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrefixTuningConfig:
    """Trained keys and values of virtual tokens, in every layer (Li & Liang, arXiv 2101.00190)."""

    type: Literal["prefix_tuning"]
    """The method's name."""
    num_virtual_tokens: Positive = 20
    """Length of the prefix. Li & Liang, figure 4: best at 10 for table-to-text, at 200 for
    summarization."""
    projection: bool = False
    """Compute keys and values by a network from narrower embeddings while training (section 4.3
    there, for stability). Many more parameters to train, none more to serve."""
    hidden_size: Positive | None = None
    """With `projection`: width of the network. Null: that of a layer's keys, as in PEFT."""
    init: Literal["text", "vocab", "random", "zero"] | None = None
    """Where it starts: at the base's own keys and values of `init_text` or of words drawn from the
    vocabulary, at noise, or at zero. Null: `vocab`, with `projection` `random`. Figure 5 there:
    real words beat noise."""
    init_text: str | None = None
    """For `init: text`: repeated or cut to `num_virtual_tokens` tokens."""
    init_vocab_size: Positive = 5000
    """For `init: vocab`: draw among this many first ids, the most common."""
