"""Writes a model as a base's directory: what the server and transformers load."""

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from trainer import model

# Files beside the weights that make a base complete.
_KEPT_SUFFIXES = (".json", ".model", ".txt", ".jinja")


def write_base(
    trained: PreTrainedModel, base: Path, folder: Path, dtype: torch.dtype, leave: tuple[str, ...]
) -> None:
    """Writes `trained` as `dtype`, with the tokenizer of the base that it comes from byte for byte.

    Files named in `leave` belong to how that base was made, and are not copied.
    """
    trained.config.use_cache = AutoConfig.from_pretrained(base, local_files_only=True).use_cache
    with model.quiet():
        nn.Module.to(trained, dtype).save_pretrained(folder)
    for path in base.iterdir():
        is_kept = path.suffix in _KEPT_SUFFIXES and path.name not in ("config.json", *leave)
        if path.is_file() and is_kept and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes its file readable by the owner only
