"""Artifacts from a stranger, by name: what is done to a sound one, and what the refusal says.

One table for the tests of the reader, of a running server, and of the client's own store.
"""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import lora_config, make_adapter, prompt_config
from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    seal,
    sha256_file,
)

MAX_BYTES = 1 << 24
"""Of the tensor file, as the servers of these tests are configured."""
PREFIX = "base_model.model.model.layers.0.self_attn."
Change = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """`change` makes the sound artifact `of` hostile; the refusal `says` so."""

    change: Change
    says: str
    of: str = "lora"
    by_client: bool = False
    """Whether the client's store refuses it too, which knows no base and no method."""


def make_originals(base: Path, folder: Path) -> dict[str, Path]:
    """A sound artifact of each kind that cases begin with."""
    targets = ["q_proj", "v_proj", "down_proj"]
    dora = peft.LoraConfig(r=2, use_dora=True, target_modules=targets, task_type="CAUSAL_LM")
    configs: dict[str, peft.PeftConfig] = {
        "lora": lora_config(),
        "dora": dora,
        "prompt": prompt_config(),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "tokens": peft.TrainableTokensConfig(token_indices=[3, 5], task_type="CAUSAL_LM"),
        "norms": peft.LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
        "ia3": peft.IA3Config(
            target_modules=targets, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
    }
    return {
        kind: make_adapter(base, folder / kind, config, name="mine", seed=seed)
        for seed, (kind, config) in enumerate(configs.items())
    }


def make(name: str, originals: Mapping[str, Path], directory: Path) -> Path:
    """The artifact of a case in a new `directory`."""
    case = (CASES | HARMLESS | UNUSABLE)[name]
    shutil.copytree(originals[case.of], directory)
    case.change(directory)
    return directory


def reseal(directory: Path, **values: Any) -> None:
    """Seals again with other fields: the hashes are right, the content is not."""
    path = directory / MANIFEST_FILE
    data = {**json.loads(path.read_text()), **values}
    try:
        seal(directory, Manifest(**data))
    except (ArtifactError, ValueError):
        files = {name: sha256_file(directory / name) for name in (CONFIG_FILE, TENSORS_FILE)}
        path.write_text(json.dumps(data | {"files": files}))


def _config(of: str = "lora", **values: Any) -> tuple[str, Change]:
    def change(directory: Path) -> None:
        path = directory / CONFIG_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        method = values.get("peft_type")
        reseal(directory, **({"method": method.lower()} if isinstance(method, str) else {}))

    return of, change


def _text(file: str, text: str | bytes) -> Change:
    def change(directory: Path) -> None:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (directory / file).write_bytes(data)
        if file != MANIFEST_FILE:
            reseal(directory)

    return change


def _manifest(**values: Any) -> Change:
    """The manifest with other fields, sealed."""
    return lambda directory: reseal(directory, **values)


def _forged(**values: Any) -> Change:
    """The manifest with other fields, as they are."""

    def change(directory: Path) -> None:
        path = directory / MANIFEST_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _tensors(edit: Callable[[Tensors], object], of: str = "lora") -> tuple[str, Change]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / TENSORS_FILE)
        edit(tensors)
        save_file(tensors, directory / TENSORS_FILE, metadata={"format": "pt"})
        reseal(directory)

    return of, change


def _set(name: str, index: int, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[index].fill_(value)


def _to(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


def _header(header: object, num_bytes: int = 0) -> Change:
    """A tensor file with this header, and so many bytes behind it."""

    def change(directory: Path) -> None:
        data = header if isinstance(header, str) else json.dumps(header)
        raw = data.encode("utf-8", "surrogatepass") if isinstance(header, str) else data.encode()
        content = struct.pack("<Q", len(raw)) + raw + bytes(num_bytes)
        (directory / TENSORS_FILE).write_bytes(content)
        reseal(directory)

    return change


def _entry(**fields: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def _bytes(edit: Callable[[bytes], bytes], file: str = TENSORS_FILE) -> Change:
    """The bytes of a file changed behind the manifest's back."""

    def change(directory: Path) -> None:
        (directory / file).write_bytes(edit((directory / file).read_bytes()))

    return change


def _instead(file: str, put: Callable[[Path], object]) -> Change:
    """Something else in the place of a file."""

    def change(directory: Path) -> None:
        (directory / file).unlink()
        put(directory / file)

    return change


class Bomb:
    """Says so where somebody reads a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Ends the process that reads it."""
        return os._exit, (77,)


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1 << 24))


def _link_out(path: Path) -> None:
    outside = path.parent.parent.parent / f"outside-{path.name}"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def _link_up(path: Path) -> None:
    path.symlink_to(Path("../" * 12) / "etc/passwd")


def _many(count: int) -> str:
    """A header with many tensors that take no bytes."""
    entries = (f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    return "{" + ",".join(entries) + "}"


_A, _B = f"{PREFIX}q_proj.lora_A.weight", f"{PREFIX}q_proj.lora_B.weight"
_MAGNITUDE = f"{PREFIX}q_proj.lora_magnitude_vector"
_FACTORS = f"{PREFIX}q_proj.ia3_l"
_ROWS = "base_model.model.model.embed_tokens.trainable_tokens_delta"
_NAN, _INF = float("nan"), float("inf")

# What is wrong with a file as such: seen before anybody asks what it means.
_FILES: dict[str, tuple[Change, str]] = {
    "pickle-in-disguise": (_bytes(lambda _: pickle.dumps(Bomb())), "not a safetensors file"),
    "torch-archive": (lambda d: torch.save({}, d / TENSORS_FILE), "not a safetensors file"),
    "zip-bomb": (_instead(TENSORS_FILE, _zip_bomb), "not a safetensors file"),
    "truncated-by-one": (_bytes(lambda data: data[:-1]), TENSORS_FILE),
    "truncated-in-the-header": (_bytes(lambda data: data[:100]), "not a safetensors file"),
    "empty": (_bytes(lambda _: b""), "not a safetensors file"),
    "seven-bytes": (_bytes(lambda data: data[:7]), "not a safetensors file"),
    "one-byte-more": (_bytes(lambda data: data + b"x"), TENSORS_FILE),
    "sparse-tebibyte": (lambda d: os.truncate(d / TENSORS_FILE, 1 << 40), TENSORS_FILE),
    "tampered-tensor": (_bytes(lambda d: d[:-1] + bytes([d[-1] ^ 1])), "sha256 differs"),
    "tampered-config": (_bytes(lambda d: d.replace(b'"r": 4', b'"r": 2'), CONFIG_FILE), "sha256"),
    "header-of-2-63": (_bytes(lambda d: struct.pack("<Q", 1 << 63) + d[8:]), "9223372036854775808"),
    "tensors-are-a-folder": (_instead(TENSORS_FILE, Path.mkdir), "not a regular file"),
    "tensors-are-a-pipe": (_instead(TENSORS_FILE, os.mkfifo), "not a regular file"),
    "config-is-a-pipe": (_instead(CONFIG_FILE, os.mkfifo), "not a regular file"),
    "config-is-a-folder": (_instead(CONFIG_FILE, Path.mkdir), "not a regular file"),
    "manifest-is-a-pipe": (_instead(MANIFEST_FILE, os.mkfifo), "not a regular file"),
    "pickle-by-name": (lambda d: (d / TENSORS_FILE).rename(d / "adapter_model.bin"), TENSORS_FILE),
    "no-config": (_instead(CONFIG_FILE, lambda _: None), f"{CONFIG_FILE}: missing"),
    "no-tensors": (_instead(TENSORS_FILE, lambda _: None), f"{TENSORS_FILE}: missing"),
    "link-to-itself": (
        _instead(TENSORS_FILE, lambda path: path.symlink_to(path.name)), f"{TENSORS_FILE}: missing",
    ),
    "header-gap": (_header(_entry(data_offsets=[4, 12]), 12), "overlap or leave a gap"),
    "header-overlap": (
        _header(_entry() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        "overlap or leave a gap",
    ),
    "offset-beyond-the-file": (_header(_entry(data_offsets=[0, 1 << 40]), 8), "malformed"),
    "offsets-reversed": (_header(_entry(data_offsets=[8, 0]), 8), "-8 bytes"),
    "offset-negative": (_header(_entry(data_offsets=[-8, 0]), 8), "malformed"),
    "offset-fraction": (_header(_entry(data_offsets=[0.0, 8.0]), 8), "malformed"),
    "dimension-true": (_header(_entry(shape=[True, 2]), 8), "malformed"),
    "dimension-negative": (_header(_entry(shape=[-1, -2]), 8), "malformed"),
    "dimensions-overflow": (_header(_entry(shape=[1 << 40, 1 << 40, 0]), 8), "malformed"),
    "dimensions-of-4000-digits": (
        _header('{"a":{"dtype":"F32","shape":[' + ",".join(["9" * 4000] * 20) + "]}}"), "digits",
    ),
    "a-thousand-dimensions": (_header(_entry(shape=[1] * 1000), 4), "malformed"),
    "shape-as-text": (_header(_entry(shape="ab"), 8), "malformed"),
    "dtype-unknown": (_header(_entry(dtype="F33"), 8), "unknown dtype 'F33'"),
    "dtype-is-a-list": (_header(_entry(dtype=["F32"]), 8), "unknown dtype"),
    "shape-and-bytes-differ": (_header(_entry(shape=[3]), 8), "shape and dtype need 12"),
    "entry-is-null": (_header({"a": None}), "malformed"),
    "header-of-spaces": (_header(" " * (15 << 20)), TENSORS_FILE),
    "header-is-a-list": (_header([]), "must hold a JSON object"),
    "header-nested": (_header('{"a":' + "[" * 50_000 + "]" * 50_000 + "}"), "not valid JSON"),
    "header-is-not-utf-8": (_header('{"\udcff": 1}'), "not UTF-8"),
    "tensor-name-of-half-a-pair": (_header('{"\\ud800": 1}'), "not valid JSON"),
    "tensor-name-twice": (_header('{"a": 1, "a": 2}'), "duplicate key 'a'"),
    "config-not-json": (_text(CONFIG_FILE, "r: 4"), "not valid JSON"),
    "config-is-a-list": (_text(CONFIG_FILE, "[]"), "must hold a JSON object"),
    "config-key-twice": (_text(CONFIG_FILE, '{"r": 4, "r": 8}'), "duplicate key 'r'"),
    "config-long-key-twice": (
        _text(CONFIG_FILE, "{" + ",".join([f'"{"k" * 100_000}": 1'] * 2) + "}"), "duplicate key",
    ),
    "config-nan": (_text(CONFIG_FILE, '{"r": NaN}'), "NaN is not a JSON number"),
    "config-infinity": (_text(CONFIG_FILE, '{"r": -Infinity}'), "-Infinity is not"),
    "config-1e999": (_text(CONFIG_FILE, '{"r": 1e999}'), "1e999 is not"),
    "config-long-integer": (_text(CONFIG_FILE, '{"r": ' + "9" * 100_000 + "}"), "100000 digits"),
    "config-nested": (_text(CONFIG_FILE, '{"r": ' + "[" * 400_000 + "}"), "not valid JSON"),
    "config-half-a-pair": (_text(CONFIG_FILE, '{"r": "\\udfff"}'), "not valid JSON"),
    "config-utf-16": (_text(CONFIG_FILE, '{"r": 4}'.encode("utf-16")), "not UTF-8"),
    "config-of-5-mib": (_text(CONFIG_FILE, " " * (5 << 20)), "larger than"),
    "manifest-not-json": (_text(MANIFEST_FILE, "\0"), "not valid JSON"),
    "manifest-nested": (_text(MANIFEST_FILE, '{"a":' * 100_000), "not valid JSON"),
    "manifest-key-twice": (_text(MANIFEST_FILE, '{"format": 1, "format": 1}'), "duplicate key"),
    "manifest-of-next-year": (_forged(format=2), "format is 2"),
    "manifest-long-format": (_forged(format="x" * 500_000), "format is 'xxx"),
    "manifest-field-unknown": (_forged(surprise=1), "unknown field 'surprise'"),
    "manifest-without-hash": (_forged(content_hash=""), "'content_hash' must be a non-empty"),
    "manifest-hash-tampered": (_forged(content_hash="0" * 64), "content hash differs"),
    "manifest-names-a-path": (_forged(files={"../../etc/passwd": "0"}), "unexpected file"),
    "manifest-hash-of-a-file": (_forged(files={TENSORS_FILE: "0" * 64}), "sha256 differs"),
    "manifest-files-are-a-list": (_forged(files=[1]), "'files' must be an object"),
    "manifest-rank-negative": (_forged(rank=-4), "'rank' must be a number from 0"),
    "manifest-quantization-number": (_forged(quantization=4), "'quantization' must be"),
    "template-tampered": (_forged(prompt_template="Obey. {{ input }}"), "content hash differs"),
    "template-is-a-number": (_forged(prompt_template=1), "'prompt_template' must be a string"),
    "template-broken": (_manifest(prompt_template="{{ input"), "prompt template, line 1"),
    "template-without-variable": (_manifest(prompt_template="Hi"), "names no variable"),
    "template-too-long": (_manifest(prompt_template="x" * 70_000), "70000 characters"),
    "template-of-many-parts": (_manifest(prompt_template="{{a}}" * 13_000), "39000 tokens"),
    "template-of-many-loops": (
        _manifest(prompt_template="{% for x in input %}" * 25 + "{% endfor %}" * 25),
        "too many statically nested blocks",
    ),
    "template-nested": (_manifest(prompt_template="{{" + "(" * 4000 + "input"), "recursion"),
    "template-long-integer": (_manifest(prompt_template="{{a}}{{" + "9" * 5000 + "}}"), "5000"),
    "template-twice-a-keyword": (_manifest(prompt_template="{{ input(b=1, b=2) }}"), "repeated"),
    "template-imports": (
        _manifest(prompt_template="{{ input }}{% import '/etc/passwd' as x %}"), "not allowed",
    ),
}  # fmt: skip


def _values(of: str, key: str, says: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Cases that give one key of the configuration other values."""
    return {
        f"{key.replace('_', '-')}-{name}": (*_config(of, **{key: value}), says)
        for name, value in values.items()
    }


# What only the server can tell: files that are whole, and mean what cannot be, or must not.
_MEANINGS: dict[str, tuple[str, Change, str]] = {
    **_values("lora", "r", "r ", {
        "negative": -4, "zero": 0, "true": True, "text": "4", "fraction": 4.5,
        "absurd": 10**30, "null": None, "list": [4],
    }),
    **_values("lora", "r", "has rank 4", {"off-by-one": 5, "above-the-limit": 2**31 - 1}),
    **_values("lora", "lora_alpha", "lora_alpha is not a number above 0", {
        "zero": 0, "negative": -8, "text": "8", "null": None, "true": True,
    }),
    **_values("lora", "lora_alpha", "overflows in float32", {"huge": 1e308, "long": 9 * 10**39}),
    **_values("lora", "rank_pattern", "rank_pattern", {
        "list": [1], "bomb": {"(a+)+$": 1}, "negative": {"q_proj": -1}, "text": {"q_proj": "4"},
        "broken": {"[": 1}, "many": {f"x{i}": 1 for i in range(30_000)}, 
        "look-back": {"(?<=a)b": 1}, "long": {"a" * 100_000: 1},
    }),
    **_values("lora", "alpha_pattern", "alpha_pattern", {
        "bomb": {".*.*.*.*x": 1}, "groups": {"(x|x)*y": 1}, "repeats": {"x{1000}{1000}": 1},
        "many": {f"x{i}": 1 for i in range(30_000)},
    }),
    **_values("lora", "target_modules", "target module", {
        "unknown": ["q_proj", "k_prоj"], "many": ["q_proj"] * 50_000 + ["nowhere"],
        "path": ["../../q_proj"], "number": [1],
    }),
    **_values("lora", "modules_to_save", "modules_to_save", {
        "many": [f"x{i}" for i in range(50_000)], "numbers": [1, 2], "text": "lm_head",
        "missing": ["lm_head"], "empty-name": [""],
    }),
    **_values("ia3", "feedforward_modules", "feedforward_modules", {
        "many": [f"x{i}" for i in range(50_000)], "pattern": "(a+)+$",
    }),
    **_values("lora", "peft_type", "peft_type", {
        "unserved": "BOFT", "null": None, "number": 7, "look-alike": "LОRA", "long": "L" * 100_000,
    }),
    **_values("lora", "task_type", "task_type", {"look-alike": "СAUSAL_LM", "list": ["CAUSAL_LM"]}),
    **_values("lora", "use_dora", "use_dora", {"untrue": True, "text": "no"}),
    **_values("lora", "bias", "bias", {"unknown": "some", "long": "x" * 100_000, "list": [[]]}),
    **_values("lora", "init_lora_weights", "init_lora_weights", {
        "pissa": "pissa", "long": "x" * 100_000,
    }),
    "target-parameters": (*_config(target_parameters=["x"]), "target_parameters"),
    "layer-replication": (*_config(layer_replication=[[0, 1]]), "layer_replication"),
    "key-unknown": (*_config(surprise=1), "key 'surprise' is unknown"),
    "key-long": (*_config("lora", **{"k" * 100_000: 1}), "is unknown"),
    "key-look-alike": (*_config(lora_аlpha=8), "is unknown"),
    "values-of-many-lists": (*_config(surprise=[[]] * 250_000), "key 'surprise' is unknown"),
    "method-of-the-manifest": ("lora", _manifest(method="ia3"), "method is 'ia3'"),
    "rank-of-the-manifest": ("lora", _manifest(rank=8), "rank is 8"),
    "tokens-of-the-manifest": ("prompt", _manifest(num_virtual_tokens=6), "_tokens is 6"),
    "name-look-alike": ("lora", _manifest(name="mіne"), "not allowed"),
    "name-of-the-base": ("lora", _manifest(name="base"), "reserved"),
    "name-is-a-path": ("lora", _manifest(name="../../mine"), "not allowed"),
    "name-long": ("lora", _manifest(name="a" * 100_000), "not allowed"),
    "base-wrong": ("lora", _manifest(base_fingerprint="f" * 64), "trained on base"),
    "base-long": ("lora", _manifest(base_fingerprint="f" * 100_000), "trained on base"),
    "header-bomb": ("lora", _header(_many(40_000)), "header of 2"),
    "header-of-one-long-name": (
        "lora", _header(json.dumps({"n" * 1_000_000: 1})), "header of 1000007 bytes",
    ),
    "many-tensors": ("lora", _header(_many(2000)), "unknown tensor"),
    "link-out-config": ("lora", lambda d: _link_out(d / CONFIG_FILE), "symbolic link leads"),
    "link-out-tensors": ("lora", lambda d: _link_out(d / TENSORS_FILE), "symbolic link leads"),
    "link-up": ("lora", _instead(TENSORS_FILE, _link_up), "symbolic link leads outside"),
    "link-to-a-device": (
        "lora", _instead(TENSORS_FILE, lambda path: path.symlink_to("/dev/zero")), "symbolic link",
    ),
    "tensor-nan": (*_tensors(_set(_A, 0, _NAN)), "NaN or infinity"),
    "tensor-infinity": (*_tensors(_set(_B, -1, _INF)), "NaN or infinity"),
    "tensor-one-row-more": (*_tensors(_to(_B, torch.ones(65, 4))), "shape [65, 4]"),
    "tensor-one-column-less": (*_tensors(_to(_A, torch.ones(4, 63))), "shape [4, 63]"),
    "tensor-ranks-differ": (*_tensors(_to(_B, torch.ones(64, 5))), "shape [64, 5]"),
    "tensor-turned": (*_tensors(_to(_A, torch.ones(64, 4))), "shape [64, 4]"),
    "tensor-empty": (*_tensors(_to(_A, torch.ones(0, 64))), "shape [0, 64]"),
    "tensor-three-dimensions": (*_tensors(_to(_A, torch.ones(4, 64, 1))), "shape [4, 64, 1]"),
    "tensor-without-dimensions": (*_tensors(_to(_A, torch.tensor(1.0))), "shape []"),
    "tensor-int8": (*_tensors(_to(_A, torch.ones(4, 64, dtype=torch.int8))), "torch.int8"),
    "tensor-bool": (*_tensors(_to(_A, torch.ones(4, 64, dtype=torch.bool))), "torch.bool"),
    "tensor-float8": (
        *_tensors(_to(_A, torch.ones(4, 64).to(torch.float8_e4m3fn))), "torch.float8_e4m3fn",
    ),
    "tensor-too-large-for-the-base": (
        *_tensors(_to(_A, torch.full((4, 64), 1e300, dtype=torch.float64))), "overflows",
    ),
    "tensor-missing": (*_tensors(lambda tensors: tensors.pop(_A)), "missing tensor"),
    "tensor-surplus": (*_tensors(_to("surprise", torch.ones(1))), "unknown tensor 'surprise'"),
    "tensor-name-look-alike": (
        *_tensors(_to(_A.replace("lora_A", "lorа_A"), torch.ones(4, 64))), "unknown tensor",
    ),
    "tensor-name-long": (*_tensors(_to("x" * 50_000, torch.ones(1))), "unknown tensor"),
    "tensor-of-no-layer": (
        *_tensors(_to(_A.replace(".0.", ".-1."), torch.ones(4, 64))), "has no linear",
    ),
    "no-tensors-at-all": (*_tensors(dict.clear), "holds no LoRA tensors"),
    "dora-magnitude-short": (*_tensors(_to(_MAGNITUDE, torch.ones(63)), "dora"), "shape [63]"),
    "dora-magnitude-nan": (*_tensors(_set(_MAGNITUDE, 0, _NAN), "dora"), "NaN or infinity"),
    "dora-magnitude-missing": (
        *_tensors(lambda tensors: tensors.pop(_MAGNITUDE), "dora"), "missing tensor",
    ),
    "dora-unsaid": (*_config("dora", use_dora=False), "use_dora"),
    "ia3-turned": (*_tensors(_to(_FACTORS, torch.ones(1, 64)), "ia3"), "shape [1, 64]"),
    "ia3-infinity": (*_tensors(_set(_FACTORS, 0, _INF), "ia3"), "NaN or infinity"),
    "norm-short": (
        *_tensors(_to("base_model.model.model.norm.ln_tuning_layers.weight", torch.ones(63)),
                  "norms"), "shape [63]",
    ),
    **_values("tokens", "token_indices", "token_indices", {
        "negative": [-1, 5], "beyond": [3, 320], "twice": [3, 3], "true": [True, 5], "text": "35",
        "huge": [3, 2**39], "many": list(range(100_000)),
    }),
    "tokens-one-row-less": (*_tensors(_to(_ROWS, torch.ones(1, 64)), "tokens"), "shape [1, 64]"),
    "prompt-narrow": (*_tensors(_to("prompt_embeddings", torch.ones(5, 63)), "prompt"), "[5, 63]"),
    "prompt-nan": (*_tensors(_set("prompt_embeddings", 7, _NAN), "prompt"), "NaN or infinity"),
    **_values("prompt", "num_virtual_tokens", "num_virtual_tokens", {
        "negative": -5, "zero": 0, "fills-the-context": 2048, "absurd": 10**30,
    }),
    "prompt-width": (*_config("prompt", token_dim=63), "token_dim 63"),
    "prompt-twice": (*_config("prompt", num_transformer_submodules=2), "submodules 2"),
    "prefix-one-token-less": (*_config("prefix", num_virtual_tokens=2), "shape [3,"),
    "prefix-layers": (*_config("prefix", num_layers=3), "num_layers 3"),
    "prefix-nan": (*_tensors(_set("prompt_embeddings", 1, _NAN), "prefix"), "NaN or infinity"),
}  # fmt: skip

CASES = {name: Case(change, says, by_client=True) for name, (change, says) in _FILES.items()} | {
    name: Case(change, says, of) for name, (of, change, says) in _MEANINGS.items()
}
"""Refused by the server, whatever way they come."""

_HARMLESS: dict[str, tuple[str, Change]] = {
    "target-modules-pattern-bomb": _config(target_modules="(a+)+$"),
    "exclude-modules-pattern-bomb": _config(exclude_modules="(a|a)*$"),
    "target-modules-repeated": _config(target_modules=["q_proj", "v_proj", "down_proj"] * 20_000),
    "dora-magnitude-zero": _tensors(_to(_MAGNITUDE, torch.zeros(64)), "dora"),
    "dora-magnitude-negative": _tensors(_to(_MAGNITUDE, -torch.ones(64)), "dora"),
    "zip-bomb-beside": ("lora", lambda d: _zip_bomb(d / "adapter_model.zip")),
    "pickle-beside": (
        "lora",
        lambda d: (d / "adapter_model.bin").write_bytes(pickle.dumps(Bomb())),
    ),
}
HARMLESS = {name: Case(change, "", of) for name, (of, change) in _HARMLESS.items()}
"""Look worse than they are: nothing reads what is bad about them."""

_TEMPLATES = {
    "endless-loops": ("{% for a in input %}" * 7 + "{% endfor %}" * 7, "rounds"),
    "output-doubles": (
        "{% set a = input ~ input %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "4000000",
    ),
    "joined": ("{{ input|join(input|join(input|join(input|join(input)))) }}", "4000000"),
    "calls-itself": ("{% for a in input recursive %}{{ loop(input) }}{% endfor %}", "recursion"),
    "escape": ("{{ input.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "escape-by-format": ("{{ '{0.__class__}'.format(input) }}", "unsafe"),
    "power": ("{{ input }}{{ 9**9**9**9 }}", "'**'"),
    "repeated-text": ("{{ input * 1000000000 }}", "'*'"),
    "division-by-zero": ("{{ input }}{{ 1 // 0 }}", "cannot be rendered"),
    "half-a-pair": ("{{ input }}{{ '\\ud800' }}", "surrogate"),
}


def _large(value: float) -> Callable[[Tensors], object]:
    """Numbers that fit the base's type one by one, and overflow together."""
    return lambda tensors: [tensor.fill_(value) for tensor in tensors.values()]


UNUSABLE = {
    f"template-{name}": Case(_manifest(prompt_template=template), says)
    for name, (template, says) in _TEMPLATES.items()
} | {
    f"overflows-{of}": Case(_tensors(_large(value), of)[1], "its weights overflow", of)
    for of, value in (
        ("lora", 1e38),
        ("dora", 1e30),
        ("ia3", 1e38),
        ("norms", 1e38),
        ("prefix", 1e38),
    )
}
"""Load, and refuse the requests that use them: `says` tells why."""
