"""Several jobs in one file: what a file means, what is refused, and what they share."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tiny import make_base
from tests.trainer.conftest import WriteConfig
from trainer import held
from trainer.__main__ import main
from trainer.config import LoraConfig, PromptTuningConfig
from trainer.config_file import config_hash, config_to_json, parse_config
from trainer.errors import ConfigError
from trainer.folder import begin, remembered
from trainer.model import load_base
from trainer.run_file import SHARED_KEYS, Run, load_run, parse_run, run_schema
from trainer.shared import SharedBase, storages

SHARED: dict[str, Any] = {
    "name": "all",
    "base": "base",
    "data": {"train": "train.jsonl", "validation": 0.2},
    "method": {"type": "lora", "rank": 4},
    "optimiser": {"learning_rate": 5e-3, "batch_size": 4},
    "output": {"dir": "runs/all", "store": "store"},
}


LONGER = {"epochs": 2, "max_steps": 9}


def jobs_file(*jobs: Any, **changes: Any) -> dict[str, Any]:
    return {**SHARED, "jobs": list(jobs), **changes}


def test_a_job_overrides_what_is_shared() -> None:
    run = parse_run(
        jobs_file(
            {"name": "small", "method": {"rank": 2}, "optimiser": {"batch_size": 8}},
            {"method": {"type": "prompt_tuning"}, "data": {"train": "other.jsonl"}, "seed": 3},
            {"name": "apart", "output": {"dir": "elsewhere"}},
        ),
        "run.yaml",
    )
    small, soft, apart = run.configs
    assert run.directory == Path("runs/all")
    assert [config.name for config in run.configs] == ["small", "all-2", "apart"]
    folders = [Path("runs/all/small"), Path("runs/all/all-2"), Path("elsewhere")]
    assert [config.output.dir for config in run.configs] == folders
    assert all(config.output.store == Path("store") for config in run.configs)
    assert isinstance(small.method, LoraConfig)
    assert small.method.rank == 2
    assert small.optimiser.batch_size == 8
    assert small.optimiser.learning_rate == 5e-3
    # Of another method nothing is taken over.
    assert isinstance(soft.method, PromptTuningConfig)
    assert soft.data.train == (Path("other.jsonl"),)
    assert soft.data.validation == 0.2
    assert soft.seed == 3
    assert apart.seed == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (jobs_file(), "key 'jobs': must be a list of jobs"),
        ({**SHARED, "jobs": {"name": "a"}}, "key 'jobs': must be a list of jobs"),
        (jobs_file("a"), "key 'jobs.0': must hold keys and values, got 'a'"),
        (jobs_file({"base": "b"}), "key 'jobs.0.base': all jobs share it; set it at the top"),
        (jobs_file({}, {"device": "cpu"}), "key 'jobs.1.device': all jobs share it"),
        (jobs_file({"jobs": []}), "key 'jobs.0.jobs': all jobs share it"),
        (jobs_file({"name": "a"}, {"name": "a"}), "key 'jobs.1.name': 'a' is the name of jobs.0"),
        (
            jobs_file({"output": {"dir": "runs/all"}}),
            "key 'jobs.0.output.dir': 'runs/all' is the run's own folder",
        ),
        (
            jobs_file({"output": {"dir": "x"}}, {"output": {"dir": "./x"}}),
            "key 'jobs.1.output.dir': 'x' is jobs.0's folder",
        ),
        (jobs_file({}, output={"store": "store"}), "key 'output.dir' is missing: the folder of"),
        (jobs_file({"metod": {}}), "jobs.0: key 'metod' is not known; did you mean 'method'"),
        (jobs_file({"method": {"rnk": 2}}), "did you mean 'rank'"),
        (jobs_file({}, {"optimiser": {"batch_size": 0}}), "jobs.1: key 'optimiser.batch_size'"),
    ],
)
def test_what_is_no_run_is_refused(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_run(content, "run.yaml")
    assert str(error.value).startswith("run.yaml: ")
    assert expected in str(error.value)


def test_overrides_reach_a_job(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(jobs_file({"name": "a"}, {"name": "b"})))
    run = load_run(path, ["seed=1", "jobs.1.seed=2", "jobs.1.method.rank=8"])
    assert [config.seed for config in run.configs] == [1, 2]
    assert [getattr(config.method, "rank", None) for config in run.configs] == [4, 8]
    for override, expected in (
        ("jobs.2.seed=1", "'2' holds a value, not keys"),
        ("jobs.x.seed=1", "'x' holds a value, not keys"),
        ("jobs.0=1", "'0' is not a key"),
    ):
        with pytest.raises(ConfigError, match=expected):
            load_run(path, [override])


def test_the_schema_admits_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == run_schema()
    alone, together = schema["anyOf"]
    assert alone["required"] == ["name", "base", "data", "output"]
    assert alone["properties"]["data"] == {"$ref": "#/$defs/DataConfig"}
    # The training rows may be those of each job.
    assert "data" not in together["properties"]
    assert schema["properties"]["data"] == {"$ref": "#/$defs/DataConfigPart"}
    job = schema["properties"]["jobs"]["items"]
    assert job["properties"].keys() == schema["properties"].keys() - {*SHARED_KEYS, "jobs"}
    reached = referred(job, schema["$defs"])
    assert {"DataConfigPart", "LoraConfigPart", "OutputConfigPart"} <= reached
    for name in reached:
        part = schema["$defs"][name]
        assert "required" not in part, name
        whole = schema["$defs"][name.removesuffix("Part")]
        assert part.get("properties", {}).keys() == whole.get("properties", {}).keys()
        assert part.get("additionalProperties") == whole.get("additionalProperties")


def referred(value: Any, parts: dict[str, Any]) -> set[str]:
    """Names of the parts that a schema refers to, directly or through others."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, str) and value.startswith("#/$defs/"):
            name = value.removeprefix("#/$defs/")
            if name not in found:
                found.add(name)
                walk(parts[name])
        for inner in value.values() if isinstance(value, dict) else ():
            walk(inner)
        for inner in value if isinstance(value, list) else ():
            walk(inner)

    walk(value)
    return found


def test_a_folder_remembers_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration that is read back has the same hash, folders apart."""
    monkeypatch.chdir(tmp_path)
    run = parse_run(jobs_file({"name": "a"}, {"method": {"type": "prompt_tuning"}}), "run.yaml")
    for directory in run.directories:
        directory.mkdir(parents=True)
    begin(run, keep=False)
    read, working_directory = remembered(Path("runs/all"))
    assert working_directory == tmp_path
    assert [config_hash(config) for config in read.configs] == [
        config_hash(config) for config in run.configs
    ]
    assert read.directories == tuple(tmp_path / folder for folder in run.directories)
    with pytest.raises(Exception, match=r"is one job of a run; .* resume runs/all"):
        remembered(Path("runs/all/a"))
    for config in run.configs:
        assert parse_config(config_to_json(config), "again") == config
    assert Run.of(run.configs[0]).directories == (Path("runs/all/a"),)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_copies_share_every_weight(quantization: str, tmp_path: Path) -> None:
    model = load_base(
        make_base(tmp_path / "tiny"), quantization=quantization, dtype=torch.float32, device="cpu"
    )
    base = SharedBase(model)
    first, second = base.copy(), base.copy()
    assert storages(first) == storages(second) == storages(model)
    assert base.num_bytes == sum(storages(model).values())
    parameters = zip(model.parameters(), first.parameters(), second.parameters(), strict=True)
    for original, one, other in parameters:
        assert type(original) is type(one) is type(other)
        assert original is not one is not other
        assert original.data_ptr() == one.data_ptr() == other.data_ptr()

    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.equal(first(ids).logits, expected)
        # What is set on one copy does not show in another, also after both have run.
        second.get_input_embeddings().requires_grad_(True)
        base.make_own(second)
        second.get_input_embeddings().get_parameter("weight").add_(1.0)
        assert not torch.equal(second(ids).logits, expected)
        assert torch.equal(first(ids).logits, expected)
        assert torch.equal(base.copy()(ids).logits, expected)
    # Embeddings alone have memory of their own, and what int8 notes of the last batch's outliers.
    own = storages(second).keys() - storages(model).keys()
    assert sum(storages(second)[address] > 1024 for address in own) == 1


def test_what_is_held_dequantized_is_held_once(tmp_path: Path) -> None:
    model = load_base(
        make_base(tmp_path / "tiny"), quantization="nf4", dtype=torch.float32, device="cpu"
    )
    base = SharedBase(model)
    alone = base.num_bytes
    first, second = base.copy(), base.copy()
    held.hold(first, base.held)
    addresses = {name: tensor.data_ptr() for name, tensor in base.held.items()}
    held.hold(second, base.held)
    assert {name: tensor.data_ptr() for name, tensor in base.held.items()} == addresses
    sizes = [tensor.untyped_storage().nbytes() for tensor in base.held.values()]
    assert base.num_bytes == alone + sum(sizes)


def test_a_job_that_fails_ends_alone(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config(
        jobs=[
            {"name": "good"},
            {"name": "bad", "optimiser": {"learning_rate": 1e30}},
            {"name": "long", "method": {"type": "prompt_tuning"}, "optimiser": LONGER},
        ]
    )
    assert main(["train", str(config), "--json"]) == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    good, bad, long = summary["jobs"]
    assert (good["steps"], long["steps"]) == (6, 9)
    assert "is nan; rows" in bad["error"]
    assert "bad: failed, the others go on: step 2: the loss is nan; rows" in printed.err
    assert f"long: step 9/9: validation loss {long['validation_loss']:.4f}" in printed.err
    for job in (good, long):
        assert (tmp_path / "store" / job["name"] / job["version"]).is_dir()
    assert not (tmp_path / "run" / "bad" / "adapter").exists()
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    memory = summary["memory"]
    assert memory["saved_bytes"] == 2 * memory["base_bytes"]
    assert memory["state_bytes"] == sum(job["state_bytes"] for job in summary["jobs"])

    # It is tried again, and fails again; what has ended well stays.
    assert main(["resume", str(tmp_path / "run")]) == 1
    table = capsys.readouterr().out
    assert "failed: step 2: the loss is nan" in " ".join(table.split())
    assert "less than with a base for each" in table


def test_a_refusal_names_the_job(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    jobs: list[Any] = [{"name": "a"}, {"name": "b", "method": {"targets": ["nothing"]}}]
    assert main(["train", str(write_config(jobs=jobs))]) == 2
    assert capsys.readouterr().err.startswith("error: job 'b': key 'method.targets': 'nothing'")
    assert not (tmp_path / "run").exists()
