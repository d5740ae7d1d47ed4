"""Every fast form computes what its plain form does, and validation leaves the weights alone."""

from pathlib import Path

import peft
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import make_rows
from trainer import held
from trainer.config import LoraConfig, PromptTuningConfig
from trainer.data import Example
from trainer.methods import METHODS
from trainer.model import load_base, load_tokenizer
from trainer.objectives.supervised import summed_loss, summed_loss_plain
from trainer.schedule import seeded
from trainer.tokens import Batch, collate, encode

SETTINGS = {
    "lora": LoraConfig(rank=4),
    "prompt_tuning": PromptTuningConfig(type="prompt_tuning", num_virtual_tokens=5),
}


@pytest.fixture
def batch(base: Path) -> Batch:
    examples = [Example(row["input"], row["completion"], "f:1") for row in make_rows(6)]
    return collate(encode(load_tokenizer(base), examples))


def attached(
    base: Path, method: str, quantization: str = "nf4", settings: object = None
) -> peft.PeftModel:
    """A model whose adapter is not at its start, where half of the gradients are zero."""
    model = load_base(base, quantization=quantization, dtype=torch.float32, device="cpu")
    with seeded(1, "test"):
        adapted = METHODS[method].attach(model, settings or SETTINGS[method], load_tokenizer(base))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return adapted


def gradients(model: peft.PeftModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    assert got
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=tolerance, atol=tolerance), name
        assert value.abs().max() > 0, name


@pytest.fixture(params=["lora", "prompt_tuning"])
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_loss_and_gradients_equal_those_of_transformers(
    base: Path, batch: Batch, method: str
) -> None:
    """Ours: no mask, and logits only where a completion token is predicted."""
    model = attached(base, method).train()
    ours, plain = summed_loss(model, batch), summed_loss_plain(model, batch)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    assert_close(gradients(model, ours), gradients(model, plain), 1e-5)


def test_neighbours_and_padding_do_not_change_a_row(base: Path, method: str) -> None:
    model = attached(base, method).train()
    rows = make_rows(6)
    encoded = encode(
        load_tokenizer(base), [Example(r["input"], r["completion"], "f:1") for r in rows]
    )
    alone = sum(summed_loss(model, collate([example])).item() for example in encoded)
    assert summed_loss(model, collate(encoded)).item() == pytest.approx(alone, rel=1e-6)


def test_held_weights_change_no_bit(base: Path, batch: Batch, method: str) -> None:
    model = attached(base, method).train()
    plain = summed_loss(model, batch)
    expected = gradients(model, plain)
    held.hold(model, {})
    assert any("forward" in m.__dict__ for m in model.modules() if isinstance(m, Linear4bit))
    fast = summed_loss(model, batch)
    got = gradients(model, fast)
    assert torch.equal(fast, plain)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert got.keys() == expected.keys()
    held.release(model)
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert torch.equal(summed_loss(model, batch), plain)


def test_validation_does_not_repack_the_weights(base: Path, batch: Batch, method: str) -> None:
    """bitsandbytes would, at the first forward without gradient in eval mode."""
    model = attached(base, method)
    packed = {n: m.weight.clone() for n, m in model.named_modules() if isinstance(m, Linear4bit)}
    assert packed
    model.train()
    before = summed_loss(model, batch)
    gradients_before = gradients(model, before)
    model.eval()
    with torch.no_grad():
        assert torch.equal(summed_loss(model, batch), before)
        assert torch.equal(summed_loss(model, batch), before)
    model.train()
    after = summed_loss(model, batch)
    gradients_after = gradients(model, after)
    assert torch.equal(after, before)
    assert gradients_after.keys() == gradients_before.keys()
    for name, value in gradients_before.items():
        assert torch.equal(gradients_after[name], value), name
    for name, weight in packed.items():
        module = model.get_submodule(name)
        assert torch.equal(module.get_parameter("weight"), weight), name


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_other_quantizations_train(base: Path, batch: Batch, quantization: str) -> None:
    model = attached(base, "lora", quantization).train()
    ours, plain = summed_loss(model, batch), summed_loss_plain(model, batch)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-4)
    assert all(g.isfinite().all() for g in gradients(model, ours).values())


def test_a_fresh_adapter_starts_where_it_should(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    words = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    batch = collate(encode(tokenizer, [Example("the late train", "rain", "f:1")]))
    bare = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    expected = summed_loss(bare, batch)
    fresh = METHODS["lora"].attach(bare, SETTINGS["lora"], tokenizer)
    assert torch.allclose(summed_loss(fresh, batch), expected)

    def start(**settings: object) -> Tensor:
        model = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
        config = PromptTuningConfig(type="prompt_tuning", num_virtual_tokens=7, **settings)
        with seeded(0, "test"):
            model = METHODS["prompt_tuning"].attach(model, config, tokenizer)
        return model.get_parameter("prompt_encoder.default.embedding.weight").detach()

    ids = tokenizer("the late train", add_special_tokens=False)["input_ids"]
    repeated = (ids * 7)[:7]
    assert torch.equal(start(init="text", init_text="the late train"), words[repeated])
    drawn = start(init="vocab", init_vocab_size=50)
    assert all(any(torch.equal(row, word) for word in words[:50]) for row in drawn)
    noise = start(init="random")
    assert noise.std().item() == pytest.approx(words.std().item(), rel=0.2)
    assert not any(torch.equal(noise[0], word) for word in words)


def test_trainable_parameters_are_counted_before_loading(base: Path, method: str) -> None:
    from trainer.model import load_outline

    model = attached(base, method)
    counted = METHODS[method].num_trainable(load_outline(base), SETTINGS[method])
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)
