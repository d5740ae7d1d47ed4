"""Whole runs: what they write, that they learn, and that they stop on bad numbers."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.conftest import WriteConfig, make_rows
from trainer.__main__ import main
from trainer.config import OptimiserConfig
from trainer.data import open_source, read_rows, to_examples
from trainer.errors import ExportError
from trainer.export import Exported, check_artifact
from trainer.log import read_log
from trainer.methods import METHODS
from trainer.model import load_base, load_tokenizer
from trainer.objectives.supervised import Supervised, summed_loss
from trainer.preflight.split import split_by_hash
from trainer.schedule import learning_rate_at
from trainer.tokens import Batch, Encoded
from understudy.artifact import verify
from understudy.prompt import PromptTemplate

LEARNERS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 8, "dropout": 0.05},
        "optimiser": {"learning_rate": 2e-2, "batch_size": 4, "epochs": 8},
    },
    "prompt_tuning": {
        "method": {"type": "prompt_tuning", "num_virtual_tokens": 8, "init": "random"},
        "optimiser": {"learning_rate": 0.1, "batch_size": 4, "epochs": 15},
    },
}


def train(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["train", str(config), "--json", *arguments]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


@pytest.mark.parametrize("method", sorted(LEARNERS))
def test_a_run_learns_and_publishes_what_it_logged(
    method: str,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    base: Path,
) -> None:
    finished = train(write_config(**LEARNERS[method]), capsys)
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    losses = [r["loss"] for r in records if r["event"] == "train"]
    assert len(losses) == finished["steps"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert finished["validation_loss"] < finished["validation_loss_before"]
    validations = {r["step"]: r["loss"] for r in records if r["event"] == "validation"}
    assert finished["validation_loss"] == min(validations.values())
    assert finished["exported_step"] == min(validations, key=lambda step: validations[step])
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")

    version = tmp_path / "store" / "first" / finished["version"]
    assert (tmp_path / "store" / "first" / "latest").read_text().strip() == finished["version"]
    manifest = verify(version)
    assert manifest.content_hash == finished["content_hash"]
    assert manifest.method == method
    assert manifest.base_name == "tiny"
    assert manifest.base_architecture == "LlamaForCausalLM"
    assert manifest.token_ids["eos"] == load_tokenizer(base).eos_token_id
    assert main(["verify", str(version)]) == 0
    written = json.loads((version / "adapter_config.json").read_text())
    if method == "lora":
        # PEFT's order of a set differs from process to process, and so would the content hash.
        assert written["target_modules"] == sorted(written["target_modules"])
    run = json.loads((version / "run.json").read_text())
    assert run["max_logit_difference_reread"] == 0
    assert run["peak_memory_bytes"] > 0
    for path in version.iterdir():
        if path.suffix != ".safetensors":
            assert str(tmp_path) not in path.read_text()
            assert str(base.parent) not in path.read_text()

    prompts = held_out_prompts(tmp_path / "train.jsonl", manifest.prompt_template or "")
    assert len(prompts) == run["data"]["num_validation"]
    loss = loss_as_served(version, base, prompts)
    assert loss == pytest.approx(finished["validation_loss"], rel=1e-5)


def held_out_prompts(path: Path, template: str) -> set[str]:
    examples = to_examples(
        read_rows([open_source(path)]),
        PromptTemplate(template),
        chat=False,
        completion_column="completion",
    )
    return {example.prompt for example in split_by_hash(examples, 0.2, 0, seed=0).validation}


def loss_as_served(version: Path, base: Path, prompts: set[str]) -> float:
    """Mean loss of the artifact over the rows with these prompts, by transformers and PEFT alone.

    Prompts are rendered from the manifest's template and tokenized as the server does it.
    """
    template = PromptTemplate(verify(version).prompt_template or "")
    tokenizer = load_tokenizer(base)
    bare = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    model = peft.PeftModel.from_pretrained(bare, str(version)).eval()
    total, num_terms = 0.0, 0
    for row in make_rows(40):
        prompt = template.render({"input": row["input"]})
        if prompt not in prompts:
            continue
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        ids = [*tokenizer(prompt)["input_ids"], *completion, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -len(completion) - 2 : -1]
        targets = torch.tensor(ids[-len(completion) - 1 :])
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        num_terms += len(targets)
    return total / num_terms


def test_the_same_run_gives_the_same_adapter(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changes = {"method": {"type": "lora", "rank": 4, "dropout": 0.1}}
    config = write_config(**changes)
    torch.manual_seed(1)
    first = train(config, capsys)
    torch.manual_seed(2)
    again = train(config, capsys, "--overwrite")
    other = train(config, capsys, "--overwrite", "--set", "seed=1")
    assert first["content_hash"] == again["content_hash"] != other["content_hash"]
    assert len(list((tmp_path / "store" / "first").glob("?" * 16))) == 2


def test_accumulated_batches_equal_one_large_batch(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Normalised by the completion tokens of all of them, however they are spread."""
    whole = {"learning_rate": 5e-3, "batch_size": 32, "max_steps": 1}
    parts = {"learning_rate": 5e-3, "batch_size": 4, "accumulation": 8, "max_steps": 1}
    data = {"validation": 0, "template_name": "summarize"}
    tensors = []
    for optimiser in (whole, parts):
        config = write_config(optimiser=optimiser)
        settings = yaml.safe_load(config.read_text())
        settings["data"] |= data
        rows = Path(settings["data"]["train"])
        rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(32)))
        config.write_text(yaml.safe_dump(settings))
        artifact = Path(train(config, capsys, "--overwrite")["artifact"])
        tensors.append(load_file(artifact / "adapter_model.safetensors"))
    for name, value in tensors[0].items():
        assert torch.allclose(tensors[1][name], value, atol=2e-5), name


def test_a_loss_that_is_not_a_number_stops_with_its_rows(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_calls = 0

    def sometimes_nan(model: Any, batch: Batch) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        loss = summed_loss(model, batch)
        return loss * float("nan") if num_calls == 3 else loss

    monkeypatch.setattr("trainer.objectives.supervised.summed_loss", sometimes_nan)
    config = write_config()
    assert main(["train", str(config), "--set", "data.validation=0"]) == 1
    error = capsys.readouterr().err
    assert "step 3: the loss is nan; rows " in error
    assert error.count("train.jsonl:") == 4


def test_an_artifact_that_computes_otherwise_is_refused(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    artifact = Path(train(write_config(), capsys)["artifact"])
    manifest = verify(artifact)
    bare = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    model = peft.PeftModel.from_pretrained(bare, str(artifact))
    path = artifact / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: tensors[name] + 0.01}, path)
    probe = Encoded((5, 6, 7), (8, 0), "f:1")
    exported = Exported(artifact, manifest)
    with pytest.raises(ExportError, match="differ by"):
        check_artifact(model, METHODS["lora"], exported, Supervised(), [probe])


def test_learning_rate_rises_and_falls() -> None:
    rates = {}
    for schedule in ("cosine", "linear", "constant"):
        settings = OptimiserConfig(learning_rate=1.0, warmup_share=0.1, schedule=schedule)
        rates[schedule] = [learning_rate_at(step, 100, settings) for step in range(100)]
        assert rates[schedule][:3] == pytest.approx([0.1, 0.2, 0.3])
        assert rates[schedule][9:11] == pytest.approx([1.0, 1.0])
    assert rates["constant"][99] == 1
    assert rates["linear"][55] == pytest.approx(0.5)
    assert rates["cosine"][55] == pytest.approx(0.5)
    assert 0 < rates["cosine"][99] < rates["linear"][99] < 0.02


def test_schema_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    optimiser = schema["$defs"]["OptimiserConfig"]["properties"]
    assert "AdamW" not in optimiser["batch_size"]["description"]
    assert optimiser["batch_size"]["description"] == "Examples per forward pass."
    assert set(schema["anyOf"][0]["required"]) == {"name", "base", "data", "output"}


@pytest.mark.parametrize("kind", ["sweep", "compare"])
def test_schemas_of_files_of_many_runs(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They know every key of the recipe, and demand the one that makes it such a file."""
    assert main(["schema", "--for", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / f"{kind}.yaml").read_text())
    assert set(schema["required"]) == {"name", "base", "data", "output", kind}
    assert recipe.keys() <= schema["properties"].keys()
    added = schema["properties"][kind]
    if kind == "sweep":
        fixed = re.compile(added["propertyNames"]["not"]["pattern"])
        assert not any(fixed.search(key) for key in recipe[kind])
        assert all(fixed.search(key) for key in ("name", "data.train", "loop.patience"))
        assert not fixed.search("database")
    else:
        assert recipe[kind].keys() <= added["properties"].keys()
        own = added["properties"]["methods"]["additionalProperties"]
        assert not {"name", "base", "output"} & own["properties"].keys()
        assert "required" not in own


def test_verify_names_what_was_changed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = Path(train(write_config(), capsys)["artifact"])
    path = artifact / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 4', '"r": 5'))
    assert main(["verify", str(artifact)]) == 2
    assert "adapter_config.json: sha256 differs" in capsys.readouterr().err
    assert main(["verify", str(artifact.parent)]) == 2
