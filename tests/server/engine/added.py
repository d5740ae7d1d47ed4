"""Adapters that add tokens to the base's vocabulary, made as PEFT's users make them."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from understudy.artifact import Manifest, base_fingerprint, seal

MOON, ZEBRA, COMET = "<|moon|>", "zebra", "<comet>"


def make_added(
    base: Path,
    directory: Path,
    config: peft.PeftConfig,
    *,
    name: str,
    seed: int = 0,
    tokens: tuple[str, ...] = (MOON, ZEBRA, COMET),
    num_rows: int | None = None,
    eos: str | None = None,
    sealed: bool = True,
) -> Path:
    """Write an artifact whose vocabulary is the base's and `tokens`; those in brackets are special.

    `num_rows` are more rows than that. `eos` names the end of sequence.
    """
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for token in tokens:
        tokenizer.add_tokens([AddedToken(token, special=token.startswith("<|"))])
    if eos is not None:
        tokenizer.eos_token = eos
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(num_rows or old + len(tokens))
    with warnings.catch_warnings():
        # PEFT warns of embeddings that it saves or that are tied.
        warnings.simplefilter("ignore", UserWarning)
        with torch.no_grad():
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                module.weight[old:].normal_(std=0.2)
        adapted = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        adapted.save_pretrained(str(directory))
    tokenizer.save_pretrained(directory)
    if sealed:
        seal_added(base, directory, name, config)
    return directory


def seal_added(base: Path, directory: Path, name: str, config: peft.PeftConfig) -> None:
    """Write the manifest of such an artifact."""
    manifest = Manifest(
        name=name,
        method=peft.PeftType(config.peft_type).value.lower(),
        base_fingerprint=base_fingerprint(base),
        base_name=base.name,
        base_architecture=AutoConfig.from_pretrained(base).architectures[0],
        quantization="nf4",
    )
    seal(directory, manifest, adds_tokens=True)
