"""Perturbed tasks: the same samples in other words, to see what that does to a score.

`NAME+PERTURBATION` is a task as NAME, asked about the changed inputs. What HELM calls robustness
changes the input only; what it calls fairness changes references and choices alike. Equal samples
are changed equally in every run.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite.data import DataRow
from evalsuite.errors import InputError, nearest
from evalsuite.perturbations.edits import Edit, chain, lowercase, spaces, swaps, typos, uppercase
from evalsuite.samples import Convert
from evalsuite.types import Sample
from evalsuite.wordfiles import read_word_file

Family = Literal["robustness", "fairness"]
SUFFIXES = (".yaml", ".yml")
_WORDS = Path(__file__).with_name("words.yaml")
_VERSION = 1


@dataclass(frozen=True)
class Perturbation:
    """One way to change samples."""

    name: str
    family: Family
    edit: Edit
    references: bool
    """Whether references and choices change too."""
    signature: str

    def __call__(self, sample: Sample, fields: Sequence[str] = ()) -> Sample:
        """The changed sample; `fields` are those of its fields that the prompt shows."""

        def edited(text: str) -> str:
            # Anew for each text, so that what contexts share changes alike.
            return self.edit(text, Random(f"{self.name}:{sample.id}"))

        changed = replace(
            sample,
            input=edited(sample.input),
            contexts=tuple(map(edited, sample.contexts)),
            fields={k: edited(v) if k in fields else v for k, v in sample.fields.items()},
        )
        if not self.references:
            return changed
        choices = tuple(map(edited, sample.choices))
        return replace(
            changed,
            references=tuple(map(edited, sample.references)),
            choices=choices if len(set(choices)) == len(set(sample.choices)) else sample.choices,
            completion=edited(sample.completion),
        )


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SwapFile:
    """A user's own word list."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    swaps: Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Whole words or phrases in lower case, and what may stand for each."""
    family: Family = "robustness"
    references: bool | None = None
    """Whether references and choices change too; by default for fairness only."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0


@lru_cache(maxsize=1)
def built_in() -> Mapping[str, Perturbation]:
    """The perturbations that come with the suite, by name."""
    words = yaml.safe_load(_WORDS.read_text(encoding="utf-8"))
    contractions = swaps(words["contractions"])
    edits: dict[str, tuple[Family, Edit]] = {
        "lowercase": ("robustness", lowercase),
        "uppercase": ("robustness", uppercase),
        "spaces": ("robustness", spaces),
        "typos": ("robustness", typos),
        "contractions": ("robustness", contractions),
        "synonyms": ("robustness", swaps(words["synonyms"], 0.5)),
        "mild_mix": ("robustness", chain(lowercase, contractions, typos, spaces)),
        "dialect": ("fairness", swaps(words["dialect"])),
        "gender": ("fairness", swaps(words["gender"])),
    }
    return {
        name: Perturbation(name, family, edit, family == "fairness", f"{name}@{_VERSION}")
        for name, (family, edit) in edits.items()
    }


def perturbation(name: str) -> Perturbation:
    """A built-in one by name, or that of a word list's file. Raises InputError."""
    if name.endswith(SUFFIXES):
        return _of_file(Path(name))
    known = built_in()
    if name not in known:
        raise InputError(
            f"no perturbation '{name}', nor the YAML file of a word list; {nearest(name, known)}"
        )
    return known[name]


def _of_file(path: Path) -> Perturbation:
    found, content = read_word_file(path, SwapFile)
    bad = next((word for word in found.swaps if word != word.lower() or not word.strip()), None)
    if bad is not None:
        raise InputError(f"{path}: swaps: '{bad}' must be a word in lower case")
    references = found.family == "fairness" if found.references is None else found.references
    signature = f"{found.name}@{hashlib.sha256(content).hexdigest()[:12]}"
    edit = swaps(found.swaps, found.probability)
    return Perturbation(found.name, found.family, edit, references, signature)


def perturbed(convert: Convert, by: Perturbation, fields: Sequence[str]) -> Convert:
    """The conversion of rows to changed samples."""

    def changed(row: DataRow) -> Iterator[Sample]:
        return (by(sample, fields) for sample in convert(row))

    return changed


def as_fields(found: Perturbation) -> dict[str, Any]:
    """What a report says of it."""
    return {"family": found.family, "signature": found.signature, "references": found.references}
