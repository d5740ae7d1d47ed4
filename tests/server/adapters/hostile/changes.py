"""What can be done to an artifact: each gives a function that does it to a folder."""

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    seal,
    sha256_file,
)

Change = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


def reseal(directory: Path, **values: Any) -> None:
    """Seals again with other fields: the hashes are right, the content is not."""
    path = directory / MANIFEST_FILE
    data = {**json.loads(path.read_text()), **values}
    try:
        seal(directory, Manifest(**data))
    except (ArtifactError, ValueError):
        files = {name: sha256_file(directory / name) for name in (CONFIG_FILE, TENSORS_FILE)}
        path.write_text(json.dumps(data | {"files": files}))


def setting(of: str = "lora", **values: Any) -> tuple[str, Change]:
    def change(directory: Path) -> None:
        path = directory / CONFIG_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        method = values.get("peft_type")
        reseal(directory, **({"method": method.lower()} if isinstance(method, str) else {}))

    return of, change


def texts(file: str, text: str | bytes) -> Change:
    def change(directory: Path) -> None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (directory / file).write_bytes(data)
        if file != MANIFEST_FILE:
            reseal(directory)

    return change


def sealed(**values: Any) -> Change:
    """The manifest with other fields, sealed."""
    return lambda directory: reseal(directory, **values)


def forged(**values: Any) -> Change:
    """The manifest with other fields, as they are."""

    def change(directory: Path) -> None:
        path = directory / MANIFEST_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def weights(change_to: Callable[[Tensors], object], of: str = "lora") -> tuple[str, Change]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / TENSORS_FILE)
        change_to(tensors)
        save_file(tensors, directory / TENSORS_FILE, metadata={"format": "pt"})
        reseal(directory)

    return of, change


def fill(name: str, index: int, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[index].fill_(value)


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


def header(content: object, num_bytes: int = 0) -> Change:
    """A tensor file with this header, and so many bytes behind it."""

    def change(directory: Path) -> None:
        data = content if isinstance(content, str) else json.dumps(content)
        raw = data.encode("utf-8", "surrogatepass") if isinstance(content, str) else data.encode()
        raw = struct.pack("<Q", len(raw)) + raw + bytes(num_bytes)
        (directory / TENSORS_FILE).write_bytes(raw)
        reseal(directory)

    return change


def entry(**fields: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def edit(changed: Callable[[bytes], bytes], file: str = TENSORS_FILE) -> Change:
    """The bytes of a file changed behind the manifest's back."""

    def change(directory: Path) -> None:
        (directory / file).write_bytes(changed((directory / file).read_bytes()))

    return change


def instead(file: str, make: Callable[[Path], object]) -> Change:
    """Something else in the place of a file."""

    def change(directory: Path) -> None:
        (directory / file).unlink()
        make(directory / file)

    return change


class Bomb:
    """Says so where somebody reads a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Ends the process that reads it."""
        return os._exit, (77,)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1 << 24))


def link_out(path: Path) -> None:
    outside = path.parent.parent.parent / f"outside-{path.name}"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def link_up(path: Path) -> None:
    path.symlink_to(Path("../" * 12) / "etc/passwd")


def many(count: int) -> str:
    """A header with many tensors that take no bytes."""
    entries = (f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    return "{" + ",".join(entries) + "}"


def large(value: float) -> Callable[[Tensors], object]:
    """Numbers that fit the base's type one by one, and overflow together."""
    return lambda tensors: [tensor.fill_(value) for tensor in tensors.values()]
