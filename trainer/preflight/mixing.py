"""The tasks of a run as its training and validation examples."""

from collections.abc import Sequence

from trainer.config import MixtureConfig, TrainConfig
from trainer.errors import DataError
from trainer.mixture import Mixture, apportion, rates
from trainer.preflight.encoding import TaskTokens
from trainer.tasks import Task


def mix(
    config: TrainConfig, tasks: Sequence[Task], encoded: Sequence[TaskTokens]
) -> tuple[Mixture, Mixture]:
    """Training examples at the rates of `data.mixture`, and all validation examples.

    Raises DataError if a task has no example, or is never shown.
    """
    settings = config.data.mixture or MixtureConfig()
    names = [task.name for task in tasks]
    sizes = [len(of.train) for of in encoded]
    for name, size in zip(names, sizes, strict=True):
        if not size:
            of = f"task {name!r}" if name else "data.train"
            raise DataError(f"{of}: no example is left to train on")
    shares = rates(sizes, [task.weight for task in tasks], settings)
    counts = apportion(shares, settings.examples_per_epoch or sum(sizes))
    if 0 in counts:
        name = names[counts.index(0)]
        raise DataError(
            f"task {name!r}: at its rate an epoch would show none of its examples; raise its "
            "weight, or data.mixture.examples_per_epoch"
        )
    train = Mixture([(n, of.train) for n, of in zip(names, encoded, strict=True)], counts)
    validation = Mixture([(n, of.validation) for n, of in zip(names, encoded, strict=True)])
    return train, validation
