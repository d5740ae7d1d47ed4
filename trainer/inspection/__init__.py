"""What an adapter is: its tensors by the layer they change, how much, and what it says in words."""

import math
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from trainer import model
from trainer.errors import InputError
from trainer.inputs import check_base
from trainer.inspection.layers import BaseTensors, Layer, layer_of, prefix_layers, split_name
from trainer.inspection.words import (
    TOKENS,
    TrainedToken,
    VirtualToken,
    trained_tokens,
    virtual_tokens,
)
from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    base_fingerprint,
    read_json_object,
    read_safetensors_header,
    verify,
)

__all__ = ["Inspection", "Layer", "inspect"]

PROMPT = "prompt_embeddings"


@dataclass(frozen=True)
class Inspection:
    """All of it."""

    name: str
    method: str
    manifest: dict[str, Any] | None
    """Without the template's text; None for a plain PEFT folder."""
    size_bytes: int
    num_parameters: int
    dtypes: tuple[str, ...]
    layers: tuple[Layer, ...]
    virtual_tokens: tuple[VirtualToken, ...]
    median_word_norm: float | None
    """Of the vocabulary's embeddings, to compare virtual tokens with."""
    trained_tokens: tuple[TrainedToken, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def inspect(adapter: Path, base: Path, top: int = 5) -> Inspection:
    """Looks at the adapter at `adapter`, trained on `base`; `top` words per virtual token.

    Raises InputError if it is damaged or for another base.
    """
    check_base(base)
    try:
        manifest = verify(adapter) if (adapter / MANIFEST_FILE).exists() else None
        config = read_json_object(adapter / CONFIG_FILE)
        entries = read_safetensors_header(adapter / TENSORS_FILE)
        weights = BaseTensors(base)
        fingerprint = base_fingerprint(base) if manifest is not None else ""
    except (ArtifactError, OSError) as error:
        raise InputError(f"{adapter}: {error}") from error
    if manifest is not None and manifest.base_fingerprint != fingerprint:
        raise InputError(
            f"adapter {manifest.name!r} was trained on base {manifest.base_name!r} with "
            f"fingerprint {manifest.base_fingerprint}; --base has {fingerprint}"
        )
    stored = load_file(adapter / TENSORS_FILE)
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    prompt = tensors.pop(PROMPT, None)
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in sorted(tensors):
        module, part = split_name(name)
        groups[module][part] = tensors[name]
    method = str(config.get("peft_type", "")).lower()
    tokenizer = words = None
    if prompt is not None or any(TOKENS in part for parts in groups.values() for part in parts):
        tokenizer = model.load_tokenizer(base)
        words = weights.get(_words_name(base))
    spoken = prompt is not None and words is not None and prompt.shape[1] == words.shape[1]
    return Inspection(
        name=adapter.name if manifest is None else manifest.name,
        method=method,
        manifest=_facts(manifest),
        size_bytes=(adapter / TENSORS_FILE).stat().st_size,
        num_parameters=sum(math.prod(entry.shape) for entry in entries),
        dtypes=tuple(sorted({entry.dtype for entry in entries})),
        layers=tuple(
            layer_of(module, parts, config, weights)
            for module, parts in sorted(groups.items(), key=lambda item: _natural(item[0]))
        )
        + (() if prompt is None or spoken else prefix_layers(prompt, config)),
        virtual_tokens=()
        if prompt is None
        else virtual_tokens(prompt, words if spoken else None, tokenizer, top),
        median_word_norm=float(words.norm(dim=1).median())
        if spoken and words is not None
        else None,
        trained_tokens=tuple(trained_tokens(groups, config, words, tokenizer)),
    )


def _facts(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    facts = asdict(manifest)
    del facts["prompt_template"]
    return facts


def _natural(text: str) -> list[Any]:
    """A key that sorts layer 10 behind layer 9."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", text)]


def _words_name(base: Path) -> str:
    """Name of the word embeddings' weight."""
    config = model.read_config(base)
    task = "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
    outline = model.load_outline(base, task)
    words = outline.get_input_embeddings()
    name = next(name for name, module in outline.named_modules() if module is words)
    return f"{name}.weight"
