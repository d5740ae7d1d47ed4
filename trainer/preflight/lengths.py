"""Which examples are too long, and whether there are too many of them."""

from transformers import PreTrainedModel

from trainer import model
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.methods import METHODS
from trainer.tokens import Encoded


def fit(
    encoded: list[Encoded], max_length: int | None, config: TrainConfig
) -> tuple[list[Encoded], int]:
    """The examples of at most `max_length` tokens, and how many are longer."""
    for example in encoded:
        if not example.prompt_ids:
            raise DataError(f"{example.where}: the prompt has no tokens; nothing predicts from it")
    if max_length is None:
        return encoded, 0
    fitting = [example for example in encoded if example.num_tokens <= max_length]
    num_long = len(encoded) - len(fitting)
    if num_long > config.data.max_overlong_share * len(encoded):
        longest = max(encoded, key=lambda example: example.num_tokens)
        raise DataError(
            f"{num_long} of {len(encoded)} examples are longer than {max_length} tokens (longest: "
            f"{longest.where} with {longest.num_tokens}), more than data.max_overlong_share "
            f"{config.data.max_overlong_share}; raise data.max_length, or shorten them"
        )
    return fitting, num_long


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
