"""Data sets by their name on the Hugging Face hub: `--tasks NAME=hf:REPO[:CONFIG[:SPLIT]]`.

The split is written as JSON lines below the user's cache folder and read from there like any file,
so its hash stands in signatures. Needs the optional extra `hub`; everything else works without.
"""

import importlib
import os
import re
from pathlib import Path
from typing import Any

from evalsuite.errors import InputError

PREFIX = "hf:"
_DEFAULT_SPLIT = "test"


def fetched(name: str) -> Path:
    """The file that a name stands for, downloaded if it is not there yet. Raises InputError."""
    repo, _, rest = name.removeprefix(PREFIX).partition(":")
    config, _, split = rest.partition(":")
    if not repo or ":" in split:
        raise InputError(
            f"--tasks: '{name}' is not hf:REPO, hf:REPO:CONFIG or hf:REPO:CONFIG:SPLIT"
        )
    split = split or _DEFAULT_SPLIT
    path = _cache() / (re.sub(r"[^\w.-]+", "--", f"{repo}:{config}:{split}") + ".jsonl")
    if path.is_file():
        return path
    rows = _load(name, repo, config or None, split)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_json(temporary, force_ascii=False)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "understudy" / "hub"


def _load(name: str, repo: str, config: str | None, split: str) -> Any:
    try:
        # By name, since it is no dependency.
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"--tasks: '{name}' needs the package datasets: pip install 'understudy-suite[hub]'; "
            "or give a file"
        ) from error
    try:
        return datasets.load_dataset(repo, config, split=split)
    except Exception as error:
        # The library raises what its many readers raise.
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--tasks: '{name}' cannot be loaded: {first}") from error
