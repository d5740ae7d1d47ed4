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
import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Self

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

# Beyond this a JSON file or a safetensors header is an attack, not a configuration.
MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 20
# More digits than any integer of a configuration has: long ones take time by their square.
_MAX_DIGITS = 40
_MAX_DIMS = 16
MAX_TOKENIZER_BYTES = 64 << 20

# Keys of adapter_config.json that do not change the mathematics: where the base lay, who wrote it.
_VOLATILE_CONFIG_KEYS = frozenset(
    {"base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"}
)
# Of their keys the first that matches a module counts: their order changes the mathematics.
_ORDERED_CONFIG_KEYS = ("rank_pattern", "alpha_pattern")
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


class ArtifactError(ValueError):
    """An artifact, a store or a checkpoint is not what it should be. The message says where."""


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


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object; duplicate keys, non-finite numbers and lone surrogates are errors.

    Raises ArtifactError.
    """

    def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ArtifactError(f"{where}: duplicate key {shorten(key)}")
            found[key] = value
        return found

    def reject_constant(token: str) -> Any:
        raise ArtifactError(f"{where}: {token} is not a JSON number")

    def finite(token: str) -> float:
        number = float(token)
        return number if math.isfinite(number) else reject_constant(token[:80])

    def whole(token: str) -> int:
        if len(token) > _MAX_DIGITS:
            raise ArtifactError(f"{where}: {token[:_MAX_DIGITS]}... has {len(token)} digits")
        return int(token)

    try:
        data = json.loads(
            text,
            object_pairs_hook=reject_duplicates,
            parse_constant=reject_constant,
            parse_float=finite,
            parse_int=whole,
        )
        # An escape may hold half of a surrogate pair, which is no character anywhere else.
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{where}: must hold a JSON object")
    return data


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most MAX_JSON_BYTES. Raises ArtifactError."""
    return parse_json_object(read_text(path), path.name)


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A UTF-8 file of at most `max_bytes`. Raises ArtifactError."""
    try:
        with open_file(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ArtifactError(f"{path.name}: larger than {max_bytes} bytes")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path.name}: not UTF-8: {error}") from error
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from error


def open_file(path: Path) -> BufferedReader:
    """A regular file, open for reading. Raises ArtifactError for anything else, and OSError.

    Never waits: a pipe without a writer would take its reader along.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path.name}: not a regular file")
    return open(descriptor, "rb")


def shorten(value: object, max_chars: int = 80) -> str:
    """A value for a message, in quotes if it is text; not all of it if it is long."""
    if isinstance(value, str):
        # Before it is quoted: it may be very long.
        return repr(value[:max_chars]) + ("..." if len(value) > max_chars else "")
    text = repr(value)
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file: its bytes are file[begin:end]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


def read_safetensors_header(path: Path) -> list[TensorEntry]:
    """The tensors of a safetensors file, with every offset checked against the file's size.

    Reads the header only. Raises ArtifactError if the file is not safetensors, the header is
    over MAX_HEADER_BYTES, or sizes, offsets and shapes do not agree.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = take_safetensors_header(file, size, path.name)
            return parse_safetensors_header(header, size, path.name)
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from error


def take_safetensors_header(
    file: BinaryIO, size: int, where: str, max_bytes: int = MAX_HEADER_BYTES
) -> bytes:
    """The first bytes of a safetensors file of `size` bytes, up to where the tensors begin: at most
    `max_bytes`.

    Raises ArtifactError as `read_safetensors_header`, and OSError.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ArtifactError(f"{where}: not a safetensors file: {size} bytes")
    (length,) = struct.unpack("<Q", prefix)
    if length > size - 8:
        raise ArtifactError(
            f"{where}: not a safetensors file: header of {length} bytes in a file of {size}"
        )
    if length > max_bytes:
        raise ArtifactError(f"{where}: header of {length} bytes, at most {max_bytes} are read")
    header = file.read(length)
    if len(header) < length:
        raise ArtifactError(f"{where}: truncated")
    return prefix + header


def parse_safetensors_header(header: bytes, size: int, where: str) -> list[TensorEntry]:
    """The tensors that the `header` of a file of `size` bytes tells of, in the order of their
    bytes. Raises ArtifactError as `read_safetensors_header`."""
    try:
        text = header[8:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{where}: not a safetensors file: header is not UTF-8") from error
    data = parse_json_object(text, where)
    entries = [
        _entry(where, name, value, len(header), size)
        for name, value in data.items()
        if name != "__metadata__"
    ]
    entries.sort(key=lambda entry: entry.begin)
    position = len(header)
    for entry in entries:
        if entry.begin != position:
            raise ArtifactError(
                f"{where}: tensor {shorten(entry.name, 200)}: bytes overlap or leave a gap"
            )
        position = entry.end
    if position != size:
        raise ArtifactError(f"{where}: tensors end at byte {position}, the file at {size}")
    return entries


def _entry(where: str, name: str, value: Any, offset: int, size: int) -> TensorEntry:
    called = f"{where}: tensor {shorten(name, 200)}"
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{called}: malformed header entry") from error
    # By type: Python counts True as 1. No larger than the file, or their product has no end.
    if len(shape) > _MAX_DIMS or not all(
        type(n) is int and 0 <= n <= size for n in (*shape, begin, end)
    ):
        raise ArtifactError(f"{called}: malformed header entry")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise ArtifactError(f"{called}: unknown dtype {shorten(dtype)}")
    num_bytes = _DTYPE_BYTES[dtype] * math.prod(shape)
    if end - begin != num_bytes:
        raise ArtifactError(f"{called}: {end - begin} bytes, shape and dtype need {num_bytes}")
    return TensorEntry(name, dtype, shape, offset + begin, offset + end)


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
    for entry, blocks in tensors:
        digest.update(f"{entry.name}\0{entry.dtype}\0{list(entry.shape)}\0".encode())
        for block in blocks:
            digest.update(block)


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
