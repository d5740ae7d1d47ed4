"""Checkpoints: the full state of a run in one file, replaced atomically."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """What must be equal for a checkpoint to fit a run: sha256, in hex."""

    config: str
    data: str
    base: str

    def difference(self, other: "Identity") -> str | None:
        """The first part that differs, in words."""
        parts = {"config": "configuration", "data": "training data", "base": "base model"}
        return next((w for k, w in parts.items() if getattr(self, k) != getattr(other, k)), None)


def save(path: Path, identity: Identity, state: dict[str, Any], num_log_bytes: int) -> None:
    """Writes the state of a run; a crash leaves the old checkpoint or the new one.

    `num_log_bytes`: length of the metrics log that belongs to this state.
    """
    temporary = path.with_suffix(".tmp")
    content = {
        "format": FORMAT,
        "identity": (identity.config, identity.data, identity.base),
        "state": state,
        "num_log_bytes": num_log_bytes,
    }
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path, identity: Identity) -> tuple[dict[str, Any], int]:
    """The state and log length that `save` wrote.

    Raises CheckpointError if there is none, it is damaged, or it belongs to another run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no checkpoint to resume from; start with --overwrite")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint; start over with --overwrite") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version")
    if differing := Identity(*content["identity"]).difference(identity):
        raise CheckpointError(
            f"{path}: the {differing} is not that of the interrupted run; restore it, or start "
            "over with --overwrite"
        )
    return content["state"], content["num_log_bytes"]
