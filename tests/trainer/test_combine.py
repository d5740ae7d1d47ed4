"""Combining adapters of a store into one, by the command line."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from server.models.loader import LoadedBase, load_base
from tests.server.engine.kinds import hold
from tests.tiny import make_adapter, make_base
from trainer.__main__ import main
from trainer.combine import RECIPES
from understudy.artifact import read_manifest, verify
from understudy.store import publish

_TASK = {"task_type": "CAUSAL_LM"}
_CONFIGS: dict[str, peft.PeftConfig] = {
    "a": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **_TASK),
    "b": peft.LoraConfig(r=4, lora_alpha=3, target_modules=["v_proj", "up_proj"], **_TASK),
    "scaled": peft.LoraConfig(r=6, use_rslora=True, target_modules=["q_proj"], **_TASK),
    "late": peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 7},
        layers_to_transform=[1],
        **_TASK,
    ),
    "without": peft.LoraConfig(
        r=3, target_modules=["q_proj", "v_proj"], exclude_modules=["0.self_attn.q_proj"], **_TASK
    ),
    "pattern": peft.LoraConfig(r=3, target_modules=r".*\.[ov]_proj", **_TASK),
    "words": peft.LoraConfig(r=3, target_modules=["q_proj", "embed_tokens"], **_TASK),
    "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=["q_proj"], **_TASK),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **_TASK),
}
# Of PEFT about a base without a name on the hub.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("combine") / "base")


@pytest.fixture(scope="module")
def served(base: Path) -> LoadedBase:
    return load_base(base, quantization="none")


@pytest.fixture(scope="module")
def store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate(_CONFIGS.items()):
        publish(make_adapter(base, root / name, config, name=name, seed=seed), root / "store", name)
    other = make_base(root / "other-base", seed=9)
    publish(make_adapter(other, root / "o", _CONFIGS["a"], name="o", seed=1), root / "store", "o")
    return root / "store"


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["combine", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@torch.no_grad()
def _logits(base: Path, *folders: Path) -> torch.Tensor:
    """Logits of the base with the updates of all `folders`, each as it is."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if folders:
        model = peft.PeftModel.from_pretrained(model, str(folders[0]), adapter_name="0")
        for i, folder in enumerate(folders[1:], start=1):
            model.load_adapter(str(folder), adapter_name=str(i))
        model.base_model.set_adapter([str(i) for i in range(len(folders))])
    found: torch.Tensor = model.eval()(input_ids=torch.tensor([[5, 77, 140, 9]])).logits
    return found


def _folder(store: Path, summary: dict[str, Any]) -> Path:
    return store / summary["name"] / summary["version"]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "b"),
        ("scaled", "a", "b"),
        # The first one's layers must not be those of the sum, nor a sum lack what it excludes.
        ("late", "a"),
        ("a", "late"),
        ("without", "pattern", "late"),
    ],
)
def test_a_sum_computes_what_its_parts_do(
    capsys: pytest.CaptureFixture[str], base: Path, store: Path, names: tuple[str, ...]
) -> None:
    code, out, _ = _run(
        capsys, "total", "--adapters", *names, "--base", base, "--store", store, "--json"
    )
    assert code == 0
    summary = json.loads(out)
    ranks = [max(_CONFIGS[name].r, *_CONFIGS[name].rank_pattern.values(), 0) for name in names]
    assert summary["rank"] == sum(ranks)
    assert summary["relative_difference_from_sum"] < 1e-6
    folder = _folder(store, summary)
    parts = [store / name / (store / name / "latest").read_text().strip() for name in names]
    expected = _logits(base, *parts)
    assert (_logits(base, folder) - expected).norm() <= 1e-5 * expected.norm()
    manifest = verify(folder)
    assert (manifest.name, manifest.method, manifest.rank) == ("total", "lora", summary["rank"])
    first = read_manifest(parts[0])
    assert first is not None
    assert manifest.prompt_template == first.prompt_template
    assert str(base.parent) not in "".join(p.read_text() for p in folder.glob("*.json"))


@torch.no_grad()
def _peft_logits(base: Path, parts: list[Path], seed: int, **recipe: Any) -> torch.Tensor:
    """Logits of PEFT's own combination on the base, as its users make it."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, str(parts[0]), adapter_name="first")
    model.load_adapter(str(parts[1]), adapter_name="second")
    torch.manual_seed(seed)
    model.add_weighted_adapter(["first", "second"], [0.5, 0.7], "both", **recipe)
    model.set_adapter("both")
    found: torch.Tensor = model.eval()(input_ids=torch.tensor([[5, 77, 140, 9]])).logits
    return found


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "sum"])
def test_recipes(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    store: Path,
    served: LoadedBase,
    recipe: str,
) -> None:
    density = [] if recipe in ("svd", "linear") else ["--density", "0.5"]
    rank = ["--rank", "3"] if recipe.endswith("svd") else []
    arguments = ["r", "--adapters", "a=0.5", "b=0.7", "--base", base, "--store", store]
    runs = []
    for seed in (1, 1, 2):
        code, out, _ = _run(
            capsys, *arguments, "--recipe", recipe, *density, *rank, "--seed", seed, "--json"
        )
        assert code == 0
        runs.append(json.loads(out))
    assert runs[0] == runs[1]
    assert (runs[0]["version"] != runs[2]["version"]) == ("dare" in recipe)
    assert runs[0]["rank"] == (3 if rank else 4)
    assert 0 < runs[0]["relative_difference_from_sum"] < 2
    parts = [store / name / (store / name / "latest").read_text().strip() for name in ("a", "b")]
    for seed, run in ((1, runs[0]), (2, runs[2])):
        folder = _folder(store, run)
        verify(folder)
        expected = _peft_logits(
            base,
            parts,
            seed,
            combination_type=recipe,
            density=0.5 if density else None,
            svd_rank=3 if rank else None,
        )
        assert (_logits(base, folder) - expected).norm() <= 1e-5 * expected.norm()
        assert hold("r", folder, served).weights.rank == run["rank"]


def test_full_rank_svd_is_the_sum(
    capsys: pytest.CaptureFixture[str], base: Path, store: Path
) -> None:
    code, out, _ = _run(
        capsys,
        *["whole", "--adapters", "a=0.5", "b=-0.7", "--base", base, "--store", store],
        *["--recipe", "svd", "--rank", 8],
    )
    assert code == 0
    assert out.startswith("whole: a@")
    folder = next(path for path in (store / "whole").iterdir() if path.is_dir())
    run = json.loads((folder / "run.json").read_text())
    assert run["relative_difference_from_sum"] < 1e-5
    assert [adapter["weight"] for adapter in run["adapters"]] == [0.5, -0.7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "two adapters or more"),
        (["a", "b=x"], "weight 'x' is not a number"),
        (["a", "b=1e300"], "weights 1, 1e+300 lead to numbers beyond float32's largest"),
        (["a", "b=nan"], "weights 1, nan lead to numbers beyond float32's largest"),
        (["a", "nobody"], "'nobody' is not in the store"),
        (["a", "../b"], "adapter name '../b' is not allowed"),
        (["a", "dora"], "adapter 'dora': use_dora True; only plain LoRA"),
        (["a", "words"], "adapter 'words': holds tensor 'base_model.model.model.embed_tokens.base"),
        (["a", "prompt"], "adapter 'prompt' is prompt_tuning; only LoRA"),
        (["a", "o"], "adapter 'o' was trained on base 'other-base'"),
        (["a", "b", "--recipe", "soup"], "--recipe 'soup' is not one of sum, svd"),
        (["a", "b", "--recipe", "ties"], "--recipe ties needs a --density"),
        (["a", "b", "--density", "0.5"], "--recipe sum takes no --density"),
        (["a", "b", "--recipe", "ties", "--density", "2"], "--density 2 is not in (0, 1]"),
        (["a", "b", "--rank", "3"], "--recipe sum takes no --rank"),
        (["a", "b", "--recipe", "svd", "--rank", "0"], "--rank 0 is not a number from 1"),
        (["a", "scaled", "--recipe", "linear"], "same r value"),
    ],
)
def test_wrong_input(
    capsys: pytest.CaptureFixture[str], base: Path, store: Path, arguments: list[str], message: str
) -> None:
    code, out, err = _run(capsys, "x", "--base", base, "--store", store, "--adapters", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (store / "x").exists()
