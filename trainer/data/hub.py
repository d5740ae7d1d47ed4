"""Reader of Hugging Face data sets, by name or local folder, with the library `datasets`."""

import dataclasses
import functools
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.config import DatasetConfig
from trainer.data.content import first_line
from trainer.data.row import Row
from trainer.errors import DataError
from trainer.writing import canonical

# What `save_to_disk` leaves in its folder; other folders hold data files for `load_dataset`.
_SAVED = ("state.json", "dataset_dict.json")


def without_folders(config: DatasetConfig) -> DatasetConfig:
    """`config` with a local folder by its name only."""
    folder = Path(config.dataset)
    return dataclasses.replace(config, dataset=folder.name) if folder.exists() else config


class HubSource:
    """One split of a data set; a row's number is counted from 1. Classes come as their names."""

    def __init__(self, config: DatasetConfig) -> None:
        """Loads it: what is on the hub is downloaded into that library's cache.

        Raises DataError if it cannot be loaded, or the library is not installed.
        """
        self.name = f"{config.dataset}[{config.split}]"
        self.label = f"{without_folders(config).dataset}[{config.split}]"
        self.position = 0
        self._data = self._load(config)
        self.size = len(self._data)
        self.num_bytes = self._data.data.nbytes
        self._class_names = {
            name: feature.names
            for name, feature in self._data.features.items()
            if type(feature).__name__ == "ClassLabel"
        }

    def rows(self) -> Iterator[Row]:
        """The rows of the split."""
        self.position = 0
        for fields in self._data:
            self.position += 1
            for column, names in self._class_names.items():
                index = fields[column]
                known = index is not None and 0 <= index < len(names)
                fields[column] = names[index] if known else None
            yield Row(fields, f"{self.name}:{self.position}")

    @functools.cache  # noqa: B019
    def sha256(self) -> str:
        """Of the rows as JSON: the same for the same rows, wherever they lie."""
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(canonical(row.fields).encode() + b"\n")
        return digest.hexdigest()

    def _load(self, config: DatasetConfig) -> Any:
        try:
            # By name, since it is no dependency.
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise DataError(
                f"data set {config.dataset!r} needs the package datasets: "
                "pip install 'understudy-suite[hub]'; or give a file"
            ) from error
        datasets.disable_progress_bars()
        try:
            if any(Path(config.dataset, name).is_file() for name in _SAVED):
                loaded = datasets.load_from_disk(config.dataset)
                if not isinstance(loaded, dict):
                    return loaded
                if config.split not in loaded:
                    raise ValueError(f"there are the splits {', '.join(sorted(loaded))}")
                return loaded[config.split]
            return datasets.load_dataset(
                config.dataset, config.config, split=config.split, revision=config.revision
            )
        except Exception as error:
            # The library raises what its many readers raise.
            raise DataError(
                f"data set {self.name!r} cannot be loaded: {first_line(error)}"
            ) from error
