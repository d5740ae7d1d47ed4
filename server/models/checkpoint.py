"""Reads the parts of a Hugging Face model directory; whatever is wrong becomes one line."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from server.errors import StartupError
from understudy.artifact import read_safetensors_header

logger = logging.getLogger(__name__)

# transformers ignores some of these where they are broken.
_JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_MAX_REASON_CHARS = 300


@contextlib.contextmanager
def one_line(name: str, problem: str) -> Iterator[None]:
    """Turns any exception of the block into a StartupError: base, `problem`, reason."""
    try:
        yield
    except StartupError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
        if not reason or isinstance(error, LookupError | TypeError | AttributeError):
            reason = f"{type(error).__name__} {reason}".strip()
        raise StartupError(f"base {name!r}: {problem}: {reason}") from error


def read_config(directory: Path, name: str) -> PretrainedConfig:
    """The model's configuration. Raises StartupError also for other JSON files that are broken."""
    for file_name in _JSON_FILES:
        path = directory / file_name
        if path.is_file():
            with one_line(name, f"{file_name} cannot be read"):
                json.loads(path.read_text(encoding="utf-8"))
    with one_line(name, "config.json cannot be used"):
        return cast(PretrainedConfig, AutoConfig.from_pretrained(directory, local_files_only=True))


def read_tokenizer(directory: Path, name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises StartupError."""
    with one_line(name, "its tokenizer (tokenizer.json) cannot be loaded"):
        return cast(
            PreTrainedTokenizerBase,
            AutoTokenizer.from_pretrained(directory, local_files_only=True),
        )


def check_shapes(directory: Path, config: PretrainedConfig, name: str) -> None:
    """Raises StartupError if a weight's shape is not the one that the configuration leads to.

    transformers lets that pass where it quantizes: the first product would fail, or be wrong.
    """
    with one_line(name, "cannot be made from config.json"), torch.device("meta"):
        outline: Any = AutoModelForCausalLM.from_config(config)
    expected = {key: tuple(tensor.shape) for key, tensor in outline.state_dict().items()}
    # Some checkpoints hold the decoder without its head, and so without the prefix.
    prefix = f"{outline.base_model_prefix}."
    expected = {key.removeprefix(prefix): shape for key, shape in expected.items()} | expected
    for path in sorted(directory.glob("*.safetensors")):
        with one_line(name, "its weights cannot be read"):
            entries = read_safetensors_header(path)
        for entry in entries:
            if entry.shape != expected.get(entry.name, entry.shape):
                raise StartupError(
                    f"base {name!r}: {path.name}: {entry.name} has shape {list(entry.shape)}, "
                    f"config.json asks for {list(expected[entry.name])}"
                )


def read_model(
    directory: Path,
    name: str,
    *,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    int8_threshold: float,
) -> PreTrainedModel:
    """The model with its weights, quantized. Raises StartupError, also where one is missing."""
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=int8_threshold
        )
    if not sys.stderr.isatty():
        # A progress bar in a log file is one endless line.
        disable_progress_bar()
    with one_line(name, "its weights cannot be loaded"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    # transformers makes them up.
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise StartupError(f"base {name!r}: no *.safetensors file holds {missing[0]}{more}")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Else the first forward pass on a CPU with AVX512-BF16 rewrites the codes in place.
            module.support_avx512bf16_for_cpu = False
    model.eval()
    return cast(PreTrainedModel, model)


def eos_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> frozenset[int]:
    """The tokens that end a generation. One that no logit stands for cannot be drawn, and is
    left out with a warning."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = {*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id} - {None}
    found = frozenset(i for i in named if 0 <= i < vocab_size)
    if found != named:
        logger.warning(
            "end-of-sequence tokens %s are outside the vocabulary of %d and never come",
            sorted(named - found),
            vocab_size,
        )
    return found
