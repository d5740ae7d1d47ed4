"""Which examples are too long, and whether there are too many of them."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from trainer import model
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.methods import METHODS
from trainer.tokens import Encoded


@dataclass
class Fitting:
    """Lets the examples of at most `max_length` tokens through, and counts the longer ones."""

    max_length: int | None
    num: int = 0
    num_long: int = 0
    longest: tuple[str, int] = ("", 0)
    """Where the longest example stands, and its tokens."""

    def takes(self, example: Encoded) -> bool:
        """Whether to train on it. Raises DataError for a prompt without a token."""
        if not example.prompt_ids:
            raise DataError(f"{example.where}: the prompt has no tokens; nothing predicts from it")
        self.num += 1
        if example.num_tokens > self.longest[1]:
            self.longest = (example.where, example.num_tokens)
        is_long = self.max_length is not None and example.num_tokens > self.max_length
        self.num_long += is_long
        return not is_long

    def check(self, most: float) -> None:
        """Raises DataError if a larger share than `most`, `data.max_overlong_share`, is longer."""
        if self.num_long > most * self.num:
            where, num_tokens = self.longest
            raise DataError(
                f"{self.num_long} of {self.num} examples are longer than {self.max_length} tokens "
                f"(longest: {where} with {num_tokens}), more than data.max_overlong_share {most}; "
                "raise data.max_length, or shorten them"
            )


def max_length_of(config: TrainConfig, outline: PreTrainedModel) -> int | None:
    """Most tokens of an example, virtual ones apart; None for a model without a limit.

    `config` is resolved. Raises ConfigError.
    """
    num_virtual = METHODS[config.method.type].num_virtual_tokens(config.method)
    context = model.context_length(outline.config)
    room = None if context is None else context - num_virtual
    if room is not None and room < 2:
        raise ConfigError(
            f"key 'method.num_virtual_tokens': {num_virtual} leave no room in the base's context "
            f"of {context} tokens"
        )
    wanted = config.data.max_length
    if wanted is not None and room is not None and wanted > room:
        extra = f" less {num_virtual} virtual tokens" if num_virtual else ""
        raise ConfigError(
            f"key 'data.max_length': {wanted} is more than the base's context of {context} tokens"
            f"{extra}"
        )
    return wanted or room
