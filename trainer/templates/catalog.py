"""The library of wordings: YAML files beside this module, one entry per task family."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from trainer.errors import ConfigError

EVERY = "*"


@dataclass(frozen=True)
class Family:
    """The wordings of one task."""

    name: str
    about: str
    """What is asked for, in a few words."""
    columns: tuple[str, ...]
    """What every wording reads."""
    wordings: tuple[str, ...]
    inverted: tuple[str, ...] = ()
    """Wordings that read `completion` in place of one column, and ask for that column."""


@cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    found: dict[str, Family] = {}
    folder = resources.files("trainer.templates") / "library"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".yaml"):
            continue
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            found[name] = Family(
                name,
                entry["about"],
                tuple(entry["columns"]),
                tuple(entry["wordings"]),
                tuple(entry.get("inverted", ())),
            )
    return dict(sorted(found.items()))


def named(name: str, key: str = "data.template_name") -> list[tuple[str, str]]:
    """The wordings that `name` stands for, each as its own full name and its text.

    `summarize` is the first of its family, `summarize/2` the third, `summarize/*` all of them.
    Raises ConfigError beginning with the configuration's `key`.
    """
    task, slash, number = name.partition("/")
    known = families()
    if task not in known:
        close = difflib.get_close_matches(task, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ConfigError(f"key {key!r}: no template {task!r}; {hint}")
    wordings = known[task].wordings
    if number == EVERY:
        return [(f"{task}/{index}", text) for index, text in enumerate(wordings)]
    index = number if slash else "0"
    if not (index.isascii() and index.isdecimal() and int(index) < len(wordings)):
        raise ConfigError(
            f"key {key!r}: {name!r}: {task!r} has wordings 0 to {len(wordings) - 1}, and "
            f"{task}/{EVERY} for all of them"
        )
    return [(f"{task}/{int(index)}", wordings[int(index)])]


def template_by_name(name: str) -> str:
    """The one wording called `name`. Raises ConfigError."""
    return named(name)[0][1]
