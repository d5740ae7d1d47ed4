"""A tiny base model and adapters for it, made on the spot: real parts in a second or two."""

import warnings
from pathlib import Path

import peft
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from understudy.artifact import Manifest, base_fingerprint, seal

CONTEXT = 2048
TEMPLATE = "Note: {{ input }}\nAnswer:"
WORDS = (
    "the late train left a quiet town before noon and nobody saw who had paid for both tickets "
    "while rain fell on the old bridge, so the driver wrote a short note: wait for the next one."
)


def make_base(directory: Path, seed: int = 0) -> Path:
    """Write a two-layer Llama with random weights and a byte-level tokenizer of 320 tokens."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
        # Wide enough that greedy choices are far from ties and depend on the whole prompt.
        initializer_range=0.2,
    )
    return make_model(directory, config, seed)


def make_qwen(directory: Path, seed: int = 0) -> Path:
    """Write a two-layer Qwen 2: biases on q, k and v, and fused members that differ in size."""
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
    )
    return make_model(directory, config, seed)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 320 tokens, its end of sequence the first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def make_model(directory: Path, config: PretrainedConfig, seed: int = 0) -> Path:
    """Write a causal model of any configuration with random weights and the same tokenizer."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_adapter(
    base: Path,
    directory: Path,
    config: peft.PeftConfig,
    *,
    name: str,
    seed: int,
    num_labels: int = 3,
    labels: tuple[str, ...] = (),
) -> Path:
    """Write an artifact with random weights: PEFT's two files and the manifest.

    `num_labels` and their names `labels` are for task_type SEQ_CLS.
    """
    torch.manual_seed(seed)
    architecture = AutoConfig.from_pretrained(base).architectures[0]
    if config.task_type == "SEQ_CLS":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        # PEFT warns of norms, and of embeddings that it saves or that are tied.
        warnings.simplefilter("ignore", UserWarning)
        adapted = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        adapted.save_pretrained(str(directory))
    seal(
        directory,
        Manifest(
            name=name,
            method=peft.PeftType(config.peft_type).value.lower(),
            base_fingerprint=base_fingerprint(base),
            base_name=base.name,
            base_architecture=architecture,
            quantization="nf4",
            # With a pattern PEFT's configuration does not tell which one is the largest.
            rank=0 if getattr(config, "rank_pattern", None) else getattr(config, "r", 0),
            num_virtual_tokens=getattr(config, "num_virtual_tokens", 0) or 0,
            prompt_template=TEMPLATE,
            labels=list(labels),
        ),
    )
    return directory


def lora_config() -> peft.LoraConfig:
    return peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
    )


def prompt_config() -> peft.PromptTuningConfig:
    return peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
