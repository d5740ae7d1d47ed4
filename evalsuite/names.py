"""How `--tasks` names a task: `NAME+PERTURBATION=DATA@DRAW:SIZE:SEED`, most of it optional."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from evalsuite.hub import PREFIX

_SUBSET = re.compile(r"@[a-z]+:\d[\d:]*$")


@dataclass(frozen=True)
class TaskName:
    """The parts of a name; empty text for those left out."""

    name: str
    """Of a built-in task, or a task file's path."""
    perturbation: str = ""
    """Its name, or a word list's path."""
    data: str = ""
    """A file, a folder, or `hf:REPO:CONFIG:SPLIT`."""
    subset: str = ""
    """With its `@`."""

    @classmethod
    def parse(cls, text: str) -> "TaskName":
        """The parts of a name; nothing about them is checked."""
        found = _SUBSET.search(text)
        rest, subset = (text[: found.start()], found[0]) if found else (text, "")
        rest, _, data = rest.partition("=")
        name, plus, perturbation = rest.rpartition("+")
        # A file's own path may have a plus in it.
        if not plus or Path(rest).is_file():
            return cls(rest, "", data, subset)
        return cls(name, perturbation, data, subset)

    def __str__(self) -> str:
        plus = f"+{self.perturbation}" if self.perturbation else ""
        data = f"={self.data}" if self.data else ""
        return f"{self.name}{plus}{data}{self.subset}"

    def absolute(self) -> "TaskName":
        """With the absolute paths of task file, word list and data."""

        def resolved(text: str) -> str:
            return str(Path(text).resolve()) if text and Path(text).suffix else text

        data = self.data
        if data and not data.startswith(PREFIX):
            data = str(Path(data).resolve())
        return replace(
            self, name=resolved(self.name), perturbation=resolved(self.perturbation), data=data
        )
