"""Output folders that a run cannot use, or must not replace."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.conftest import Refused, WriteConfig


def test_resume_without_a_checkpoint(
    write_config: WriteConfig, refused: Callable[..., str]
) -> None:
    assert "no checkpoint to resume from" in refused(write_config(), "--resume")


def test_output_holds_a_run(
    write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    line = refused(write_config())
    assert "holds a run already (metrics.jsonl); replace it with --overwrite" in line
    assert "start with --overwrite" in refused(write_config(), "--resume")


def test_output_holds_somebody_elses_adapter(
    write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """A new run begins by removing that folder."""
    kept = tmp_path / "run" / "adapter" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert "holds a run already (adapter)" in refused(write_config())
    assert kept.exists()


@pytest.mark.parametrize("key", ["dir", "store"])
def test_output_is_a_file(
    key: str, write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Said before hours of training, not at publishing."""
    (tmp_path / "file").write_text("")
    line = refused(write_config(), "--set", f"output.{key}={tmp_path / 'file'}")
    assert f"key 'output.{key}': '{tmp_path / 'file'}' is a file" in line


@pytest.mark.parametrize("key", ["dir", "store"])
def test_output_that_cannot_be_written(
    key: str, write_config: WriteConfig, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even root makes folders there. Nothing was read by then."""

    def unread(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("trainer.preflight.read_texts", unread)
    line = refused(write_config(), "--set", f"output.{key}=/proc/none/here")
    assert f"key 'output.{key}': '/proc/none/here' cannot be written: " in line
    assert line.endswith("; name another folder")


@pytest.mark.parametrize("name", ["test.jsonl", "leakage.json", "run.html", "tensorboard"])
def test_output_holds_what_no_run_wrote(
    name: str, write_config: WriteConfig, tmp_path: Path, refused: Refused
) -> None:
    """Such as a folder of data, named by mistake."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("mine")
    assert f"{folder}: holds a run already ({name})" in refused(write_config())
    assert (folder / name).read_text() == "mine"


def test_what_a_run_reads_is_not_replaced(
    base: Path, tmp_path: Path, write_config: WriteConfig, refused: Refused
) -> None:
    """Not even where it was asked to replace what is there."""
    config = write_config()
    folder = tmp_path / "run"
    shutil.copytree(base, folder / "base")
    shutil.copy(tmp_path / "train.jsonl", folder / "test.jsonl")
    (folder / "store").symlink_to(folder / "adapter")
    for key, path, own in (
        ("base", folder / "base", "base"),
        ("data.train", folder / "test.jsonl", "test.jsonl"),
        ("data.cache", folder / "tokens" / "all", "tokens"),
        ("output.store", folder / "store", "adapter"),
    ):
        line = refused(config, "--overwrite", "--set", f"{key}={path}")
        assert f"key '{key}': '{path}' would be replaced by what the run writes to" in line
        assert f"'{folder / own}'; set another output.dir" in line
    assert (folder / "base" / "config.json").is_file()


def test_no_job_lies_where_another_replaces(write_config: WriteConfig, refused: Refused) -> None:
    config = write_config(jobs=[{"name": "one"}, {"name": "two", "output": {"dir": "DIR"}}])
    text = config.read_text().replace("DIR", str(config.parent / "run" / "base"))
    config.write_text(text)
    assert "key 'output.dir': " in refused(config)
