"""Artifacts that add tokens to the vocabulary: what of them is believed, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from server.adapters.added_tokens import MAX_ADDED_TOKENS
from server.adapters.artifact import AdapterVersion, ArtifactLimits, load_artifact
from server.errors import AdapterRefusedError
from server.models.loader import load_base
from server.types import BaseInfo
from tests.server.engine.added import MOON, make_added, seal_added
from tests.tiny import lora_config, make_adapter, make_base
from understudy.artifact import MANIFEST_FILE, TENSORS_FILE, TOKENIZER_FILE, ArtifactError, verify

LIMITS = ArtifactLimits(max_bytes=1 << 24, max_lora_rank=64, max_host_bytes=1 << 24)
EMBEDDING = "base_model.model.model.embed_tokens.weight"
HEAD = "base_model.model.lm_head.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def info(base: Path) -> BaseInfo:
    return load_base(base, quantization="none", dtype="float32", device="cpu").info


@pytest.fixture(scope="module")
def original(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    return make_added(base, folder / "added", lora_config(), name="mine", eos=MOON)


@pytest.fixture
def added(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "added"))


def load(directory: Path, info: BaseInfo) -> AdapterVersion:
    return load_artifact(directory, info, LIMITS, "mine")


def refusal(directory: Path, info: BaseInfo) -> str:
    with pytest.raises(AdapterRefusedError) as caught:
        load(directory, info)
    assert str(directory) not in str(caught.value)
    return str(caught.value)


def change_tokenizer(base: Path, directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / TOKENIZER_FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    seal_added(base, directory, "mine", lora_config())


def change_tensors(
    base: Path, directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    tensors = load_file(directory / TENSORS_FILE)
    change(tensors)
    save_file(tensors, directory / TENSORS_FILE, metadata={"format": "pt"})
    seal_added(base, directory, "mine", lora_config())


def test_a_sound_one(added: Path, info: BaseInfo) -> None:
    adapter = load(added, info)
    vocabulary = adapter.weights.vocabulary
    assert vocabulary is not None
    assert (vocabulary.num_tokens, vocabulary.num_unnamed) == (323, 0)
    assert vocabulary.eos_token_ids == {320}
    assert adapter.version == verify(added).content_hash[:16]
    assert not [warning for warning in adapter.warnings if "tokens" in warning]


def test_without_tokenizer_the_tokens_go_by_their_ids(added: Path, info: BaseInfo) -> None:
    with_text = load(added, info).version
    for name in (MANIFEST_FILE, TOKENIZER_FILE, "tokenizer_config.json"):
        (added / name).unlink()
    adapter = load(added, info)
    assert adapter.weights.vocabulary is not None
    assert adapter.weights.vocabulary.num_unnamed == 3
    assert "3 of its 3 added tokens have no text" in adapter.warnings[0]
    assert adapter.version != with_text


def test_other_text_is_another_version(base: Path, added: Path, info: BaseInfo) -> None:
    before = load(added, info).version
    (added / MANIFEST_FILE).unlink()
    # As plain PEFT directory, of the base it is loaded on, of an unknown quantization.
    plain = load(added, info).version
    change_tokenizer(base, added, lambda data: data["added_tokens"][1].update(content="<sun>"))
    assert load(added, info).version != before
    (added / MANIFEST_FILE).unlink()
    assert load(added, info).version != plain


def test_an_adapter_that_adds_none_keeps_its_version(
    base: Path, info: BaseInfo, tmp_path: Path
) -> None:
    plain = make_adapter(base, tmp_path / "plain", lora_config(), name="mine", seed=1)
    sealed, text = load(plain, info).version, (plain / MANIFEST_FILE).read_text()
    (plain / TOKENIZER_FILE).write_text("{")
    assert load(plain, info).version == sealed
    (plain / MANIFEST_FILE).unlink()
    unsealed = load(plain, info).version
    (plain / TOKENIZER_FILE).unlink()
    assert load(plain, info).version == unsealed
    assert TOKENIZER_FILE not in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["added_tokens"][1].update(id=5), "id 5: the base has '%' there"),
        (lambda d: d["added_tokens"][1].update(content="the"), "'the' with id 320: the base has"),
        (lambda d: d["added_tokens"][1].update(content="</s>"), "is there twice"),
        (lambda d: d["added_tokens"][1].update(id=321), "is there twice"),
        (lambda d: d["added_tokens"][1].update(id=323), "adapter_model.safetensors has 323 rows"),
        (lambda d: d["added_tokens"][1].update(id=-1), "is malformed"),
        (lambda d: d["added_tokens"][1].update(id=True), "is malformed"),
        (lambda d: d["added_tokens"][1].update(content=""), "is malformed"),
        (lambda d: d["added_tokens"][1].update(content="x" * 257), "is malformed"),
        (lambda d: d["added_tokens"][1].update(special=1), "is malformed"),
        (lambda d: d["added_tokens"][1].update(pattern=".*"), "is malformed"),
        (lambda d: d["added_tokens"].pop(1), "ids must follow each other"),
        (lambda d: d["added_tokens"].pop(0), "lacks the base's token '</s>'"),
        (lambda d: d["added_tokens"][0].update(content="<e>"), "the base has '</s>' there"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "the base has '</s>' there"),
        (lambda d: d.update(added_tokens={}), "added_tokens must be a list"),
        (lambda d: d.update(added_tokens=[1]), "added_tokens must be a list"),
        (lambda d: d["model"]["vocab"].update(zebra=320), "'model' differs from the base's"),
        (lambda d: d["model"]["vocab"].pop("the"), "'model' differs from the base's"),
        (lambda d: d["model"]["merges"].reverse(), "'model' differs from the base's"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "'normalizer' differs"),
        (lambda d: d.update(decoder=None), "'decoder' differs from the base's"),
    ],
)
def test_tokenizers_that_are_not_the_bases(
    base: Path, added: Path, info: BaseInfo, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    change_tokenizer(base, added, change)
    assert reason in refusal(added, info)


def test_files_that_are_no_tokenizer(base: Path, added: Path, info: BaseInfo) -> None:
    path = added / TOKENIZER_FILE
    sound = path.read_bytes()
    for text, reason in (
        (b"[]", "must hold a JSON object"),
        (b'{"model": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"model": {}, "model": {}}', "duplicate key 'model'"),
        (b"\xff", "not UTF-8"),
        (sound + b" " * (5 << 20), "larger than"),
    ):
        path.write_bytes(text)
        seal_added(base, added, "mine", lora_config())
        assert reason in refusal(added, info)
    path.unlink()
    path.symlink_to("/etc/hostname")
    seal_added(base, added, "mine", lora_config())
    assert "a symbolic link leads outside" in refusal(added, info)


def test_rules_that_are_there_twice(base: Path, added: Path, info: BaseInfo) -> None:
    path = added / TOKENIZER_FILE
    sound = path.read_text()
    for extra, reason in (
        ('"model": {}, ', "duplicate key 'model'"),
        ('"other": {', "not valid JSON"),
        ('"other": "', "not valid JSON"),
    ):
        path.write_text(sound.replace('"added_tokens"', f'{extra}"added_tokens"', 1))
        seal_added(base, added, "mine", lora_config())
        assert reason in refusal(added, info)


def test_a_tokenizer_written_otherwise(base: Path, added: Path, info: BaseInfo) -> None:
    version = load(added, info).version

    def older(data: dict[str, Any]) -> None:
        data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
        del data["model"]["dropout"], data["normalizer"]

    change_tokenizer(base, added, older)
    adapter = load(added, info)
    assert adapter.version != version
    assert adapter.weights.vocabulary is not None
    assert adapter.weights.vocabulary.num_unnamed == 0


def test_hashes_cover_the_tokenizer(added: Path, info: BaseInfo) -> None:
    path = added / TOKENIZER_FILE
    path.write_text(path.read_text().replace("zebra", "tiger"))
    assert "tokenizer.json: sha256 differs from the manifest" in refusal(added, info)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        verify(added)
    path.unlink()
    assert "tokenizer.json" in refusal(added, info)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: missing"):
        verify(added)


def test_files_that_the_manifest_does_not_list(added: Path, info: BaseInfo) -> None:
    manifest = json.loads((added / MANIFEST_FILE).read_text())
    del manifest["files"][TOKENIZER_FILE]
    (added / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert "understudy.json does not list it" in refusal(added, info)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(HEAD), "has no weight of 323 rows of 'lm_head'"),
        (lambda t: t.pop(EMBEDDING), "has no weight of 323 rows of 'model.embed_tokens'"),
        (lambda t: t.update({HEAD: t[HEAD][:322].clone()}), "has shape [322, 64]"),
        (lambda t: t.update({HEAD: t[HEAD][:319].clone()}), "has shape [319, 64]"),
        (
            lambda t: t.update({EMBEDDING: torch.zeros(321 + MAX_ADDED_TOKENS, 64)}),
            "at most 4096 tokens can be added",
        ),
        (lambda t: t[HEAD].view(-1)[-1].fill_(float("nan")), "holds NaN or infinity"),
        (
            lambda t: t.update({HEAD.replace("weight", "modules_to_save.weight"): t[HEAD] + 1}),
            "differs from",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    base: Path,
    added: Path,
    info: BaseInfo,
    change: Callable[[dict[str, torch.Tensor]], Any],
    reason: str,
) -> None:
    change_tensors(base, added, change)
    assert reason in refusal(added, info)


def test_lora_of_another_size(base: Path, info: BaseInfo, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["lm_head", "embed_tokens"], task_type="CAUSAL_LM")
    path = make_added(base, tmp_path / "lora", config, name="mine")
    name = "base_model.model.lm_head.lora_B.weight"
    change_tensors(base, path, lambda t: t.update({name: t[name][:320].clone()}))
    assert "has shape [320, 2], the base needs [323, 2]" in refusal(path, info)
