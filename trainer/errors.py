"""The trainer's errors.

    TrainerError                  exit code 1
    ├── InputError                something given is wrong        exit code 2
    │   ├── ConfigError           the configuration
    │   ├── DataError             a data file, a row, the split
    │   ├── BaseModelError        the base model's directory
    │   └── CheckpointError       no checkpoint, or one of another run
    ├── NonFiniteLossError        the loss or a gradient is not a number
    ├── ExportError               what was written does not compute what was trained
    ├── OutputError               what a run writes finds no room, or no right to be written
    └── InterruptedRunError       Ctrl-C or SIGTERM, after saving exit code 128 + signal

Messages are one line each and name the file, the key or line, the value and the remedy.
"""

import shlex
from pathlib import Path


class TrainerError(Exception):
    """Root of the tree."""

    exit_code = 1


class InputError(TrainerError):
    """Something the user gave is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or an override is wrong."""


class DataError(InputError):
    """A data file or a row in it cannot be used."""


class BaseModelError(InputError):
    """The base model's directory cannot be used."""


class CheckpointError(InputError):
    """There is no checkpoint to resume from, or it belongs to another run."""


class NonFiniteLossError(TrainerError):
    """The loss or the gradient is infinite or not a number; the text names the rows."""


class ExportError(TrainerError):
    """The adapter read back from disk does not compute what was trained."""


class OutputError(TrainerError):
    """A checkpoint, a log or an adapter could not be written."""

    @classmethod
    def of(cls, path: Path, error: BaseException) -> "OutputError":
        """Names the file or folder, and what the system said: libraries report that in their own
        words, with its error somewhere behind them."""
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
            cause = cause.__cause__ or cause.__context__
        reason = getattr(cause, "strerror", None) or " ".join(str(error).split())[:200]
        return cls(f"{path}: could not be written: {reason}")


class InterruptedRunError(TrainerError):
    """A signal stopped the run after its state was saved."""

    def __init__(self, signal_number: int, where: str, directory: Path) -> None:
        """`where`: the steps done, in words; `directory`: the run's folder."""
        super().__init__(
            f"stopped by signal {signal_number} after {where}, checkpoint saved\n"
            f"continue with: python -m trainer resume {shlex.quote(str(directory))}"
        )
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
