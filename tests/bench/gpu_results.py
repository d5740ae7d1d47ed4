"""The file of results: a JSON line for each time that a section ran."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class Results:
    """Those of one device, with the full model or the tiny one."""

    def __init__(self, file: Path, device: str, *, quick: bool) -> None:
        self._file = file
        self._key = {"device": device, "quick": quick}

    def latest(self) -> dict[str, Line]:
        """The last line of each section."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        found: dict[str, Line] = {}
        for line in map(json.loads, lines):
            if self._key.items() <= line.items():
                found[line["section"]] = line
        return found

    def is_done(self, section: str) -> bool:
        """Whether it has run to its end, or cannot run on this device. Errors may pass."""
        return "error" not in self.latest().get(section, {"error": "never ran"})

    def add(self, section: str, answer: Line) -> str:
        """Appends a line; returns it."""
        date = datetime.date.today().isoformat()
        line = json.dumps({"section": section, **self._key, "date": date, **answer})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line
