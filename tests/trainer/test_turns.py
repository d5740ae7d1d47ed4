"""Jobs that train together end as they would alone, also after they were killed."""

import json
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from tests.tiny import make_base
from tests.trainer.conftest import make_rows
from tests.trainer.forks import HalfCheckpoint, Kill, run
from tests.trainer.small import METHOD_CONFIGS, OPTIMISERS
from trainer.config import OptimiserConfig
from trainer.log import read_log
from trainer.methods import METHODS
from trainer.run_file import SHARED_KEYS, merge
from understudy.artifact import verify

SHARED: dict[str, Any] = {
    "name": "all",
    "data": {"validation": 0.2, "template_name": "summarize"},
    "optimiser": {"learning_rate": 5e-3, "batch_size": 4, "max_steps": 6},
    "loop": {"validate_every": 3, "checkpoint_every": 2},
    "num_threads": 1,
}


def jobs() -> dict[str, dict[str, Any]]:
    """Every method, every optimiser, and runs of other lengths, data and seeds."""
    chosen = {f"method-{name}": config for name, config in METHOD_CONFIGS.items()}
    for index, algorithm in enumerate(OPTIMISERS):
        # 8-bit states begin at 4096 numbers.
        chosen[f"optimiser-{algorithm}"] = {
            "method": {"type": "lora", "rank": 32, "targets": ["down_proj"]},
            "optimiser": {"algorithm": algorithm, "max_steps": 4 + index},
            "seed": index,
        }
    return chosen


def test_every_method_and_optimiser_has_a_small_configuration() -> None:
    assert METHOD_CONFIGS.keys() == METHODS.keys()
    assert set(OPTIMISERS) == set(get_args(get_type_hints(OptimiserConfig)["algorithm"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module")
def shared(folder: Path) -> dict[str, Any]:
    """The keys of all runs, with base and data."""
    labelled = ({**row, "label": "odd" if i % 3 else "even"} for i, row in enumerate(make_rows(40)))
    rows = "".join(f"{json.dumps(row)}\n" for row in labelled)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    data = {**SHARED["data"], "train": str(folder / "train.jsonl")}
    return {**SHARED, "base": str(make_base(folder / "tiny")), "data": data}


@pytest.fixture(scope="module")
def alone(folder: Path, shared: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    """Content hash and losses of each job that was trained alone and never interrupted."""
    results = {}
    for name, own in jobs().items():
        directory = folder / "alone" / name
        config = merge(merge(shared, own), {"name": name, "output": {"dir": str(directory)}})
        path, log = folder / f"{name}.yaml", folder / f"{name}.log"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        assert run(["train", str(path), "--quiet"], log) == 0, log.read_text()
        summary = json.loads((directory / "summary.json").read_text())
        results[name] = (summary["jobs"][0]["content_hash"], losses(directory))
    return results


@pytest.fixture(scope="module")
def together(folder: Path, shared: Mapping[str, Any]) -> dict[str, Path]:
    """Folders of the same jobs, trained together and killed over and over.

    Jobs on another base or quantization are runs of their own.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    tops: dict[str, dict[str, Any]] = {}
    for name, own in jobs().items():
        top = {key: own[key] for key in SHARED_KEYS if key in own}
        key = json.dumps(top, sort_keys=True)
        tops[key] = top
        rest = {k: v for k, v in own.items() if k not in SHARED_KEYS}
        groups.setdefault(key, []).append({"name": name, **rest})
    directories = {}
    for index, (key, members) in enumerate(sorted(groups.items())):
        directory = folder / f"together{index}"
        config = {**shared, **tops[key], "output": {"dir": str(directory)}, "jobs": members}
        killed_over_and_over(folder / f"group{index}", config, directory, len(members))
        directories |= {str(job["name"]): directory / job["name"] for job in members}
    return directories


def killed_over_and_over(
    scratch: Path, config: Mapping[str, Any], directory: Path, num_jobs: int
) -> None:
    """Trains `config`, killed in a step, in a checkpoint and in an export."""
    draw = random.Random(0)
    scratch.mkdir()
    path = scratch / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    resume = ["resume", str(directory), "--quiet"]
    step = draw.randint(1, 4 * num_jobs)
    for index, (arguments, fault) in enumerate(
        [
            (
                ["train", str(path), "--quiet"],
                Kill("trainer.job:Job.train_step", step, draw.randint(1, 30)),
            ),
            (resume, HalfCheckpoint(call=2)),
            (resume, Kill("trainer.turns:finish", num_jobs, draw.randint(1, 100))),
        ]
    ):
        log = scratch / f"{index}.log"
        assert run(arguments, log, fault) == -signal.SIGKILL, log.read_text()
        assert not (directory / "summary.json").exists()
    assert not list(scratch.glob("*.tmp"))
    assert run(resume, scratch / "last.log") == 0, (scratch / "last.log").read_text()


def losses(directory: Path) -> list[Any]:
    """What a job logged, without times."""
    return [
        {key: value for key, value in record.items() if not key.endswith("_s")}
        for record in read_log(directory / "metrics.jsonl")
    ]


@pytest.mark.parametrize("name", jobs())
def test_a_job_among_others_killed_and_resumed_ends_as_alone(
    name: str, alone: Mapping[str, tuple[str, list[Any]]], together: Mapping[str, Path]
) -> None:
    expected_hash, expected_losses = alone[name]
    assert losses(together[name]) == expected_losses
    assert verify(together[name] / "adapter").content_hash == expected_hash
