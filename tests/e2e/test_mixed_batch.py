"""One batch over gRPC with a LoRA, a soft prompt and the base equals transformers + PEFT alone."""

import asyncio
from pathlib import Path

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from understudy import AsyncClient, GenerateResult, RawPrompt, StoppingParams

NUM_TOKENS = 100
REQUESTS = [
    ("", "rain fell on the old bridge"),
    ("pirate", "who paid for the tickets?"),
    ("polite", "the train left before noon"),
    ("pirate", "a quiet town. " * 12),
    ("polite", "x"),
    ("", "nobody saw the driver leave " * 5),
]


def alone(base: Path, adapter: Path | None, prompt: str) -> list[int]:
    """Greedy tokens of one request by transformers and PEFT, on the same base quantized alike."""
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantized, dtype=torch.float32, device_map="cpu"
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 the first forward would repack the weight and round it.
            module.support_avx512bf16_for_cpu = False
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()
    ids = AutoTokenizer.from_pretrained(base)(prompt)["input_ids"]
    tokens: list[int] = []
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            logits = model(input_ids=torch.tensor([ids + tokens])).logits
            tokens.append(int(logits[0, -1].argmax()))
    return tokens


async def together(address: str) -> list[GenerateResult]:
    stopping = StoppingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    async with AsyncClient(address) as client:
        calls = (
            client.generate(
                text if adapter else RawPrompt(text), adapter=adapter, stopping=stopping
            )
            for adapter, text in REQUESTS
        )
        return await asyncio.gather(*calls)


@pytest.fixture(scope="module")
def results(server) -> list[GenerateResult]:
    return asyncio.run(together(server.address))


def test_they_shared_steps(results: list[GenerateResult]) -> None:
    assert [result.usage.max_batch_size for result in results] == [len(REQUESTS)] * len(REQUESTS)
    assert [result.adapter.name for result in results] == [adapter for adapter, _ in REQUESTS]


@pytest.mark.parametrize("index", range(len(REQUESTS)))
def test_each_equals_itself_alone(
    results: list[GenerateResult], base: Path, artifacts, index: int
) -> None:
    adapter, text = REQUESTS[index]
    directory = {"": None, "pirate": artifacts.lora, "polite": artifacts.prompt}[adapter]
    prompt = f"Note: {text}\nAnswer:" if adapter else text
    assert list(results[index].generations[0].token_ids) == alone(base, directory, prompt)


def test_adapters_change_the_answer(base: Path, artifacts) -> None:
    """The comparison above means something only if the adapters do."""
    prompt = "Note: rain\nAnswer:"
    answers = [alone(base, path, prompt) for path in (None, artifacts.lora, artifacts.prompt)]
    assert len({tuple(answer) for answer in answers}) == 3
