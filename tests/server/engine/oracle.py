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

# Of a float32 number, relative to the largest of its row.
_LAST_BITS = 1e-6


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
        if model.active_peft_config.peft_type == peft.PeftType.MULTITASK_PROMPT_TUNING:
            model.register_forward_pre_hook(_tell_the_only_task, with_kwargs=True)
    assert isinstance(model, torch.nn.Module)
    return model.eval()


def _tell_the_only_task(_: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**inputs, "task_ids": torch.zeros(1, dtype=torch.long)}


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


@torch.inference_mode()
def rows(model: torch.nn.Module, ids: tuple[int, ...], count: int) -> torch.Tensor:
    """Log-probabilities [count, vocabulary] behind the last `count` of `ids`; a classifier's logits
    [1, labels]."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.unsqueeze(0) if logits.dim() == 1 else logits[-count:].log_softmax(-1)


def distances(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Of each row, relative to the expected one's norm."""
    relative: torch.Tensor = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return relative


def moves(model: torch.nn.Module, ids: tuple[int, ...], count: int, bound: float) -> bool:
    """Whether noise in the last bits of what int8 linears read moves one of `rows` by more than
    `bound`."""
    steady = rows(model, ids, count)
    generator = torch.Generator().manual_seed(0)

    def disturb(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        x = inputs[0]
        noise = torch.randn(x.shape, generator=generator) * x.abs().amax(-1, keepdim=True)
        return (x + _LAST_BITS * noise,)

    hooks = [
        module.register_forward_pre_hook(disturb)
        for module in model.modules()
        if isinstance(module, Linear8bitLt)
    ]
    try:
        return any(
            float(distances(rows(model, ids, count), steady).max()) > bound for _ in range(8)
        )
    finally:
        for hook in hooks:
            hook.remove()
