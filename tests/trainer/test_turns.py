"""Jobs that train together end as they would alone, also after they were killed."""

import json
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from tests.trainer.conftest import make_rows
from tests.trainer.forks import HalfCheckpoint, Kill, run
from tests.trainer.small import METHOD_CONFIGS, OPTIMISERS, make_bases
from trainer.config import OptimiserConfig
from trainer.log import read_log
from trainer.methods import METHODS
from trainer.run_file import SHARED_KEYS, merge
from understudy.artifact import verify

SHARED: dict[str, Any] = {
    "name": "all",
    "base": "tiny",
    "data": {"validation": 0.2, "template_name": "summarize"},
    "optimiser": {"learning_rate": 5e-3, "batch_size": 4, "max_steps": 4},
    "loop": {"validate_every": 3, "checkpoint_every": 2},
    "num_threads": 1,
}

# 8-bit states begin at 4096 numbers.
LARGER = {"type": "lora", "rank": 32, "targets": ["down_proj"]}
JOBS = {f"method-{name}": config for name, config in METHOD_CONFIGS.items()} | {
    f"optimiser-{algorithm}": {
        "method": LARGER,
        "optimiser": {"algorithm": algorithm, "max_steps": 4 + index},
        "seed": index,
    }
    for index, algorithm in enumerate(OPTIMISERS)
}


def group_of(name: str) -> str:
    """Which jobs a job trains with: those of one base."""
    own = {key: JOBS[name][key] for key in SHARED_KEYS if key in JOBS[name]}
    return f"{name.partition('-')[0]} {json.dumps(own, sort_keys=True)}"


def test_every_method_and_optimiser_has_a_small_configuration() -> None:
    assert METHOD_CONFIGS.keys() == METHODS.keys()
    assert set(OPTIMISERS) == set(get_args(get_type_hints(OptimiserConfig)["algorithm"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds bases, rows and all runs."""
    folder = tmp_path_factory.mktemp("turns")
    make_bases(folder)
    rows = [{**row, "label": f"{index % 2}"} for index, row in enumerate(make_rows(30))]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def write(folder: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes the configuration of a run over SHARED; returns its file and the run's folder."""

    def write(name: str, own: Mapping[str, Any]) -> tuple[Path, Path]:
        config = merge(merge(SHARED, {"data": {"train": str(folder / "train.jsonl")}}), own)
        directory = folder / name
        config |= {"base": str(folder / config["base"]), "output": {"dir": str(directory)}}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path, directory

    return write


@pytest.fixture(scope="module")
def together(write: Callable[..., tuple[Path, Path]]) -> Callable[[str], Path]:
    """Trains a job's group, killed in a random step and in a checkpoint; returns its folder."""
    done: dict[str, Path] = {}

    def train(group: str) -> Path:
        if group not in done:
            done[group] = train_killed(group, f"together{len(done)}", write)
        return done[group]

    return train


def train_killed(group: str, name: str, write: Callable[..., tuple[Path, Path]]) -> Path:
    members = [job for job in JOBS if group_of(job) == group]
    top = {key: JOBS[members[0]][key] for key in SHARED_KEYS if key in JOBS[members[0]]}
    own = [
        {"name": job, **{k: v for k, v in JOBS[job].items() if k not in SHARED_KEYS}}
        for job in members
    ]
    several = {**top, "jobs": own} if len(own) > 1 else {**top, **own[0]}
    path, directory = write(name, several)
    draw = random.Random(group)
    step = Kill(
        "trainer.job:Job.train_step",
        call=draw.randint(1, 4 * len(members)),
        lines=draw.randint(1, 30),
    )
    resume = ["resume", str(directory), "--quiet"]
    log = path.with_suffix(".log")
    assert run(["train", str(path), "--quiet"], log, step) == -signal.SIGKILL, log.read_text()
    assert run(resume, log, HalfCheckpoint()) == -signal.SIGKILL, log.read_text()
    assert run(resume, log) == 0, log.read_text()
    return directory


@pytest.mark.parametrize("name", JOBS)
def test_a_job_among_others_killed_and_resumed_ends_as_alone(
    name: str,
    together: Callable[[str], Path],
    write: Callable[..., tuple[Path, Path]],
) -> None:
    path, alone = write(name, {"name": name, **JOBS[name]})
    log = path.with_suffix(".log")
    assert run(["train", str(path), "--quiet"], log) == 0, log.read_text()
    directory = together(group_of(name))
    [expected] = summaries(alone)
    [got] = [job for job in summaries(directory) if job["name"] == name]
    assert got["content_hash"] == expected["content_hash"]
    assert losses(Path(got["artifact"]).parent) == losses(alone)


def summaries(directory: Path) -> list[dict[str, Any]]:
    """What each job of a run that has ended tells."""
    jobs: list[dict[str, Any]] = json.loads((directory / "summary.json").read_text())["jobs"]
    return jobs


def losses(directory: Path) -> list[dict[str, Any]]:
    """What a job logged, without times."""
    return [
        {key: value for key, value in record.items() if not key.endswith("_s")}
        for record in read_log(directory / "metrics.jsonl")
    ]


@pytest.mark.parametrize("lines", [20, 150, 300])
def test_killed_while_it_exports_or_publishes(
    lines: int, write: Callable[..., tuple[Path, Path]], folder: Path
) -> None:
    """The second of two jobs is being written, or published."""
    name = f"export{lines}"
    store = folder / f"{name}.store"
    jobs = [{"name": "first"}, {"name": "second", "method": {"type": "prompt_tuning"}}]
    path, directory = write(name, {"jobs": jobs})
    command = ["train", str(path), "--quiet", "--set", f"output.store={store}"]
    log = path.with_suffix(".log")
    fault = Kill("trainer.turns:finish", 2, lines)
    assert run(command, log, fault) == -signal.SIGKILL, log.read_text()
    assert not (directory / "summary.json").exists()
    assert run(["resume", str(directory), "--quiet"], log) == 0, log.read_text()
    for job in summaries(directory):
        assert verify(store / job["name"] / job["version"]).content_hash == job["content_hash"]
        assert (store / job["name"] / "latest").read_text().strip() == job["version"]
        assert [
            entry.name
            for entry in (store / job["name"]).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        ] == [job["version"]]
