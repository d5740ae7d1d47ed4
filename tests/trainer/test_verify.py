"""Verifying one adapter or a whole store, by the command line."""

import json
from pathlib import Path

import pytest

from tests.tiny import lora_config, make_adapter, make_base, prompt_config
from trainer.__main__ import main
from understudy.store import publish


def test_a_folder_a_reference_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, store = make_base(tmp_path / "base"), tmp_path / "store"
    kinds = {"first": lora_config(), "second": prompt_config()}
    versions = {}
    for seed, (name, config) in enumerate(kinds.items()):
        adapter = make_adapter(base, tmp_path / "made" / name, config, name=name, seed=seed)
        versions[name] = publish(adapter, store, name)
    capsys.readouterr()

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["verify", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    expected = {f"{name}@{version}" for name, version in versions.items()}
    monkeypatch.chdir(tmp_path)
    for arguments in ([], [store], ["--store", store]):
        code, out, err = run(*arguments, "--json")
        assert (code, err) == (0, "")
        assert set(json.loads(out)["intact"]) == expected
        assert json.loads(out)["damaged"] == {}
    for adapter in (tmp_path / "made/first", "first", f"first@{versions['first']}", "first@latest"):
        code, out, _ = run(adapter, "--store", store)
        assert code == 0
        assert out.startswith("first: lora, content hash ")
        assert json.loads(run(adapter, "--store", store, "--json")[1])["name"] == "first"

    tensors = store / "second" / versions["second"] / "adapter_model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    message = "adapter_model.safetensors: sha256 differs from the manifest"
    code, out, err = run(store)
    assert (code, out) == (2, f"{store}: 1 of 2 versions intact\n")
    assert err == f"error: second@{versions['second']}: {message}\n"
    code, out, err = run("second", "--store", store)
    assert (code, out) == (2, "")
    assert message in err

    code, _, err = run("third", "--store", store)
    assert (code, err) == (2, f"error: adapter 'third' is not in the store '{store}'\n")
    code, _, err = run(tmp_path / "base")
    assert (code, err) == (2, f"error: {tmp_path / 'base'}: holds no understudy.json\n")
    code, _, err = run("--store", tmp_path / "nowhere")
    assert (code, err) == (2, f"error: --store '{tmp_path / 'nowhere'}' holds no adapters\n")
