"""The adapter artifact on disk: what the trainer writes and the server reads.

A directory with PEFT's two files and our manifest:

    adapter_config.json         PEFT's configuration
    adapter_model.safetensors   the tensors
    understudy.json             the manifest (this module)
    tokenizer.json, tokenizer_config.json
                                of an adapter that adds tokens to the base's vocabulary
    run.json, evals/*.json      sidecars: facts of the run and scores, outside the content hash

Token contract of trainer and server: a prompt's ids are `tokenizer(prompt)` with special tokens
added; a completion's ids are `tokenizer(completion)` without special tokens, then the
end-of-sequence id.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from understudy._reading import (
    MAX_HEADER_BYTES as MAX_HEADER_BYTES,
)
from understudy._reading import (
    MAX_JSON_BYTES as MAX_JSON_BYTES,
)
from understudy._reading import (
    ArtifactError as ArtifactError,
)
from understudy._reading import (
    TensorEntry as TensorEntry,
)
from understudy._reading import (
    open_file as open_file,
)
from understudy._reading import (
    parse_json_object as parse_json_object,
)
from understudy._reading import (
    parse_safetensors_header as parse_safetensors_header,
)
from understudy._reading import (
    read_json_object as read_json_object,
)
from understudy._reading import (
    read_safetensors_header as read_safetensors_header,
)
from understudy._reading import (
    read_text as read_text,
)
from understudy._reading import (
    shorten as shorten,
)
from understudy._reading import (
    take_safetensors_header as take_safetensors_header,
)
from understudy.prompt import PromptError, PromptTemplate

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "understudy.json"
MANIFEST_FORMAT = 1

# Of an adapter that adds tokens: which ids they have, and what ends a text. Part of the content
# hash where the manifest lists them.
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADDED_TOKEN_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)

_HASHED_FILES = (CONFIG_FILE, TENSORS_FILE, *ADDED_TOKEN_FILES)

# Adapter and alias names: one path component, lower case, so that look-alikes cannot differ.
NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
# Requests and reports use this name for the model without an adapter.
BASE_NAME = "base"
MAX_TOKENIZER_BYTES = 64 << 20

# Keys of adapter_config.json that do not change the mathematics: where the base lay, who wrote it.
_VOLATILE_CONFIG_KEYS = frozenset(
    {"base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"}
)
# Of their keys the first that matches a module counts: their order changes the mathematics.
_ORDERED_CONFIG_KEYS = ("rank_pattern", "alpha_pattern")
_HASHED_AT_ONCE = 1 << 18
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Manifest:
    """`understudy.json`: what an adapter is and what it was trained on."""

    name: str
    method: str
    """PEFT's method name in lower case: `lora`, `prompt_tuning`, ..."""
    base_fingerprint: str
    base_name: str
    base_architecture: str
    quantization: str
    """Quantization of the base while training: `nf4`, `int8` or `none`."""
    rank: int = 0
    num_virtual_tokens: int = 0
    prompt_template: str | None = None
    token_ids: dict[str, int | None] = field(default_factory=dict)
    """Ids of `bos`, `eos` and `pad` at training time."""
    labels: list[str] = field(default_factory=list)
    """Names of a classification head's labels, in its order. Empty: LABEL_0, LABEL_1, ..."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each hashed file, by name."""
    content_hash: str = ""
    format: int = MANIFEST_FORMAT

    def to_json(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST_FILE) -> Self:
        """Parses a manifest. Raises ArtifactError naming `where`, the field and the fault."""
        return cls.from_object(parse_json_object(text, where), where)

    @classmethod
    def from_object(cls, data: dict[str, Any], where: str = MANIFEST_FILE) -> Self:
        """The manifest in a JSON object, whose defaults are filled in. Raises as `from_json`."""
        if data.get("format") != MANIFEST_FORMAT:
            raise ArtifactError(
                f"{where}: format is {shorten(data.get('format'))}, this version reads "
                f"{MANIFEST_FORMAT}"
            )
        known = {f.name: f for f in fields(cls)}
        for key in data:
            if key not in known:
                raise ArtifactError(f"{where}: unknown field {shorten(key)}")
        required = ("name", "method", "base_fingerprint", "content_hash", "quantization")
        for key in required:
            if not isinstance(data.get(key), str) or not data[key]:
                raise ArtifactError(f"{where}: field {key!r} must be a non-empty string")
        for key in ("base_name", "base_architecture"):
            if not isinstance(data.setdefault(key, ""), str):
                raise ArtifactError(f"{where}: field {key!r} must be a string")
        for key in ("rank", "num_virtual_tokens"):
            value = data.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ArtifactError(f"{where}: field {key!r} must be a number from 0")
        for key in ("files", "token_ids"):
            if not isinstance(data.get(key, {}), dict):
                raise ArtifactError(f"{where}: field {key!r} must be an object")
        labels = data.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(x, str) and x for x in labels):
            raise ArtifactError(f"{where}: field 'labels' must be a list of non-empty strings")
        template = data.get("prompt_template")
        if template is not None:
            if not isinstance(template, str):
                raise ArtifactError(f"{where}: field 'prompt_template' must be a string")
            try:
                PromptTemplate(template)
            except PromptError as error:
                raise ArtifactError(f"{where}: {error}") from error
        return cls(**data)


def check_name(name: str, what: str = "adapter name") -> str:
    """`name`, if it may name an adapter or alias; raises ArtifactError otherwise."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise ArtifactError(
            f"{what} {name[:80]!r} is not allowed: use 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning and ending with a letter or digit, without '..'"
        )
    if name == BASE_NAME:
        raise ArtifactError(f"{what} {BASE_NAME!r} is reserved for the model without an adapter")
    return name


def sha256_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(directory: Path, manifest: Manifest) -> str:
    """The content hash of a version, in hex: what makes two adapters the same adapter.

    Covers adapter_config.json (keys sorted, without those that only say where the base lay), the
    tensors, the prompt template, the base fields, and the tokenizer's files that the manifest
    lists. Names, sidecars and times are outside.
    """
    path = directory / TENSORS_FILE
    config = read_json_object(directory / CONFIG_FILE)
    with open_file(path) as file:
        tensors = ((e, _blocks(file, e.begin, e.end)) for e in _by_name(path))
        return content_hash_of(config, manifest, tensors)


def content_hash_of(
    config: Mapping[str, Any],
    manifest: Manifest,
    tensors: Iterable[tuple[TensorEntry, Iterable[bytes | memoryview]]],
) -> str:
    """The content hash of what was read already: the configuration, and the tensors sorted by
    name, each with its bytes."""
    canonical = {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
    digest = hashlib.sha256()
    for part in (
        json.dumps(canonical, sort_keys=True),
        json.dumps(manifest.prompt_template),
        manifest.base_fingerprint,
        manifest.quantization,
        *([json.dumps(manifest.labels)] if manifest.labels else []),
        *_orders(config),
        *(f"{n}\0{manifest.files[n]}" for n in ADDED_TOKEN_FILES if n in manifest.files),
    ):
        digest.update(hashlib.sha256(part.encode()).digest())
    _hash_tensors(digest, tensors)
    return digest.hexdigest()


def _orders(config: Mapping[str, Any]) -> Iterator[str]:
    """The order of keys, where it matters and is not the sorted one, in which PEFT writes them."""
    for key in _ORDERED_CONFIG_KEYS:
        value = config.get(key)
        if isinstance(value, dict) and list(value) != sorted(value):
            yield json.dumps([key, list(value)])


def base_fingerprint(directory: Path) -> str:
    """sha256 of a base checkpoint: its tensors by name, and its tokenizer's files.

    `directory` is an ordinary model directory with safetensors weights. Sharding does not matter.
    Raises ArtifactError if there are no safetensors files.
    """
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ArtifactError(f"{directory}: holds no *.safetensors weights")
    digest = hashlib.sha256()
    entries = sorted(
        ((entry, path) for path in weights for entry in _by_name(path)),
        key=lambda pair: pair[0].name,
    )
    for entry, path in entries:
        with path.open("rb") as file:
            _hash_tensors(digest, [(entry, _blocks(file, entry.begin, entry.end))])
    for name in _TOKENIZER_FILES:
        if (directory / name).is_file():
            digest.update(f"{name}\0{sha256_file(directory / name)}\n".encode())
    return digest.hexdigest()


def _by_name(path: Path) -> list[TensorEntry]:
    return sorted(read_safetensors_header(path), key=lambda entry: entry.name)


def _hash_tensors(
    digest: "hashlib._Hash", tensors: Iterable[tuple[TensorEntry, Iterable[bytes | memoryview]]]
) -> None:
    # Many tensors are small, and each call costs what hashing some thousand bytes does.
    pieces: list[bytes | memoryview] = []
    size = 0
    for entry, blocks in tensors:
        pieces.append(f"{entry.name}\0{entry.dtype}\0{list(entry.shape)}\0".encode())
        for block in blocks:
            pieces.append(block)
            size += len(block)
            if size >= _HASHED_AT_ONCE:
                digest.update(b"".join(pieces))
                pieces.clear()
                size = 0
    digest.update(b"".join(pieces))


def _blocks(file: BinaryIO, begin: int, end: int, block_bytes: int = 1 << 20) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end:
        block = file.read(min(block_bytes, end - begin))
        if not block:
            raise ArtifactError("a tensor file was truncated while it was read")
        begin += len(block)
        yield block


def seal(directory: Path, manifest: Manifest, *, adds_tokens: bool = False) -> Manifest:
    """Writes understudy.json for `directory`'s files and returns it with its hashes filled in.

    `adds_tokens`: the adapter adds tokens to the base's vocabulary, so that the tokenizer's files
    beside it belong to it.
    """
    names = [CONFIG_FILE, TENSORS_FILE]
    if adds_tokens:
        names += [name for name in ADDED_TOKEN_FILES if (directory / name).is_file()]
    listed = replace(manifest, files={name: sha256_file(directory / name) for name in names})
    sealed = replace(listed, content_hash=content_hash(directory, listed))
    (directory / MANIFEST_FILE).write_text(sealed.to_json(), encoding="utf-8")
    return sealed


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of an artifact, or None for a plain PEFT directory. Raises ArtifactError."""
    path = directory / MANIFEST_FILE
    return Manifest.from_json(read_text(path)) if path.exists() else None


def read_facts(directory: Path) -> Manifest:
    """The manifest without the template, whose compiling takes most of the time: for lists.

    Raises ArtifactError, also where there is no manifest.
    """
    data = read_json_object(directory / MANIFEST_FILE)
    return Manifest.from_object({**data, "prompt_template": None})


def verify(directory: Path) -> Manifest:
    """Re-hashes an artifact against its manifest. Raises ArtifactError naming what differs."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise ArtifactError(
            f"holds no {MANIFEST_FILE}" if directory.is_dir() else "no such directory"
        )
    listed = [name for name in _HASHED_FILES if name in manifest.files]
    for name in listed:
        if not (directory / name).is_file():
            raise ArtifactError(f"{name}: missing")
    # Its header is cheap to check, and a file that is none may have any size.
    read_safetensors_header(directory / TENSORS_FILE)
    check_file_hashes(manifest, {name: sha256_file(directory / name) for name in listed})
    check_content_hash(manifest, content_hash(directory, manifest))
    return manifest


def check_file_hashes(manifest: Manifest, found: Mapping[str, str]) -> None:
    """Raises ArtifactError unless the files have the sha256 of the manifest; `found` has them by
    name, in hex."""
    unexpected = next((n for n in manifest.files if n not in _HASHED_FILES), None)
    if unexpected is not None:
        raise ArtifactError(f"{MANIFEST_FILE}: unexpected file {shorten(unexpected)}")
    for name, expected in manifest.files.items():
        if found[name] != expected:
            raise ArtifactError(f"{name}: sha256 differs from the manifest")


def check_content_hash(manifest: Manifest, found: str) -> None:
    """Raises ArtifactError unless the content has the hash of the manifest."""
    if found != manifest.content_hash:
        raise ArtifactError(f"{MANIFEST_FILE}: content hash differs from the files")
