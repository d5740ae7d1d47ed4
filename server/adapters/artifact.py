"""From an artifact directory to an adapter version that can run.

Reads `understudy.artifact`'s format, and plain PEFT directories. Everything about an artifact is
checked here or in the method's reader, before anything reaches the engine: an artifact is data
from elsewhere. Only safetensors is read, never pickle.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from server.adapters.added_tokens import (
    check_resized,
    max_tokenizer_bytes,
    read_added_tokens,
    resized,
    vocabulary_size,
    without_copies,
)
from server.adapters.classifier import take_classifier
from server.adapters.ia3 import read_ia3
from server.adapters.ln_tuning import read_ln_tuning
from server.adapters.lora import read_lora
from server.adapters.prefix import read_prefix
from server.adapters.soft_prompt import read_multitask_prompt, read_p_tuning, read_soft_prompt
from server.adapters.tensor_file import read_tensor_file
from server.adapters.trainable_tokens import read_trainable_tokens
from server.adapters.weights import AdapterWeights
from server.errors import AdapterMemoryError, AdapterRefusedError
from server.types import BaseInfo
from understudy.artifact import (
    ADDED_TOKEN_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    MAX_JSON_BYTES,
    TENSORS_FILE,
    TOKENIZER_FILE,
    ArtifactError,
    Manifest,
    check_content_hash,
    check_file_hashes,
    check_name,
    content_hash_of,
    parse_json_object,
    read_manifest,
    read_text,
)
from understudy.prompt import PromptTemplate
from understudy.store import version_of

Reader = Callable[[Mapping[str, Any], Mapping[str, Tensor], BaseInfo], AdapterWeights]

# PEFT's method name in lower case -> how to read its tensors.
READERS: dict[str, Reader] = {
    "lora": read_lora,
    "ia3": read_ia3,
    "ln_tuning": read_ln_tuning,
    "trainable_tokens": read_trainable_tokens,
    "prompt_tuning": read_soft_prompt,
    "p_tuning": read_p_tuning,
    "multitask_prompt_tuning": read_multitask_prompt,
    "prefix_tuning": read_prefix,
}
# Methods whose update PEFT can turn into a low-rank one.
CONVERTIBLE = frozenset(
    {
        "c3a", "delora", "fourierft", "gralora", "hira", "loha", "lokr", "miss", "psoft",
        "randlora", "shira", "tinylora", "unilora", "vblora", "vera", "waveft",
    }
)  # fmt: skip
# A header costs time with every tensor that it names, however small.
_HEADER_BYTES, _HEADER_BYTES_PER_MODULE = 64 << 10, 4 << 10
_PICKLE_FILES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable version of one adapter, in host memory."""

    name: str
    version: str
    method: str
    weights: AdapterWeights
    template: PromptTemplate | None
    manifest_json: str
    """`understudy.json` as it was read; empty for a plain PEFT directory."""
    directory: Path
    """Where it was read from, and where its sidecars lie."""
    base_fingerprint: str
    """Base it was trained on; empty where a plain PEFT directory does not say."""
    trained_quantization: str
    """Quantization of the base while training; empty where unknown."""
    warnings: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors in host memory."""
        return self.weights.size_bytes

    @property
    def rank(self) -> int:
        """Largest LoRA rank; 0 without LoRA."""
        return self.weights.rank

    @property
    def num_virtual_tokens(self) -> int:
        """Positions of the context the adapter takes."""
        return self.weights.num_virtual_tokens


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """What an artifact may be at most."""

    max_bytes: int
    """Bytes of the tensor file."""
    max_lora_rank: int
    """Largest rank that the engine's device slots hold."""
    max_host_bytes: int
    """Bytes of host memory for all adapters together."""


def load_artifact(
    directory: Path,
    base: BaseInfo,
    limits: ArtifactLimits,
    name: str,
    root: Path | None = None,
    breathe: Callable[[], None] = lambda: None,
) -> AdapterVersion:
    """Reads and checks the artifact in `directory`; it will serve as `name`. `breathe` is called
    every so often, and may take its time.

    Every file must lie below `root` after resolving symlinks (default: `directory` itself).
    Raises AdapterRefusedError with the reason, and AdapterMemoryError before it reads tensors that
    could never fit; messages name files, never their paths.
    """
    try:
        check_name(name)
        inside = (root or directory).resolve()
        _check_files(directory, inside)
        return _load(directory, inside, base, limits, name, breathe)
    except ArtifactError as error:
        raise AdapterRefusedError(str(error)) from error
    except OSError as error:
        raise AdapterRefusedError(f"its files cannot be read: {error.strerror}") from error


def _check_files(directory: Path, root: Path) -> None:
    if not directory.is_dir():
        raise AdapterRefusedError("source: no such directory")
    for file_name in (CONFIG_FILE, TENSORS_FILE, MANIFEST_FILE):
        _check_file(directory / file_name, root)
    if not (directory / TENSORS_FILE).exists():
        for pickle_name in _PICKLE_FILES:
            if (directory / pickle_name).exists():
                raise AdapterRefusedError(
                    f"{pickle_name}: pickle files are never read; save the adapter as "
                    f"{TENSORS_FILE} (PEFT: save_pretrained(..., safe_serialization=True))"
                )
        raise AdapterRefusedError(f"{TENSORS_FILE}: missing")
    if not (directory / CONFIG_FILE).exists():
        raise AdapterRefusedError(f"{CONFIG_FILE}: missing")


def _check_file(path: Path, root: Path) -> None:
    # realpath, unlike Path.resolve, takes a link that leads to itself.
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        raise AdapterRefusedError(f"{path.name}: a symbolic link leads outside of the folder")
    if path.exists() and not path.is_file():
        raise AdapterRefusedError(f"{path.name}: not a regular file")


def _load(
    directory: Path,
    root: Path,
    base: BaseInfo,
    limits: ArtifactLimits,
    name: str,
    breathe: Callable[[], None],
) -> AdapterVersion:
    config_text = read_text(directory / CONFIG_FILE)
    config = parse_json_object(config_text, CONFIG_FILE)
    method = _method(config)
    sealed = read_manifest(directory)
    manifest = sealed or Manifest(
        name=name,
        method=method,
        base_fingerprint=base.fingerprint,
        base_name=base.name,
        base_architecture=base.architecture,
        quantization="",
    )
    if sealed is not None:
        _check_manifest(sealed, method, base)
    file = read_tensor_file(
        directory / TENSORS_FILE,
        max_bytes=limits.max_bytes,
        max_header_bytes=_max_header_bytes(base),
        check_size=partial(_check_size, name, limits),
        pin_memory=base.device.startswith("cuda"),
        breathe=breathe,
    )
    num_tokens = vocabulary_size(file.tensors, base)
    texts = {}
    if num_tokens > base.vocab_size or sealed is not None:
        adds_tokens = num_tokens > base.vocab_size
        texts = _tokenizer_texts(directory, root, base, sealed, adds_tokens=adds_tokens)
    hashes = {n: hashlib.sha256(text.encode()).hexdigest() for n, text in texts.items()}
    found_hash = content_hash_of(config, replace(manifest, files=hashes), file.by_name())
    if sealed is not None:
        # Of the bytes that are used, whatever happens to the files meanwhile.
        hashes[CONFIG_FILE] = hashlib.sha256(config_text.encode()).hexdigest()
        # The content hash covers all that is used of the tensor file, whose own hash, over the same
        # millions of bytes again, could only tell which file is at fault.
        is_sound = found_hash == sealed.content_hash and TENSORS_FILE in sealed.files
        hashes[TENSORS_FILE] = sealed.files[TENSORS_FILE] if is_sound else file.sha256
        check_file_hashes(replace(sealed, files=dict.fromkeys(hashes, "") | sealed.files), hashes)
        check_content_hash(sealed, found_hash)
    file.check_finite()
    weights = _labelled(read_weights(method, config, file.tensors, base), manifest)
    breathe()
    if num_tokens > base.vocab_size:
        vocabulary = read_added_tokens(texts, base, num_tokens)
        weights = replace(weights, vocabulary=vocabulary)
        breathe()
    _check_limits(weights, manifest, limits)
    return AdapterVersion(
        name=name,
        version=version_of(found_hash),
        method=method,
        weights=weights,
        template=PromptTemplate(manifest.prompt_template) if manifest.prompt_template else None,
        manifest_json=sealed.to_json() if sealed is not None else "",
        directory=directory,
        base_fingerprint=sealed.base_fingerprint if sealed is not None else "",
        trained_quantization=manifest.quantization,
        warnings=_warnings(sealed, base, name, weights),
    )


def read_weights(
    method: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's configuration and tensors of a method in `READERS`, its classifier with them.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    config, tensors, classifier = take_classifier(config, tensors, base)
    num_tokens = vocabulary_size(tensors, base)
    adds_tokens = num_tokens > base.vocab_size
    if adds_tokens:
        tensors = without_copies(tensors, base)
    fitting = resized(base, num_tokens) if adds_tokens else base
    weights = READERS[method](config, tensors, fitting)
    if classifier is not None:
        weights = replace(weights, classifier=classifier)
    if adds_tokens:
        check_resized(weights, base, num_tokens)
    return weights


def _tokenizer_texts(
    directory: Path, root: Path, base: BaseInfo, sealed: Manifest | None, *, adds_tokens: bool
) -> dict[str, str]:
    """The tokenizer's files that belong to the adapter, by name: those that its manifest lists,
    and those of a plain PEFT directory."""
    texts = {}
    for name in ADDED_TOKEN_FILES:
        path = directory / name
        if sealed is None and not os.path.lexists(path):
            continue
        if sealed is not None and name not in sealed.files:
            if adds_tokens and os.path.lexists(path):
                raise AdapterRefusedError(
                    f"{name}: {MANIFEST_FILE} does not list it, and {TENSORS_FILE} adds tokens; "
                    "seal the artifact with adds_tokens=True, or remove the file"
                )
            continue
        _check_file(path, root)
        most = max_tokenizer_bytes(base) if name == TOKENIZER_FILE else MAX_JSON_BYTES
        texts[name] = read_text(path, most)
    return texts


def _labelled(weights: AdapterWeights, manifest: Manifest) -> AdapterWeights:
    """With the names that the manifest has for the classifier's labels."""
    classifier, labels = weights.classifier, tuple(manifest.labels)
    if not labels:
        return weights
    if classifier is None or len(classifier.labels) != len(labels):
        count = 0 if classifier is None else len(classifier.labels)
        raise AdapterRefusedError(
            f"{MANIFEST_FILE}: names {len(labels)} labels, the tensors have {count}"
        )
    return replace(weights, classifier=replace(classifier, labels=labels))


def _max_header_bytes(base: BaseInfo) -> int:
    """Several times what the tensors of an adapter for this base need."""
    num_modules = len(base.linear_shapes) + len(base.norms) + 2
    return _HEADER_BYTES + num_modules * _HEADER_BYTES_PER_MODULE


def _check_size(name: str, limits: ArtifactLimits, needed: int) -> None:
    if needed > limits.max_host_bytes:
        raise AdapterMemoryError(
            f"adapter {name!r} needs {needed} bytes; this server holds {limits.max_host_bytes} "
            "for all adapters"
        )


def _method(config: Mapping[str, Any]) -> str:
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str) or not peft_type:
        raise AdapterRefusedError(f"{CONFIG_FILE}: field 'peft_type' must be a string")
    method = peft_type.lower()
    if method not in READERS:
        hint = "; convert it to LoRA with peft.convert_to_lora" if method in CONVERTIBLE else ""
        raise AdapterRefusedError(
            f"{CONFIG_FILE}: peft_type {peft_type[:80]!r} is not served; this server runs "
            f"{', '.join(READERS)}{hint}"
        )
    return method


def _check_manifest(manifest: Manifest, method: str, base: BaseInfo) -> None:
    check_name(manifest.name, f"{MANIFEST_FILE}: name")
    if manifest.method != method:
        raise AdapterRefusedError(
            f"{MANIFEST_FILE}: method is {manifest.method[:80]!r}, {CONFIG_FILE} says {method!r}"
        )
    if manifest.base_fingerprint != base.fingerprint:
        trained_on = manifest.base_name[:80] or "unknown"
        raise AdapterRefusedError(
            f"{MANIFEST_FILE}: trained on base {trained_on!r} with fingerprint "
            f"{manifest.base_fingerprint[:64]}, this server's base {base.name!r} has "
            f"{base.fingerprint}; serve that base or train the adapter again"
        )


def _check_limits(weights: AdapterWeights, manifest: Manifest, limits: ArtifactLimits) -> None:
    if weights.rank > limits.max_lora_rank:
        raise AdapterRefusedError(
            f"{CONFIG_FILE}: rank {weights.rank} is above this server's "
            f"max_lora_rank {limits.max_lora_rank}"
        )
    for what in ("rank", "num_virtual_tokens"):
        stated, found = getattr(manifest, what), getattr(weights, what)
        if stated and stated != found:
            raise AdapterRefusedError(
                f"{MANIFEST_FILE}: {what} is {stated}, the tensors have {found}"
            )


def _warnings(
    sealed: Manifest | None, base: BaseInfo, name: str, weights: AdapterWeights
) -> tuple[str, ...]:
    found: list[str] = []
    vocabulary = weights.vocabulary
    if vocabulary is not None and vocabulary.num_unnamed:
        found.append(
            f"{vocabulary.num_unnamed} of its {vocabulary.num_tokens - base.vocab_size} added "
            f"tokens have no text in a {TOKENIZER_FILE} beside it: they go by their ids alone"
        )
    if sealed is None:
        found.append(f"no {MANIFEST_FILE}: the base it was trained on could not be checked")
        return tuple(found)
    if sealed.quantization != base.quantization:
        found.append(
            f"trained on a base quantized {sealed.quantization!r}, served on {base.quantization!r}"
        )
    if sealed.name != name:
        found.append(f"its manifest calls it {sealed.name!r}")
    return tuple(found)
