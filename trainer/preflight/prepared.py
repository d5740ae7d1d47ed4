"""What pre-flight hands to the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.examples import Examples
from trainer.objectives import Objective
from understudy.prompt import PromptTemplate


@dataclass(frozen=True)
class Prepared:
    """A run's inputs, checked."""

    tokenizer: PreTrainedTokenizerBase
    outline: PreTrainedModel
    """The base without weights, on the `meta` device."""
    method: Any
    """The method's settings, with all that they leave to base and data."""
    template: PromptTemplate
    objective: Objective
    train: Examples
    validation: Examples
    train_paths: tuple[Path, ...]
    validation_paths: tuple[Path, ...]
    """Empty if validation is a share of the training files."""
    num_overlong: int
    """Examples left out for their length."""
    num_trainable: int
    """Parameters of the adapter."""
