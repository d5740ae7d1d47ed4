import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from understudy import artifact, store
from understudy.artifact import ArtifactError, Manifest


def write_safetensors(path: Path, tensors: dict[str, tuple[list[int], bytes]]) -> None:
    header, offset, body = {}, 0, b""
    for name, (shape, data) in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


MANIFEST = Manifest(
    name="demo",
    method="lora",
    base_fingerprint="f" * 64,
    base_name="tiny",
    base_architecture="LlamaForCausalLM",
    quantization="nf4",
    rank=2,
    prompt_template="{{ input }}",
)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "tiny"}
    (directory / artifact.CONFIG_FILE).write_text(json.dumps(config))
    write_safetensors(directory / artifact.TENSORS_FILE, {"a": ([2, 2], b"\1" * 16)})
    artifact.seal(directory, MANIFEST)
    return directory


def test_seal_then_verify(adapter: Path) -> None:
    manifest = artifact.verify(adapter)
    assert manifest.content_hash == artifact.content_hash(adapter, MANIFEST)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_content_hash_ignores_where_the_base_lay(adapter: Path) -> None:
    before = artifact.content_hash(adapter, MANIFEST)
    config = {"base_model_name_or_path": "elsewhere", "r": 2, "peft_type": "LORA"}
    (adapter / artifact.CONFIG_FILE).write_text(json.dumps(config))
    assert artifact.content_hash(adapter, MANIFEST) == before
    assert artifact.content_hash(adapter, replace(MANIFEST, name="other")) == before


def test_content_hash_tells_patterns_by_their_order(adapter: Path) -> None:
    """The first pattern that matches counts, so another order is another adapter."""
    hashes = {}
    for key in ("rank_pattern", "alpha_pattern", "other"):
        for order in (("a", "b"), ("b", "a")):
            config = {"r": 2, "peft_type": "LORA", key: dict.fromkeys(order, 4)}
            (adapter / artifact.CONFIG_FILE).write_text(json.dumps(config))
            hashes[key, order] = artifact.content_hash(adapter, MANIFEST)
    assert hashes.pop(("other", ("b", "a"))) == hashes["other", ("a", "b")]
    assert len(set(hashes.values())) == len(hashes)
    # As versions were named before the order counted: PEFT writes keys sorted.
    assert hashes["alpha_pattern", ("a", "b")].startswith("d683d33c6c327555")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_template": "{{ input }}!"},
        {"base_fingerprint": "e" * 64},
        {"quantization": "int8"},
    ],
)
def test_content_hash_covers_template_and_base(adapter: Path, change: dict[str, str]) -> None:
    changed = replace(MANIFEST, **change)  # type: ignore[arg-type]
    assert artifact.content_hash(adapter, changed) != artifact.content_hash(adapter, MANIFEST)


def test_tampered_tensors_are_found(adapter: Path) -> None:
    write_safetensors(adapter / artifact.TENSORS_FILE, {"a": ([2, 2], b"\2" * 16)})
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: sha256 differs"):
        artifact.verify(adapter)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04\x95pickle-in-disguise", "not a safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header of"),
        (struct.pack("<Q", 2) + b"[]", "JSON object"),
        (struct.pack("<Q", 2) + b"{}x", "tensors end at byte"),
        (struct.pack("<Q", 13) + b'{"a":1,"a":2}', "duplicate key"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        artifact.read_safetensors_header(path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "1" * 5000 + "}",
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": ' * 5000 + "1" + "}" * 5000,
        '{"a": 1, "a": 1}',
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_not_taken(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"^x\.json: "):
        artifact.parse_json_object(text, "x.json")


@pytest.mark.parametrize("field", ["name", "base_name", "base_architecture", "prompt_template"])
def test_manifest_fields_of_the_wrong_type(adapter: Path, field: str) -> None:
    fields = json.loads((adapter / artifact.MANIFEST_FILE).read_text())
    with pytest.raises(ArtifactError, match=f"field '{field}' must be"):
        artifact.Manifest.from_json(json.dumps({**fields, field: 5}))


def test_shape_that_disagrees_with_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": ([2, 3], b"\1" * 16)})
    with pytest.raises(ArtifactError, match="tensor 'a': 16 bytes, shape and dtype need 24"):
        artifact.read_safetensors_header(path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a..b", "-a", "a-", "é", "a" * 65, "base"])
def test_names_that_are_not_allowed(name: str) -> None:
    with pytest.raises(ArtifactError):
        artifact.check_name(name)


def test_base_fingerprint_does_not_depend_on_sharding(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    tensors = {"b": ([1], b"\1" * 4), "a": ([1], b"\2" * 4)}
    write_safetensors(one / "model.safetensors", tensors)
    for index, (name, value) in enumerate(tensors.items()):
        write_safetensors(two / f"model-{index}.safetensors", {name: value})
    assert artifact.base_fingerprint(one) == artifact.base_fingerprint(two)
    (two / "tokenizer.json").write_text("{}")
    assert artifact.base_fingerprint(one) != artifact.base_fingerprint(two)


def test_publish_is_content_addressed(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    version = store.publish(adapter, folder, "demo")
    assert store.publish(adapter, folder, "demo") == version
    assert store.versions(folder, "demo") == [version]
    assert store.aliases(folder, "demo") == {"latest": version}
    assert store.verify_version(folder, "demo", version).name == "demo"
    assert store.names(folder) == ["demo"]


def test_a_failed_publish_leaves_nothing(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    (adapter / artifact.TENSORS_FILE).write_bytes(b"broken")
    with pytest.raises(ArtifactError):
        store.publish(adapter, folder, "demo")
    assert list(folder.glob("*/*")) == []


def test_alias_moves_and_goes(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    version = store.publish(adapter, folder, "demo")
    store.set_alias(folder, "demo", "stable", version)
    assert store.aliases(folder, "demo") == {"latest": version, "stable": version}
    store.remove_alias(folder, "demo", "stable")
    assert store.aliases(folder, "demo") == {"latest": version}
    with pytest.raises(ArtifactError, match="no version"):
        store.set_alias(folder, "demo", "stable", "0" * 16)
    with pytest.raises(ArtifactError, match="looks like a version"):
        store.set_alias(folder, "demo", "0" * 16, version)


def test_symlinked_versions_are_not_served(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    version = store.publish(adapter, folder, "demo")
    (folder / "demo" / ("0" * 16)).symlink_to(adapter)
    assert store.versions(folder, "demo") == [version]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_sound_copy_of_another_publisher_stays(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """Two publish the same: whoever comes second leaves the first one's copy where it is."""
    root = tmp_path / "store"
    version = artifact.read_manifest(adapter).content_hash[:16]  # type: ignore[union-attr]
    if damaged:
        store.publish(adapter, root, "demo")
        (root / "demo" / version / artifact.TENSORS_FILE).write_bytes(b"x")
    judge = store._is_sound
    inodes = []

    def beside(target: Path) -> bool:
        found = judge(target)
        monkeypatch.setattr(store, "_is_sound", judge)
        store.publish(adapter, root, "demo")
        inodes.append(target.stat().st_ino)
        return found

    monkeypatch.setattr(store, "_is_sound", beside)
    assert store.publish(adapter, root, "demo") == version
    assert (root / "demo" / version).stat().st_ino == inodes[0]
    store.verify_version(root, "demo", version)
