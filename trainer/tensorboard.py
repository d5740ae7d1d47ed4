"""The log as TensorBoard reads it, for whoever watches several runs there."""

import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainer.errors import ConfigError

PACKAGE = "tensorboardX"


def check_available() -> None:
    """Raises ConfigError if the package that writes the files is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(
            f"key 'loop.tensorboard': {PACKAGE} is not installed; install it with "
            "`pip install 'understudy-suite[tensorboard]'`, or leave the key out"
        )


class EventFiles:
    """Event files in a folder; each start adds one."""

    def __init__(self, directory: Path, step: int) -> None:
        """What was written of steps after `step` belongs to a lost part: TensorBoard drops it."""
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(
            str(directory), purge_step=step + 1, max_queue=1, filename_suffix=f".{step + 1}"
        )

    def write(self, event: str, step: int, values: dict[str, float]) -> None:
        """Adds numbers of one step under `event/name`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{event}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()
