"""Searching a space: journal, pruning, interruption, best configuration."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from tests.trainer.conftest import WriteConfig
from trainer import folder
from trainer.__main__ import main
from trainer.job import Job
from trainer.train import load_base


def _space(path: Path, **space: Any) -> Path:
    content = yaml.safe_load(path.read_text())
    content["sweep"] = space
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def config(write_config: WriteConfig) -> Path:
    return _space(
        write_config(
            optimiser={"batch_size": 8, "max_steps": 4},
            loop={"validate_every": 2},
        ),
        **{
            "optimiser.learning_rate": {"low": 1e-5, "high": 5e-2, "log": True},
            "method.rank": [1, 2, 4],
        },
    )


def _sweep(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["sweep", *map(str, arguments), "--json", "--quiet"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_finds_keeps_and_goes_on(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[object] = []

    def counted(*arguments: Any) -> Any:
        loads.append(arguments)
        return load_base(*arguments)

    monkeypatch.setattr("trainer.train.load_base", counted)
    first = _sweep(capsys, config, "--trials", 3, "--no-prune")
    assert [trial["state"] for trial in first["trials"]] == ["complete"] * 3
    assert len(loads) == 1  # All trials have one base in memory.
    for trial in first["trials"]:
        assert 1e-5 <= trial["values"]["optimiser.learning_rate"] <= 5e-2
        assert trial["values"]["method.rank"] in (1, 2, 4)
        summary = json.loads((tmp_path / "run" / trial["directory"] / "summary.json").read_text())
        assert trial["score"] == pytest.approx(summary["jobs"][0]["validation_loss"])
    assert first["best"]["score"] == min(trial["score"] for trial in first["trials"])

    more = _sweep(capsys, config, "--trials", 4, "--no-prune")
    assert more["trials"][:3] == first["trials"]
    assert len(more["trials"]) == 4

    best = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    assert best["method"]["rank"] == more["best"]["values"]["method.rank"]
    assert "sweep" not in best
    capsys.readouterr()
    assert main(["train", str(tmp_path / "run" / "best.yaml"), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["validation_loss"] == pytest.approx(more["best"]["score"])
    assert (tmp_path / "run" / "sweep.png").read_bytes().startswith(b"\x89PNG")

    # A table for people; and the same trials are none of another configuration.
    assert main(["sweep", str(config), "--trials", "4", "--no-prune"]) == 0
    assert "method.rank" in capsys.readouterr().out
    assert main(["sweep", str(config), "--set", "seed=3"]) == 2
    assert "holds trials of another configuration" in capsys.readouterr().err


def test_bad_trials_are_pruned(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Once four have shown what is usual, a rate that learns nothing ends at once."""
    _space(config, **{"optimiser.learning_rate": [1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1e-9]})
    journal = str(tmp_path / "run" / "study.log")
    (tmp_path / "run").mkdir()
    # The identity is set by the first run, which these wait for.
    backend = optuna.storages.journal.JournalFileBackend(journal)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), study_name="first", direction="minimize"
    )
    for rate in (1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1e-9):
        study.enqueue_trial({"optimiser.learning_rate": rate})
    result = _sweep(capsys, config, "--trials", 5)
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 4 + ["pruned"]
    assert result["trials"][-1]["step"] == 2
    folder = tmp_path / "run" / result["trials"][-1]["directory"]
    assert not (folder / "adapter").exists()


def test_an_interrupted_trial_comes_first(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Job.train_step
    num_calls = 0

    def interrupted(self: Job) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return steps(self)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "train_step", interrupted)
        assert main(["sweep", str(config), "--trials", "3", "--no-prune"]) == 130
    err = capsys.readouterr().err
    assert "the same command goes on" in err
    study = optuna.load_study(
        study_name="first",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.log"))
        ),
    )
    done, broken, waiting = study.get_trials()
    assert [done.state, broken.state] == [TrialState.COMPLETE, TrialState.FAIL]
    assert waiting.state == TrialState.WAITING

    num_calls = 6
    monkeypatch.setattr(Job, "train_step", interrupted)
    result = _sweep(capsys, config, "--trials", 2, "--no-prune")
    assert result["trials"][0]["number"] == done.number
    assert result["trials"][1]["values"] == broken.params
    # Two of its four steps were in the checkpoint.
    assert num_calls == 6 + 2


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "key 'sweep' must hold keys"),
        ({"method.rang": [1, 2]}, "key 'method.rang' is not known; did you mean 'rank'?"),
        ({"method.rank": []}, "must be a list of different values"),
        ({"method.rank": [2, 2]}, "must be a list of different values"),
        ({"method.rank": 3}, "must be a list of values, or low and high"),
        ({"method.rank": [[1]]}, "is neither text, number nor null"),
        ({"method.rank": {"low": 4, "high": 2}}, "low 4 must be less than high 2"),
        ({"optimiser.learning_rate": {"low": 0, "high": 1, "log": True}}, "log takes a low above"),
        ({"method.rank": {"low": 1, "hi": 2}}, "'sweep.method.rank'.h"),
        ({"loop.keep": ["best", "last"]}, "trials would not be comparable"),
    ],
)
def test_wrong_input(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    space: dict[str, Any],
    message: str,
) -> None:
    capsys.readouterr()
    assert main(["sweep", str(_space(config, **space))]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_share_a_sweep(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would take the first one's trial for an interrupted one."""
    directory = Path(yaml.safe_load(config.read_text())["output"]["dir"])
    directory.mkdir(parents=True, exist_ok=True)
    with folder.alone_in(directory):
        assert main(["sweep", str(config), "--trials", "1", "--overwrite"]) == 2
    assert "another process is training in this folder" in capsys.readouterr().err
    assert not (directory / "study.log").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_a_sweep_reads_is_not_replaced(
    config: Path,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overwrite: list[str],
) -> None:
    trials = tmp_path / "run" / "trials"
    shutil.copytree(base, trials / "base")
    shutil.copy(tmp_path / "train.jsonl", trials / "rows.jsonl")
    for key, path in (("base", trials / "base"), ("data.train", trials / "rows.jsonl")):
        assert main(["sweep", str(config), *overwrite, "--set", f"{key}={path}"]) == 2
        expected = f"key '{key}': '{path}' would be replaced by what the run writes to '{trials}'"
        assert expected in capsys.readouterr().err
    assert (trials / "base" / "config.json").is_file()
    assert (trials / "rows.jsonl").is_file()


def test_a_sweep_where_nothing_can_be_written(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(config), "--set", "output.dir=/proc/none/here"]) == 2
    said = capsys.readouterr().err
    assert "error: key 'output.dir': '/proc/none/here' cannot be written: " in said
    assert said.count("\n") == 1
