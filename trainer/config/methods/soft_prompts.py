"""The configuration of methods that train virtual tokens."""

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptTuningConfig:
    """Trained embeddings in front of the prompt (Lester et al., arXiv 2104.08691)."""

    type: Literal["prompt_tuning"]
    """The method's name."""
    num_virtual_tokens: Positive = 20
    """Number of trained embeddings. Lester et al., figure 3(a): little is gained beyond 20."""
    init: Literal["text", "vocab", "random"] = "vocab"
    """Where they start: at the words of `init_text`, at words drawn from the vocabulary, or at
    noise. Figure 3(b) there: words beat noise, most of all for small models."""
    init_text: str | None = None
    """For `init: text`: repeated or cut to `num_virtual_tokens` tokens."""
    init_vocab_size: Positive = 5000
    """For `init: vocab`: draw among this many first ids, the most common (section 3.2 there)."""
