"""Every variant of LoRA: what it trains, that it resumes, and that its file is what was trained."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor

from tests.tiny import make_qwen
from tests.trainer.jobs import configure, exported, job_of, trained, trained_whole_and_resumed
from trainer import preflight
from trainer.build import load_base as load_shared
from trainer.build import make_job
from trainer.config import TrainConfig
from trainer.job import Job
from trainer.methods import METHODS
from trainer.methods.lora.directions import principal_directions
from trainer.methods.lora.variants import SUBTRACTED, VARIANTS
from trainer.model import load_base
from trainer.schedule import seeded
from understudy.artifact import CONFIG_FILE, read_json_object

# PEFT warns of norms, and of embeddings and heads that it would save as a whole.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("nf4", {"type": name}) for name in VARIANTS},
    "dora-int8": ("int8", {"type": "dora"}),
    "pissa-int8": ("int8", {"type": "pissa", "svd_iterations": "exact", "dropout": 0.1}),
    "loftq-int8": ("int8", {"type": "loftq"}),
    "dora-none": ("none", {"type": "dora", "use_rslora": True, "init": "eva"}),
    "lora_ga-none": ("none", {"type": "lora_ga"}),
    "corda-rslora": (
        "nf4",
        {
            "type": "corda",
            "use_rslora": True,
            "rank_pattern": {"q_proj": 6},
            "alpha_pattern": {r"0\.mlp\.[a-z]*_proj": 9},
        },
    ),
    "pissa-fa-plus": ("nf4", {"type": "pissa", "freeze_a": True, "learning_rate_ratio": 4}),
    "gaussian": ("nf4", {"init": "gaussian", "targets": r"(?!.*mlp).*\.(q|v)_proj"}),
    "orthogonal": ("nf4", {"init": "orthogonal", "use_dora": True}),
    "layers": ("nf4", {"layers": [-1], "layers_pattern": "layers", "lora_bias": True}),
    "ends": (
        "nf4",
        {
            "targets": ["embed_tokens", "q_proj", "lm_head"],
            "modules_to_save": ["norm", "input_layernorm"],
            "use_dora": True,
        },
    ),
    "saved": ("nf4", {"modules_to_save": ["embed_tokens", "lm_head"], "targets": ["v_proj"]}),
    "tokens": (
        "nf4",
        {"trainable_token_indices": list(range(2, 300, 3)), "targets": ["up_proj", "lm_head"]},
    ),
}

BIASED: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("nf4", {"bias": "all", "targets": ["o_proj", "up_proj"]}),
    "lora_only": ("none", {"bias": "lora_only", "use_dora": True, "targets": ["q_proj", "o_proj"]}),
}
IN_BFLOAT16: dict[str, tuple[str, dict[str, Any]]] = {
    "pissa": ("none", {"type": "pissa"}),
    "dora": ("none", {"type": "dora"}),
    "base": (
        "nf4",
        {
            "bias": "all",
            "modules_to_save": ["norm", "lm_head"],
            "trainable_token_indices": list(range(2, 300, 3)),
        },
    ),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen(tmp_path_factory.mktemp("lora") / "qwen")


def prepared_for(
    base: Path, folder: Path, method: dict[str, Any], quantization: str = "nf4", **others: Any
) -> tuple[TrainConfig, preflight.Prepared]:
    method = {"rank": 4, "init_examples": 8, **method}
    config = configure(base, folder, method, quantization, **others)
    return config, preflight.prepare(config)


def logits(model: Any) -> Tensor:
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits  # type: ignore[no-any-return]


def check_training(
    base: Path, folder: Path, method: dict[str, Any], quantization: str, dtype: str = "float32"
) -> None:
    """Trains, stops and resumes, writes and reads: the same parameters, hashes and logits."""
    config, prepared = prepared_for(base, folder, method, quantization, dtype=dtype)
    job, again = trained_whole_and_resumed(config, prepared)
    assert prepared.num_trainable == sum(p.numel() for p in job.parameters.values())
    assert {p.dtype for p in job.parameters.values()} == {torch.float32}
    moved = job.state()["optimizer"]["state"].values()
    assert all(moments["exp_avg"].any() for moments in moved)
    assert len(moved) == len(job.parameters)

    of_trained = logits(job.model)
    artifact = exported(job, prepared, folder / "whole")
    assert torch.equal(logits(job.model), of_trained)
    # Whatever expression chose them.
    targets = read_json_object(artifact.directory / CONFIG_FILE)["target_modules"]
    assert targets == sorted(targets)
    resumed = exported(again, prepared, folder / "resumed")
    assert resumed.manifest.content_hash == artifact.manifest.content_hash

    # On the base as the server holds it: quantized, and untouched by any initialisation.
    kind = getattr(torch, dtype)
    fresh = load_base(base, quantization=quantization, dtype=kind, device="cpu")
    of_base = logits(fresh)
    read = logits(peft.PeftModel.from_pretrained(fresh, artifact.directory))
    assert torch.equal(read, of_trained)
    assert (read - of_base).abs().max() > 1e-3
    detached = METHODS[config.method.type].detach(job.model)
    assert torch.equal(logits(detached), of_base)


@pytest.mark.parametrize("case", CASES)
def test_trains_resumes_and_is_read_back(case: str, base: Path, tmp_path: Path) -> None:
    quantization, method = CASES[case]
    check_training(base, tmp_path, method, quantization)


@pytest.mark.parametrize("case", BIASED)
def test_a_base_with_biases(case: str, qwen: Path, tmp_path: Path) -> None:
    quantization, method = BIASED[case]
    check_training(qwen, tmp_path, method, quantization)


@pytest.mark.parametrize("case", IN_BFLOAT16)
def test_in_bfloat16(case: str, qwen: Path, tmp_path: Path) -> None:
    """What is trained of the base itself is float32 there, too."""
    quantization, method = IN_BFLOAT16[case]
    check_training(qwen, tmp_path, method, quantization, "bfloat16")


@pytest.mark.parametrize("case", ["pissa", "corda-rslora", "ends", "tokens"])
def test_what_is_written_is_canonical(case: str, base: Path, tmp_path: Path) -> None:
    quantization, method = CASES[case]
    config, prepared = prepared_for(base, tmp_path, method, quantization)
    artifact = exported(job_of(config, prepared), prepared, tmp_path / "adapter")
    text = (artifact.directory / "adapter_config.json").read_text()
    written = json.loads(text)
    assert str(tmp_path) not in text
    assert str(base.parent) not in text
    assert written["base_model_name_or_path"] == "tiny"
    assert written["init_lora_weights"] is True
    for key in ("target_modules", "modules_to_save"):
        assert written[key] is None or written[key] == sorted(written[key])
    rank = {"pissa": 8, "corda-rslora": 12}.get(case, 4)
    assert artifact.manifest.rank == rank
    assert artifact.manifest.method == "lora"


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("init", SUBTRACTED)
def test_subtracted_updates_start_at_zero(
    init: str, quantization: str, base: Path, tmp_path: Path
) -> None:
    config, prepared = prepared_for(base, tmp_path, {"init": init}, quantization)
    fresh = load_base(base, quantization=quantization, dtype=torch.float32, device="cpu")
    expected = logits(fresh)
    got = logits(job_of(config, prepared).model)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def peft_way(base: Path, folder: Path, init: str, job: Job, prepared: Any) -> dict[str, Tensor]:
    """The tensors of an adapter trained on a base that PEFT changed, and converted by PEFT."""
    changed = load_base(base, quantization="none", dtype=torch.float32, device="cpu")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        init_lora_weights=init,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(changed, config)
    start = folder / "start"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(start))
    model.peft_config["default"].init_lora_weights = init
    other = Job(job.config, model, prepared.objective, prepared.train, prepared.validation)
    while not other.finished:
        other.train_step()
    model.save_pretrained(str(folder / "end"), path_initial_model_for_weight_conversion=str(start))
    return peft.load_peft_weights(str(folder / "end"), device="cpu")  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_training_is_that_of_peft_on_a_changed_base(init: str, base: Path, tmp_path: Path) -> None:
    """Without quantization both are the same up to rounding."""
    method = {"init": init, "svd_iterations": "exact"}
    config, prepared = prepared_for(base, tmp_path, method, "none", learning_rate=1e-3)
    job = trained(config, prepared)
    expected = peft_way(base, tmp_path, init, job, prepared)
    artifact = exported(job, prepared, tmp_path / "adapter")
    got = peft.load_peft_weights(str(artifact.directory), device="cpu")
    assert got.keys() == expected.keys()
    for name in got:
        if "lora_A" not in name:
            continue
        b = name.replace("lora_A", "lora_B")
        ours, theirs = got[b] @ got[name], expected[b] @ expected[name]
        assert theirs.abs().max() > 1e-3
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm(), name


def test_fast_pissa_is_near_the_exact_one(base: Path, tmp_path: Path) -> None:
    config, prepared = prepared_for(base, tmp_path, {"type": "pissa"}, "none")
    exact = configure(
        base, tmp_path, {"type": "pissa", "rank": 4, "svd_iterations": "exact"}, "none"
    )
    updates = []
    for each in (config, exact):
        state = job_of(each, prepared).tensors()
        name = next(n for n in state if "up_proj.lora_A" in n)
        updates.append(state[name.replace("lora_A", "lora_B")] @ state[name])
    assert (updates[0] - updates[1]).norm() < 0.05 * updates[1].norm()


def test_lora_plus_groups_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    config, prepared = prepared_for(base, tmp_path, {"type": "lora_plus", "use_dora": True})
    job = job_of(config, prepared)
    groups = METHODS["lora_plus"].parameter_groups(config.method, job.parameters)
    assert sum(len(group.names) for group in groups) == len(job.parameters)
    ours = {job.parameters[n]: group.rate for group in groups for n in group.names}
    theirs = create_loraplus_optimizer(job.model, torch.optim.AdamW, lr=1.0, loraplus_lr_ratio=16.0)
    expected = {p: group["lr"] for group in theirs.param_groups for p in group["params"]}
    assert {id(p): rate for p, rate in ours.items()} == {id(p): r for p, r in expected.items()}


def test_lora_plus_steps_are_those_of_two_rates(base: Path, tmp_path: Path) -> None:
    """The first step of AdamW has the size of the learning rate."""
    config, prepared = prepared_for(
        base,
        tmp_path,
        {"type": "lora_plus"},
        learning_rate=1e-3,
        schedule="constant",
        warmup_share=0,
    )
    job = job_of(config, prepared)
    job.train_step()
    before = job.tensors()
    job.train_step()
    steps = {n: (t - before[n]).abs().max().item() for n, t in job.tensors().items()}
    largest = {part: max(s for n, s in steps.items() if part in n) for part in ("lora_A", "lora_B")}
    assert largest["lora_A"] < 2e-3
    assert 8e-3 < largest["lora_B"] < 3e-2


@pytest.mark.parametrize(("name", "kept"), [("lora_fa", "lora_A"), ("mica", "lora_B")])
def test_what_a_variant_keeps_is_not_trained(
    name: str, kept: str, base: Path, tmp_path: Path
) -> None:
    config, prepared = prepared_for(base, tmp_path, {"type": name})
    job = job_of(config, prepared)
    before = {n: p.clone() for n, p in job.model.named_parameters() if kept in n}
    assert before
    assert not any(kept in n for n in job.parameters)
    while not job.finished:
        job.train_step()
    for n, parameter in job.model.named_parameters():
        assert kept not in n or torch.equal(parameter, before[n])


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_loftq_makes_up_for_quantization(quantization: str, base: Path, tmp_path: Path) -> None:
    """The update is the best of its rank: what is left are the error's other singular values."""
    config, prepared = prepared_for(base, tmp_path, {"type": "loftq", "alpha": 6}, quantization)
    job = job_of(config, prepared)
    plain = load_base(base, quantization="none", dtype=torch.float32, device="cpu")
    layer = job.model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
    weight = plain.get_parameter("model.layers.1.mlp.up_proj.weight")
    quantized = peft.utils.integrations.dequantize_module_weight(layer.get_base_layer())
    error = weight - quantized
    left = error - layer.get_delta_weight("default")
    assert left.norm() < 0.95 * error.norm()
    assert left.norm().item() == pytest.approx(
        torch.linalg.svdvals(error)[4:].norm().item(), rel=1e-4
    )


def test_eva_is_that_of_peft(base: Path, tmp_path: Path) -> None:
    """On one example PEFT's loop and ours see the same inputs."""
    model = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    ids = torch.randint(1, 300, (1, 90), generator=torch.Generator().manual_seed(1))
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    found = principal_directions(
        model,
        {name: model.get_submodule(name) for name in names},
        dict.fromkeys(names, 3),
        [ids],
        lambda each, example: each(input_ids=example).logits.sum(),
    )
    config = peft.LoraConfig(
        r=3,
        target_modules=names,
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=1.0),
        task_type="CAUSAL_LM",
    )
    expected = peft.get_eva_state_dict(model, [{"input_ids": ids}], config, show_progress_bar=False)
    for name in names:
        cosines = torch.nn.functional.cosine_similarity(found[name], expected[name]).abs()
        assert cosines.min() > 0.99, name


def test_corda_and_lora_ga_look_at_the_examples(base: Path, tmp_path: Path) -> None:
    for init in ("corda", "lora_ga", "eva"):
        starts = []
        for num in (2, 30):
            config, prepared = prepared_for(base, tmp_path, {"init": init, "init_examples": num})
            state = job_of(config, prepared).tensors()
            starts.append(next(t for n, t in state.items() if "lora_A" in n))
        assert not torch.allclose(starts[0], starts[1]), init


def test_plain_lora_starts_as_peft_starts_it(base: Path, tmp_path: Path) -> None:
    config, prepared = prepared_for(base, tmp_path, {"type": "lora"})
    job = job_of(config, prepared)
    with seeded(config.seed, "adapter"):
        plain = peft.get_peft_model(
            load_base(base, quantization="nf4", dtype=torch.float32, device="cpu"),
            peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    expected = dict(plain.named_parameters())
    for name, tensor in job.tensors().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_variants_share_a_base_turn_by_turn(quantization: str, base: Path, tmp_path: Path) -> None:
    """None of them changes it, however its initialisation is defined."""
    types = ("pissa", "dora", "mica", "loftq")
    runs = [prepared_for(base, tmp_path, {"type": name}, quantization) for name in types]
    shared = load_shared(runs[0][0], "CAUSAL_LM")
    together = [make_job(config, prepared, shared, alone=False) for config, prepared in runs]
    while not together[0].finished:
        for job in together:
            job.train_step()
    for job, (config, prepared) in zip(together, runs, strict=True):
        alone = trained(config, prepared).tensors()
        assert all(torch.equal(tensor, alone[name]) for name, tensor in job.tensors().items())
