"""What pre-flight hands to the run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.data import Row, Source
from trainer.data.content import file_sha256
from trainer.examples import Examples
from trainer.leakage import Report
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
    sources: tuple[Source, ...]
    """All files and data sets read: those of training first."""
    held_out_paths: tuple[Path, ...]
    """Fingerprints of test items."""
    leakage: Report
    num_overlong: int
    """Examples left out for their length."""
    num_trainable: int
    """Parameters of the adapter."""

    @property
    def file_names(self) -> list[str]:
        """Every file and data set that the run's examples depend on, in order, without folders."""
        labels = [source.label for source in self.sources]
        return labels + [path.name for path in self.held_out_paths]

    def data_hash(self) -> str:
        """sha256, in hex, of the contents of all of them."""
        hashes = [source.sha256() for source in self.sources]
        hashes += [file_sha256(path) for path in self.held_out_paths]
        return hashlib.sha256(bytes.fromhex("".join(hashes))).hexdigest()

    @property
    def notes(self) -> list[str]:
        """What does not stop the run, but should be known before it: a line each."""
        return self.leakage.lines()

    @property
    def template(self) -> PromptTemplate:
        """The template that travels with the adapter."""
        return self.wordings.serving
