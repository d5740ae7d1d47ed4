"""The frozen base: its directory, tokenizer, outline and quantized weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from trainer.errors import BaseModelError
from understudy.artifact import ArtifactError, read_safetensors_header

# The keys by which the server knows a mixture of experts, too.
EXPERT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
)

# PEFT's task types -> the class of model that learns them, and what a base must be for it.
CLASSES: dict[str, Any] = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
}
WORDS = {
    "CAUSAL_LM": "a decoder",
    "SEQ_2_SEQ_LM": "an encoder-decoder",
    "SEQ_CLS": "a model to classify with",
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The base's tokenizer. Raises BaseModelError if there is none, or it ends no sequence."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        # The libraries raise what their many readers raise, here and below.
        message = " ".join(str(error).split())[:300]
        raise BaseModelError(f"base {str(directory)!r}: no usable tokenizer: {message}") from error
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"base {str(directory)!r}: the tokenizer has no end-of-sequence token, so a model "
            "trained with it would never stop"
        )
    return tokenizer


def read_config(directory: Path) -> PreTrainedConfig:
    """The base's `config.json`. Raises BaseModelError if transformers does not know such a model,
    or it has experts."""
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise BaseModelError(f"base {str(directory)!r}: not a model: {message}") from error
    _refuse_experts(config, directory)
    return config  # type: ignore[no-any-return]


def load_outline(directory: Path, task: str = "CAUSAL_LM") -> PreTrainedModel:
    """The base's modules without weights, on the `meta` device: what can be adapted, how large.

    Raises BaseModelError if transformers cannot make a model for `task` of it, or it has experts.
    """
    config = read_config(directory)
    try:
        with torch.device("meta"):
            model = CLASSES[task].from_config(config)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise BaseModelError(f"base {str(directory)!r}: not {WORDS[task]}: {message}") from error
    if task != "SEQ_CLS" and model.get_output_embeddings() is None:
        raise BaseModelError(f"base {str(directory)!r}: the model predicts no tokens")
    return model  # type: ignore[no-any-return]


def task_of(model: PreTrainedModel) -> str:
    """PEFT's task type of a model that `load_base` or `load_outline` gave."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """What maps the last hidden states to tokens or classes."""
    return model.get_output_embeddings() or getattr(model, "score", None)


def _refuse_experts(config: PreTrainedConfig, directory: Path) -> None:
    """Raises BaseModelError for a mixture of experts: its experts are no linears, so they would be
    neither quantized nor adapted, and the server does not serve it."""
    text = config.get_text_config()
    for key in EXPERT_KEYS:
        if (getattr(text, key, None) or 0) > 1:
            raise BaseModelError(
                f"base {str(directory)!r} ({config.model_type}): a mixture of experts ({key} "
                f"{getattr(text, key)}) is not trained, and no server serves it; take a dense model"
            )


def check_shapes(directory: Path, outline: nn.Module) -> None:
    """Raises BaseModelError if a weight's shape is not the one that `config.json` leads to.

    transformers lets that pass where it quantizes: the first product would fail, or be wrong.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    try:
        for path in sorted(directory.glob("*.safetensors")):
            for entry in read_safetensors_header(path):
                if entry.shape != expected.get(entry.name, entry.shape):
                    raise BaseModelError(
                        f"base {str(directory)!r}: {path.name}: {entry.name} has shape "
                        f"{entry.shape}, config.json asks for {expected[entry.name]}"
                    )
    except ArtifactError as error:
        raise BaseModelError(f"base {str(directory)!r}: {error}") from error


def head_width(model: PreTrainedModel) -> int:
    """What a head for classes takes in: the size of the last hidden states."""
    return int(model.config.get_text_config().hidden_size)


def context_length(config: PreTrainedConfig) -> int | None:
    """Most positions of the model, or None if it names no limit."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def load_base(
    directory: Path,
    *,
    quantization: str,
    dtype: torch.dtype,
    device: str,
    task: str = "CAUSAL_LM",
) -> PreTrainedModel:
    """The base with frozen weights, quantized, as the class that learns `task`.

    For SEQ_CLS `give_head` must follow.

    NF4 has blocks of 64 and double quantization. Norms, embeddings and the output head keep
    `dtype`: raising them to float32, as PEFT's prepare_model_for_kbit_training does, would train
    against other numbers than are served. Reads safetensors only. Raises BaseModelError if
    weights are missing or cannot be loaded.
    """
    config = read_config(directory)
    if task == "SEQ_CLS":
        # transformers classifies no batch without one; which token it is does not matter here.
        config.get_text_config().pad_token_id = config.get_text_config().pad_token_id or 0
    try:
        with quiet():
            loaded: Any = CLASSES[task].from_pretrained(
                directory,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                quantization_config=_quantization_config(quantization, dtype),
                dtype=dtype,
                device_map={"": device},
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        raise BaseModelError(f"base {str(directory)!r}: cannot be loaded: {message}") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    missing = set(info["missing_keys"])
    if task == "SEQ_CLS":
        missing -= {"score.weight"}
    if missing:
        # transformers would go on with random numbers in their place.
        raise BaseModelError(
            f"base {str(directory)!r}: its weights lack {len(missing)} tensors, such as "
            f"{min(missing)}"
        )
    keep_weights_as_loaded(model)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def give_head(model: PreTrainedModel, num_labels: int) -> None:
    """Gives a model for SEQ_CLS a fresh head `score` [num_labels, H] in float32.

    Drawn from torch's current state, with the deviation that the base's own weights began with.
    """
    old = model.get_submodule("score").get_parameter("weight")
    head = nn.Linear(old.shape[1], num_labels, bias=False, dtype=torch.float32)
    deviation = getattr(model.config.get_text_config(), "initializer_range", None) or 0.02
    nn.init.normal_(head.weight, std=deviation)
    model.score = head.to(old.device).requires_grad_(False)
    model.config.num_labels = num_labels


def keep_weights_as_loaded(model: nn.Module) -> None:
    """Stops bitsandbytes from repacking 4-bit weights on CPU, and from losing int8 scales.

    At the first forward without gradient in eval mode it would replace them, in place, by a layout
    for bfloat16 inference: later gradients would be None and outputs off by 3e-3.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            module.register_forward_pre_hook(_keep_int8)


def _keep_int8(module: nn.Module, _: Any) -> None:
    """PEFT's DoRA makes an int8 weight anew at each pass, as if its codes and scales had not moved
    into bitsandbytes' state yet; moving them a second time would lose the scales."""
    int8 = cast(Any, module)
    if int8.state.SCB is not None:
        int8.state.CB, int8.weight.CB = int8.weight.data, None


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if quantization == "int8" else None


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bar for the weights, and what it says beside errors."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            transformers_logging.enable_progress_bar()
