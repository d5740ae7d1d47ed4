"""Gives a manifest to an adapter that was trained elsewhere, from what its folder and base say."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy.artifact import (
    ADDED_TOKEN_FILES,
    CONFIG_FILE,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    base_fingerprint,
    check_name,
    read_json_object,
    read_text,
    seal,
)
from understudy.prompt import PromptError, PromptTemplate

QUANTIZATIONS = ("none", "nf4", "int8")


@contextlib.contextmanager
def adopted(
    folder: Path,
    base: Path,
    name: str,
    *,
    template: Path | None = None,
    quantization: str = "none",
    adds_tokens: bool = False,
) -> Iterator[Path]:
    """A sealed copy of PEFT's `folder`, there as long as the context is.

    `base`: the model's directory that it was trained over, with `quantization`; its fingerprint
    keeps the adapter from being served over another one. `template`: a file with the Jinja text of
    its prompts. `adds_tokens`: its tokenizer's files belong to it.

    Raises ArtifactError naming the file and the field.
    """
    config = read_json_object(folder / CONFIG_FILE)
    method = config.get("peft_type")
    if not isinstance(method, str) or not method:
        raise ArtifactError(f"{folder / CONFIG_FILE}: no 'peft_type': it is no PEFT adapter's")
    manifest = Manifest(
        name=check_name(name),
        method=method.lower(),
        base_fingerprint=base_fingerprint(base),
        base_name=base.resolve().name,
        base_architecture=_architecture(base),
        quantization=quantization,
        rank=_count(config, "r"),
        num_virtual_tokens=_count(config, "num_virtual_tokens"),
        prompt_template=None if template is None else _template(template),
    )
    names = [CONFIG_FILE, TENSORS_FILE, *(ADDED_TOKEN_FILES if adds_tokens else ())]
    with tempfile.TemporaryDirectory(prefix="understudy-") as temporary:
        for file in names:
            if not (folder / file).is_file():
                raise ArtifactError(f"{folder}: holds no {file}")
            shutil.copyfile(folder / file, Path(temporary, file))
        seal(Path(temporary), manifest, adds_tokens=adds_tokens)
        yield Path(temporary)


def _architecture(base: Path) -> str:
    names = read_json_object(base / "config.json").get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _template(path: Path) -> str:
    text = read_text(path)
    try:
        PromptTemplate(text)
    except PromptError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return text
