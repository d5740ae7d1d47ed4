"""`understudy store ...` on real stores."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.test_artifact import write_safetensors
from tests.client.test_store_crash import make_artifact
from understudy import store
from understudy.__main__ import main
from understudy.artifact import MANIFEST_FILE, TENSORS_FILE, base_fingerprint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs one command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("UNDERSTUDY_STORE", str(tmp_path / "store"))

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            code = main(["store", *map(str, argv)])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def versions(run: Run, tmp_path: Path) -> list[str]:
    """Three versions of `demo`, published by command, the first two a week old; oldest first."""
    found = []
    for number in range(3):
        folder = make_artifact(tmp_path / f"artifact{number}", number)
        code, out, err = run("publish", folder, "--json")
        assert (code, err) == (0, "")
        found.append(json.loads(out)["version"])
    for number, version in enumerate(found[:2]):
        at = time.time() - (14 - number) * 86400
        os.utime(tmp_path / "store" / "demo" / version, (at, at))
    return found


def test_publish_and_list(run: Run, versions: list[str], tmp_path: Path) -> None:
    code, out, _ = run("publish", tmp_path / "artifact0", "--name", "other")
    assert (code, out) == (0, f"published other@{versions[0]}; latest points to it\n")
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["demo", versions[2], "lora"]
    assert lines[1].split()[-1] == "latest"
    code, out, _ = run("list", "other", "--json")
    (row,) = json.loads(out)["versions"]
    assert row["aliases"] == ["latest"]
    assert row["size_bytes"] == (tmp_path / "artifact0" / TENSORS_FILE).stat().st_size
    assert abs(row["published_at"] - time.time()) < 60


def test_alias(run: Run, versions: list[str], tmp_path: Path) -> None:
    code, out, _ = run("alias", "demo", "stable", "latest")
    assert (code, out) == (0, f"demo@stable is {versions[2]}\n")
    code, out, _ = run("alias", "demo", "latest", versions[0], "--json")
    assert json.loads(out) == {"name": "demo", "alias": "latest", "version": versions[0]}
    expected = {"latest": versions[0], "stable": versions[2]}
    assert store.aliases(tmp_path / "store", "demo") == expected
    assert run("alias", "demo", "stable", "--remove")[:2] == (0, "demo@stable is gone\n")
    assert store.aliases(tmp_path / "store", "demo") == {"latest": versions[0]}


def test_gc_shows_first_and_then_removes(run: Run, versions: list[str], tmp_path: Path) -> None:
    code, out, _ = run("gc", "--keep", "1", "--age", "13.5d", "--dry-run")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:2] == ["demo", versions[2]]
    assert lines[1][4:] == ["stays", "alias", "latest"]
    assert lines[2][3:] == ["13d", "stays", "younger", "than", "1166400", "s"]
    assert lines[3][3:] == ["14d", "would", "go", "not", "needed"]
    assert len(store.versions(tmp_path / "store", "demo")) == 3
    code, out, _ = run("gc", "--keep", "1", "--age", "13.5d", "--json")
    answer = json.loads(out)
    assert [v["version"] for v in answer["versions"] if v["removed"]] == [versions[0]]
    assert answer["removed_bytes"] > 0
    assert store.versions(tmp_path / "store", "demo") == versions[:0:-1]


def test_verify_names_every_fault(run: Run, versions: list[str], tmp_path: Path) -> None:
    code, out, _ = run("verify")
    assert code == 0
    assert out.startswith("3 versions, ")
    folder = tmp_path / "store" / "demo"
    tensors = folder / versions[0] / TENSORS_FILE
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    (folder / versions[1] / MANIFEST_FILE).unlink()
    (folder / "broken").write_text("f" * 16)
    code, out, err = run("verify")
    assert (code, out) == (2, "")
    assert sorted(err.splitlines()) == sorted(
        [
            "understudy: demo: alias 'broken' leads to no version",
            f"understudy: demo@{versions[0]}: {TENSORS_FILE}: sha256 differs from the manifest",
            f"understudy: demo@{versions[1]}: holds no {MANIFEST_FILE}",
        ]
    )
    code, out, err = run("verify", "demo", "--json")
    assert (code, err) == (2, "")
    answer = json.loads(out)
    assert answer["num_versions"] == 3
    assert {fault["version"] for fault in answer["faults"]} == {"", *versions[:2]}
    assert run("verify", "demo@latest")[0] == 0
    assert run("verify", f"demo@{versions[0]}")[0] == 2
    # Publishing the same content again puts a sound copy there.
    assert run("publish", tmp_path / "artifact0")[0] == 0
    assert run("verify", f"demo@{versions[0]}")[0] == 0


def test_verify_shows_its_progress_on_a_terminal(
    run: Run, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _, _, err = run("verify")
    assert [part.split("]")[-1] for part in err.split("\r") if "verifying" in part] == [
        "   0%", "  33%", "  67%",
    ]  # fmt: skip
    assert err.endswith("\r\033[K")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("list", "nobody"), "no adapter 'nobody'"),
        (("list", "Bad Name"), "is not allowed"),
        (("list", "--store", "nowhere"), "nowhere: no such store"),
        (("publish", "nowhere"), "nowhere: no such directory"),
        (("alias", "demo", "stable"), "give a version, or --remove"),
        (("alias", "demo", "stable", "0" * 16), "no version or alias '0000000000000000'"),
        (("alias", "demo", "0" * 16, "latest"), "looks like a version"),
        (("verify", "nobody"), "no adapter 'nobody'"),
        (("verify", "demo@nothing"), "no version or alias 'nothing'"),
        (("gc", "--keep", "-1"), "--keep"),
        (("gc", "--age", "soon"), "is not a time such as"),
        (("gc", "../x"), "is not allowed"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    run: Run, versions: list[str], argv: tuple[str, ...], reason: str
) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert reason in err


def test_a_disk_that_fails_is_exit_code_1(run: Run, versions: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("publish", tmp_path / "artifact0", "--store", tmp_path / "file")
    assert code == 1
    assert err.startswith(f"understudy: {tmp_path / 'file'}")
    assert err.count("\n") == 1


def test_an_adapter_from_elsewhere_gets_its_manifest(run: Run, tmp_path: Path) -> None:
    base = tmp_path / "my-base"
    base.mkdir()
    (base / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    write_safetensors(base / "model.safetensors", {"w": ([2], bytes(8))})
    folder = make_artifact(tmp_path / "peft", 1)
    (folder / MANIFEST_FILE).unlink()
    (tmp_path / "prompt.txt").write_text("Say it again: {{ input }}\n")
    flags = ("--name", "mine", "--base", base, "--template", tmp_path / "prompt.txt")
    code, out, err = run("publish", folder, *flags, "--quantization", "nf4", "--json")
    assert (code, err) == (0, "")
    found = store.verify_version(tmp_path / "store", "mine", json.loads(out)["version"])
    assert found.base_fingerprint == base_fingerprint(base)
    assert (found.method, found.rank, found.base_name) == ("lora", 2, "my-base")
    assert (found.base_architecture, found.quantization) == ("LlamaForCausalLM", "nf4")
    assert found.prompt_template == "Say it again: {{ input }}\n"
    assert not (folder / MANIFEST_FILE).exists(), "the given folder stays as it was"

    (tmp_path / "wrong.txt").write_text("{{ input")
    sealed = make_artifact(tmp_path / "sealed", 2)
    for given, said in [
        ((folder,), "give --name and --base"),
        ((folder, "--name", "mine", "--base", tmp_path / "none"), "none"),
        ((folder, *flags[:4], "--template", tmp_path / "wrong.txt"), "wrong.txt"),
        ((folder, *flags, "--adds-tokens"), "holds no tokenizer.json"),
        ((sealed, "--base", base), "its understudy.json tells base and template"),
    ]:
        code, _, err = run("publish", *given)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
    (folder / "adapter_config.json").write_text("{}")
    assert "no 'peft_type'" in run("publish", folder, *flags)[2]
