"""What pre-flight hands to the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.data import Row
from trainer.examples import Examples
from trainer.objectives import Objective
from trainer.templates import Wordings
from understudy.prompt import PromptTemplate


@dataclass(frozen=True)
class Prepared:
    """A run's inputs, checked."""

    tokenizer: PreTrainedTokenizerBase
    outline: PreTrainedModel
    """The base without weights, on the `meta` device."""
    method: Any
    """The method's settings, with all that they leave to base and data."""
    objective: Objective
    wordings: Wordings
    num_by_wording: Mapping[str, int]
    """Training examples that got each wording."""
    train: Examples
    validation: Examples
    test_rows: list[Row]
    """Rows of the training files that were held out for the eval suite, as they were read."""
    train_paths: tuple[Path, ...]
    validation_paths: tuple[Path, ...]
    """Empty if validation is a share of the training files."""
    test_paths: tuple[Path, ...]
    """The same of the test part."""
    held_out_paths: tuple[Path, ...]
    """Fingerprints of test items."""
    num_overlong: int
    """Examples left out for their length."""
    num_trainable: int
    """Parameters of the adapter."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every data file that the run's examples depend on, in order."""
        return self.train_paths + self.validation_paths + self.test_paths + self.held_out_paths

    @property
    def template(self) -> PromptTemplate:
        """The template that travels with the adapter."""
        return self.wordings.serving
