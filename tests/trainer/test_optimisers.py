"""Each optimiser is its library's, stops and continues exactly; and gradients at less memory."""

import io
import itertools
import math
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from bitsandbytes.optim import AdamW8bit

from tests.trainer.conftest import WriteConfig, make_rows
from tests.trainer.test_numbers import attached, gradients
from trainer.__main__ import main
from trainer.config import DataConfig, LoraConfig, OptimiserConfig, OutputConfig, TrainConfig
from trainer.data import Example
from trainer.errors import NonFiniteLossError
from trainer.examples import InMemory
from trainer.job import Job
from trainer.model import load_tokenizer
from trainer.objectives.supervised import Supervised, summed_loss
from trainer.optimisers import OPTIMISERS
from trainer.schedule import learning_rate_at
from trainer.tokens import Encoded, collate, encode

NUM_STEPS = 6  # two epochs of three batches


def encoded(base: Path) -> list[Encoded]:
    rows = [
        Example(row["input"], row["completion"], f"f:{n}") for n, row in enumerate(make_rows(12))
    ]
    return encode(load_tokenizer(base), rows)


def make_job(base: Path, algorithm: str, **settings: float | None) -> Job:
    """A job over matrices large enough for bitsandbytes to keep 8 bits of each number."""
    config = TrainConfig(
        name="mine",
        base=base,
        data=DataConfig(train=Path("unread")),
        output=OutputConfig(dir=Path("unwritten")),
        method=LoraConfig(rank=64, alpha=64),
        optimiser=OptimiserConfig(
            algorithm=algorithm, learning_rate=5e-3, batch_size=4, epochs=2, **settings
        ),
        device="cpu",
    )
    model = attached(base, "lora", settings=config.method)
    examples = InMemory(encoded(base))
    return Job(config, model, Supervised(), examples, examples)


@pytest.mark.parametrize("algorithm", sorted(OPTIMISERS))
def test_a_stopped_job_continues_to_the_last_bit(base: Path, algorithm: str) -> None:
    whole = make_job(base, algorithm, weight_decay=0.1)
    while not whole.finished:
        whole.train_step()
    first = make_job(base, algorithm, weight_decay=0.1)
    for _ in range(NUM_STEPS // 2):
        first.train_step()
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = make_job(base, algorithm, weight_decay=0.1)
    second.load_state(torch.load(file, weights_only=True))
    assert second.num_steps == NUM_STEPS
    while not second.finished:
        second.train_step()
    expected = whole.tensors()
    start = make_job(base, algorithm).tensors()
    for name, tensor in second.tensors().items():
        assert torch.equal(tensor, expected[name]), name
        assert not torch.equal(tensor, start[name]), name


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, betas=(0.8, 0.9), weight_decay=0.2)),
        ("adamw_8bit", lambda p: AdamW8bit(p, betas=(0.8, 0.9), weight_decay=0.2)),
        ("paged_adamw_8bit", lambda p: AdamW8bit(p, betas=(0.8, 0.9), weight_decay=0.2)),
        ("adafactor", lambda p: torch.optim.Adafactor(p, weight_decay=0.2)),
        ("sgd", lambda p: torch.optim.SGD(p, momentum=0.8, weight_decay=0.2)),
    ],
)  # fmt: skip
def test_settings_reach_the_library(algorithm: str, make: object) -> None:
    settings = OptimiserConfig(algorithm=algorithm, betas=(0.8, 0.9), weight_decay=0.2)
    results = []
    for build in (lambda p: OPTIMISERS[algorithm]([{"params": p}], settings), make):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(80, 80))
        optimiser = build([parameter])
        for _ in range(3):
            parameter.grad = torch.randn(80, 80)
            optimiser.param_groups[0]["lr"] = 0.01
            optimiser.step()
        results.append(parameter.detach())
    assert torch.equal(*results)


def test_eight_bits_are_eight_bits(base: Path) -> None:
    job = make_job(base, "adamw_8bit")
    job.train_step()
    states = job.state()["optimizer"]["state"].values()
    kept = [s for state in states for s in state.values() if isinstance(s, dict)]
    assert kept
    assert all(s["state1"].dtype == torch.uint8 for s in kept if s["state1"].numel() >= 4096)
    assert any(s["state1"].numel() >= 4096 for s in kept)


def test_other_optimisers_need_a_learning_rate_of_their_own(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(optimiser={"algorithm": "sgd"})
    assert main(["train", str(config)]) == 2
    assert "key 'optimiser.learning_rate': give one for sgd" in capsys.readouterr().err


def test_schedules_end_at_their_share() -> None:
    for schedule in ("cosine", "linear", "constant", "inverse_sqrt"):
        settings = OptimiserConfig(
            learning_rate=2.0, warmup_share=0.1, schedule=schedule, min_share=0.25
        )
        rates = [learning_rate_at(step, 100, settings) for step in range(100)]
        assert rates[9] == pytest.approx(2.0)
        assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
        assert rates[99] >= 0.5
        if schedule in ("cosine", "linear"):
            assert rates[99] == pytest.approx(0.5, abs=0.02)
    plain = OptimiserConfig(learning_rate=1.0, warmup_share=0.04, schedule="inverse_sqrt")
    assert learning_rate_at(15, 100, plain) == pytest.approx(math.sqrt(4 / 16))


def test_without_a_limit_gradients_are_only_measured(base: Path) -> None:
    free, tight = make_job(base, "sgd", clip_norm=None), make_job(base, "sgd", clip_norm=1e-3)
    starts = free.tensors()
    reports = [job.train_step() for job in (free, tight)]
    assert reports[0].gradient_norm == reports[1].gradient_norm > 1e-3

    def moved(job: Job) -> float:
        tensors = job.tensors()
        return math.sqrt(sum(float((t - starts[n]).square().sum()) for n, t in tensors.items()))

    rate = reports[0].learning_rate
    assert moved(free) == pytest.approx(rate * reports[0].gradient_norm, rel=1e-3)
    assert moved(tight) == pytest.approx(rate * 1e-3, rel=1e-2)


def test_a_gradient_that_is_not_a_number_names_parameter_and_rows(base: Path) -> None:
    job = make_job(base, "adamw")
    broken = next(name for name in job.parameters if "layers.1.mlp.up_proj.lora_B" in name)
    job.parameters[broken].register_hook(lambda gradient: gradient * float("inf"))
    before = job.tensors()
    with pytest.raises(NonFiniteLossError) as caught:
        job.train_step()
    assert f"of {broken}; rows f:" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in job.tensors().items())
    assert job.step == 0


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_checkpointing_computes_layers_twice_and_the_same_bits(base: Path, method: str) -> None:
    model = attached(base, method).train()
    batch = collate(encoded(base))
    expected_loss = summed_loss(model, batch)
    expected = gradients(model, expected_loss)
    num_products = 0

    def count(*_: object) -> None:
        nonlocal num_products
        num_products += 1

    linears = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for module in linears:
        module.register_forward_pre_hook(count)
    model.activation_checkpointing_enable({"use_reentrant": False})
    loss = summed_loss(model, batch)
    got = gradients(model, loss)
    # What no gradient needs is not computed again.
    assert 1.8 * len(linears) < num_products <= 2 * len(linears)
    assert torch.equal(loss, expected_loss)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    num_products = 0
    with torch.no_grad():
        summed_loss(model.eval(), batch)
    assert num_products == len(linears)


def test_checkpointing_in_a_run_changes_no_bit(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.trainer.test_train import train

    config = write_config(method={"type": "lora", "rank": 4, "dropout": 0.2})
    plain = train(config, capsys)
    less = train(config, capsys, "--overwrite", "--set", "gradient_checkpointing=true")
    assert less["content_hash"] == plain["content_hash"]
