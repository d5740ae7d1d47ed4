"""The other way to run a request: alone, through transformers and PEFT, without any cache."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)


@dataclass(frozen=True)
class Solo:
    """Greedy tokens, and the logits [steps, vocabulary] each was chosen from."""

    token_ids: tuple[int, ...]
    logits: torch.Tensor


def load(
    base: Path,
    quantization: str,
    adapter: Path | None,
    int8_threshold: float = 6.0,
    num_labels: int | None = None,
    num_tokens: int | None = None,
) -> torch.nn.Module:
    """The base as the trainer and PEFT's users load it, in float32; with `num_labels` to
    classify, resized to `num_tokens`."""
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    elif quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=int8_threshold
        )
    kind: Any = AutoModelForCausalLM
    if num_labels is not None:
        kind, options["num_labels"] = AutoModelForSequenceClassification, num_labels
    model: Any = kind.from_pretrained(base, dtype=torch.float32, **options)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    if num_tokens is not None:
        model.resize_token_embeddings(num_tokens)
    if adapter is not None:
        with warnings.catch_warnings():
            # PEFT warns of norms, and of embeddings that are tied.
            warnings.simplefilter("ignore", UserWarning)
            model = peft.PeftModel.from_pretrained(model, adapter)
        for module in model.modules():
            if isinstance(module, Linear8bitLt):
                module.register_forward_pre_hook(_keep_int8)
    assert isinstance(model, torch.nn.Module)
    return model.eval()


def _keep_int8(module: Any, _: Any) -> None:
    """PEFT's DoRA makes the weight anew at each pass, as if its codes and scales had not been moved
    to the state yet; moving them twice would lose the scales."""
    if module.state.SCB is not None:
        module.state.CB, module.weight.CB = module.weight.data, None


@torch.inference_mode()
def greedy(
    model: torch.nn.Module, prompt: tuple[int, ...], count: int, eos: frozenset[int] = frozenset()
) -> Solo:
    """`count` greedy tokens, or up to an end of sequence, each from a full forward pass."""
    ids = list(prompt)
    rows: list[torch.Tensor] = []
    while len(rows) < count and not (rows and ids[-1] in eos):
        rows.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1])
        ids.append(int(rows[-1].argmax()))
    return Solo(tuple(ids[len(prompt) :]), torch.stack(rows))
