"""What pre-flight hands to the run."""

import hashlib
from collections.abc import Mapping, Sequence
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
from trainer.writing import digest
from understudy.prompt import PromptTemplate

BARE = "{{ prompt }}"


@dataclass(frozen=True)
class PreparedTask:
    """What is known of a task; a run without tasks has one, without a name."""

    name: str
    wordings: Wordings
    num_by_wording: Mapping[str, int]
    """Training examples that got each wording."""
    num_train: int
    num_validation: int
    num_overlong: int
    """Examples left out for their length."""
    num_per_epoch: int
    """Training examples that an epoch shows."""

    def report(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {
            "name": self.name,
            "num_train": self.num_train,
            "num_validation": self.num_validation,
            "num_overlong": self.num_overlong,
            "num_per_epoch": self.num_per_epoch,
        }


@dataclass(frozen=True)
class Prepared:
    """A run's inputs, checked."""

    tokenizer: PreTrainedTokenizerBase
    outline: PreTrainedModel
    """The base without weights, on the `meta` device."""
    method: Any
    """The method's settings, with all that they leave to base and data."""
    objective: Objective
    tasks: tuple[PreparedTask, ...]
    """In the order of the examples."""
    train: Examples
    validation: Examples
    test_rows: Sequence[Row]
    """Rows of the training files that were held out for the eval suite, as they were read."""
    sources: tuple[Source, ...]
    """All files and data sets read: those of training first."""
    held_out_paths: tuple[Path, ...]
    """Fingerprints of test items."""
    leakage: Report
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

    def reading_hash(self) -> str:
        """sha256, in hex, of what else decides the numbers: how the base computes (`config.json`),
        and the wordings' texts, which may be the library's."""
        wordings = [
            [wording.name, wording.template.template]
            for task in self.tasks
            for wording in task.wordings.all + task.wordings.inverted
        ]
        return digest([self.outline.config.to_dict(), wordings])

    @property
    def notes(self) -> list[str]:
        """What does not stop the run, but should be known before it: a line each."""
        return self.leakage.lines()

    @property
    def template(self) -> PromptTemplate:
        """The template that travels with the adapter: where tasks differ, the finished prompt."""
        first, *others = (task.wordings.serving for task in self.tasks)
        return first if all(other == first for other in others) else PromptTemplate(BARE)

    def wordings_report(self) -> list[dict[str, Any]]:
        """The wordings of all tasks, as JSON values; those of a mixture with their task."""
        found = []
        for task in self.tasks:
            own = {"task": task.name} if task.name else {}
            found += [{**own, **w} for w in task.wordings.report(task.num_by_wording)]
        return found

    @property
    def num_overlong(self) -> int:
        """Examples left out for their length."""
        return sum(task.num_overlong for task in self.tasks)
