"""What the trainer asks of a method."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.examples import Examples


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters, by name, that share a learning rate."""

    names: tuple[str, ...]
    rate: float = 1.0
    """Times the run's learning rate."""


@dataclass(frozen=True)
class Start:
    """What an initialisation may look at beside the model."""

    config: TrainConfig
    """Resolved."""
    examples: Examples
    """The training examples."""
    load_unquantized: Callable[[], PreTrainedModel]
    """Loads the base once more, as its weights are stored. Raises BaseModelError."""
    loss: Callable[[PreTrainedModel, Any], Tensor]
    """Model and one example -> its mean loss, and whatever hooks see on the way."""


def save_adapter(model: Any, directory: Path) -> None:
    """Writes PEFT's two files."""
    # Not in training mode, where an encoder of virtual tokens drops out.
    model.eval()
    model.save_pretrained(str(directory), save_embedding_layers=False)


def unload(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before PEFT wrapped it.

    PEFT's own `unload` would leave it with the modules that were trained as a whole.
    """
    wrappers = [(n, m) for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    for name, wrapper in wrappers:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, wrapper.original_module)
    return cast(PreTrainedModel, model.unload())


def read_adapter(base: PreTrainedModel, directory: Path) -> Any:
    """`base` with the adapter that `save_adapter` wrote."""
    with without_peft_warnings():
        return peft.PeftModel.from_pretrained(base, str(directory))


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Without PEFT's warnings of a base without a name on the hub, of norms, and of embeddings that
    are tied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _no_virtual_tokens(settings: Any) -> int:
    return 0


def _as_given(settings: Any) -> Any:
    return settings


def _as_bound(settings: Any, outline: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    return settings


def _without_examples(settings: Any, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Any:
    return settings


def _accept(config: TrainConfig, outline: PreTrainedModel) -> None:
    pass


def _as_attached(model: peft.PeftModel, settings: Any, start: Start) -> None:
    pass


def _one_group(settings: Any, parameters: Mapping[str, Parameter]) -> tuple[ParameterGroup, ...]:
    return (ParameterGroup(tuple(parameters)),)


@dataclass(frozen=True)
class Method:
    """One method. `settings` is always its own configuration, of `trainer.config`."""

    attach: Callable[[PreTrainedModel, Any, PreTrainedTokenizerBase], Any]
    """Gives the base fresh parameters, drawn from torch's current random state; returns the model
    to train."""
    detach: Callable[[Any], PreTrainedModel]
    """Gives the base back as it was."""
    num_trainable: Callable[[PreTrainedModel, Any], int]
    """Parameters it would train on a base of this outline. Raises ConfigError if it cannot."""
    learning_rate: float | Callable[[Any], float]
    """Default, from published practice."""
    num_virtual_tokens: Callable[[Any], int] = _no_virtual_tokens
    """Positions of the context that it takes."""
    complete: Callable[[Any], Any] = _as_given
    """The settings with those that are null filled in. Raises ConfigError if they contradict each
    other."""
    check: Callable[[TrainConfig, PreTrainedModel], None] = _accept
    """Raises ConfigError for what cannot be trained on a base of this outline, weights unread."""
    initialise: Callable[[peft.PeftModel, Any, Start], None] = _as_attached
    """Sets initial values that depend on more than the base as it is loaded; the random state is
    the one that `attach` left."""
    parameter_groups: Callable[[Any, Mapping[str, Parameter]], tuple[ParameterGroup, ...]] = (
        _one_group
    )
    """Splits the trained parameters by learning rate; each is in one group."""
    bind: Callable[[Any, PreTrainedModel, PreTrainedTokenizerBase], Any] = _as_bound
    """The settings with what they leave to outline and tokenizer filled in; all that runs after
    gets these. Raises ConfigError for what does not go with them."""
    with_examples: Callable[[Any, Examples, PreTrainedTokenizerBase], Any] = _without_examples
    """The settings with what they leave to the training examples, weights unread. Raises
    ConfigError."""
    save: Callable[[Any, Path], None] = save_adapter
    """Writes what was trained into a folder, as others read it. May change the model's form, but
    no bit of what it computes."""
    reread: Callable[[PreTrainedModel, Path], Any] = read_adapter
    """The detached base with what `save` wrote."""
    trains_base: bool = False
    """Whether it trains the base itself: the result is a base's directory, and no adapter."""
