"""Merges an adapter into its base's weights: a new base that needs no adapter.

An adapter was trained against the quantized base, and is right on those weights alone. So the
quantized weights are dequantized and the update is added to them: that computes what base and
adapter compute, within the rounding of the weights written. On the original weights
(`weights: original`) the quantization's error, which the adapter had learned to live with, is
missing, and every logit moves.
"""

import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from trainer import model, probes
from trainer.errors import ExportError, InputError
from trainer.export import RUN_FILE
from trainer.facts import package_versions
from trainer.inputs import check_base
from trainer.methods.method import read_adapter
from trainer.new_base import write_base
from trainer.writing import check_writable, write_json
from understudy.artifact import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    ArtifactError,
    Manifest,
    base_fingerprint,
    read_json_object,
    verify,
)

REPORT_FILE = "merge.json"
CARD_FILE = "README.md"

# By the type written: what rounding each weight to it does to logits, with room.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
# Over int8, bitsandbytes rounds the inputs of every product too, which no weights can hold.
INT8_TOLERANCE = 0.1
MIN_AGREEMENT = 0.95


@dataclass(frozen=True)
class MergeOptions:
    """How to merge."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights written. None: the base's own."""
    weights: Literal["dequantized", "original"] = "dequantized"
    """Which weights the update is added to."""
    tolerance: float | None = None
    """Largest relative logit difference. None: by the type written."""
    min_agreement: float = MIN_AGREEMENT
    """Least share of positions with the same most likely token."""


def merge(adapter: Path, base: Path, out: Path, options: MergeOptions) -> dict[str, Any]:
    """Writes the base at `base`, with the adapter at `adapter` merged in, to `out`.

    Returns the report, which is also written. Raises InputError for what cannot be merged, and
    ExportError, leaving nothing in `out`, if the result differs by more than is tolerated.
    """
    _check_out(adapter, base, out)
    manifest, task, fingerprint = _checked(adapter, base)
    dtype = options.dtype or _own_dtype(base)
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = INT8_TOLERANCE if manifest.quantization == "int8" else TOLERANCES[dtype]

    adapted = read_adapter(_load(base, manifest.quantization, task), adapter)
    context = model.context_length(adapted.config)
    prompts = probes.probe_ids(
        model.load_tokenizer(base),
        manifest.prompt_template,
        None if context is None else context - probes.NUM_NEW_TOKENS,
    )
    expected = probes.expect(adapted, prompts, probes.NUM_NEW_TOKENS)
    del adapted

    merged = _merged(adapter, base, manifest, task, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        write_base(merged, base, folder, model.DTYPES[dtype], leave=(REPORT_FILE, RUN_FILE))
        del merged
        found = probes.differ(_load(folder, "none", task), expected)
        report = {
            "adapter": f"{manifest.name}@{manifest.content_hash}",
            "method": manifest.method,
            "base": base.resolve().name,
            "base_fingerprint": fingerprint,
            "quantization": manifest.quantization,
            "weights": options.weights,
            "dtype": dtype,
            "fingerprint": base_fingerprint(folder),
            "num_probes": len(expected),
            **asdict(found),
            "tolerance": tolerance,
            "min_agreement": options.min_agreement,
            "requantized": None,
            "prompt_template": manifest.prompt_template,
            "packages": package_versions(),
        }
        _check(found, tolerance, options.min_agreement, report)
        if manifest.quantization != "none":
            again = probes.differ(_load(folder, manifest.quantization, task), expected)
            report["requantized"] = asdict(again)
        write_json(folder / REPORT_FILE, report)
        (folder / CARD_FILE).write_text(_card(out.name, report), encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    return {"out": str(out), **report}


def _check_out(adapter: Path, base: Path, out: Path) -> None:
    """Raises InputError if `out` cannot be written, or is there or within what is read."""
    for name, folder in (("--base", base), ("--adapter", adapter)):
        if out.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"--out {str(out)!r} lies in {name} {str(folder)!r}; name a new folder"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {str(out)!r} exists; name a new folder")
    check_writable("--out", out)


def _checked(adapter: Path, base: Path) -> tuple[Manifest, str, str]:
    """The adapter's manifest, its task and the base's fingerprint. Raises InputError."""
    check_base(base)
    try:
        manifest = verify(adapter)
        config = read_json_object(adapter / CONFIG_FILE)
        fingerprint = base_fingerprint(base)
    except (ArtifactError, OSError) as error:
        raise InputError(f"{adapter}: {error}") from error
    if manifest.num_virtual_tokens:
        raise InputError(
            f"adapter {manifest.name!r} is {manifest.method}: its {manifest.num_virtual_tokens} "
            "virtual tokens stand in front of the prompt and are in no weight; serve it as it is"
        )
    if config.get("task_type") == "SEQ_CLS":
        raise InputError(
            f"adapter {manifest.name!r} has a classification head, for which a base that predicts "
            "tokens has no place; serve it as it is"
        )
    if TOKENIZER_FILE in manifest.files:
        raise InputError(
            f"adapter {manifest.name!r} adds tokens to the base's vocabulary; serve it as it is"
        )
    if manifest.base_fingerprint != fingerprint:
        raise InputError(
            f"adapter {manifest.name!r} was trained on base {manifest.base_name!r} with "
            f"fingerprint {manifest.base_fingerprint}; --base has {fingerprint}"
        )
    return manifest, config.get("task_type") or "CAUSAL_LM", fingerprint


def _load(base: Path, quantization: str, task: str) -> PreTrainedModel:
    return model.load_base(
        base, quantization=quantization, dtype=torch.float32, device="cpu", task=task
    )


def _own_dtype(base: Path) -> Literal["float32", "bfloat16"]:
    own = AutoConfig.from_pretrained(base, local_files_only=True).dtype
    return "bfloat16" if own in (torch.bfloat16, torch.float16) else "float32"


def _merged(
    adapter: Path, base: Path, manifest: Manifest, task: str, options: MergeOptions
) -> PreTrainedModel:
    """The base with the update in its weights, in float32. Raises InputError."""
    if options.weights == "original" or manifest.quantization == "none":
        plain = _load(base, "none", task)
    else:
        with model.quiet():
            plain = _load(base, manifest.quantization, task).dequantize()
        # What is left to say otherwise; PEFT's IA3 asks, and would not merge.
        plain.is_loaded_in_4bit = plain.is_loaded_in_8bit = False
    adapted = read_adapter(plain, adapter)
    is_tied = _untie(plain)
    tuner: Any = adapted.base_model
    try:
        with warnings.catch_warnings():
            # Of tied weights, which are two by now.
            warnings.simplefilter("ignore", UserWarning)
            merged: PreTrainedModel = tuner.merge_and_unload(safe_merge=True)
    except (NotImplementedError, AttributeError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"adapter {manifest.name!r} ({manifest.method}) merges into no weights: {message}; "
            "serve it as it is"
        ) from error
    if is_tied:
        _tie_if_equal(merged)
    return merged


def _untie(base: PreTrainedModel) -> bool:
    """Gives the output head a weight of its own, where it is the embeddings': merging an update of
    one would change both. Returns whether it was."""
    words, head = _innermost(base.get_input_embeddings()), _innermost(base.get_output_embeddings())
    if head is None or words is None or head.weight is not words.weight:
        return False
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return True


def _innermost(module: Any) -> Any:
    """The module inside what PEFT has put around it."""
    while module is not None and hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _tie_if_equal(merged: PreTrainedModel) -> None:
    """Makes embeddings and head one weight again, if the adapter left them equal."""
    words: Any = merged.get_input_embeddings()
    head: Any = merged.get_output_embeddings()
    equal = torch.equal(words.weight, head.weight)
    if equal:
        head.weight = words.weight
    # Either way: PEFT's own merging may have said something else.
    merged.config.tie_word_embeddings = equal
    merged.config.get_text_config().tie_word_embeddings = equal


def _check(
    found: probes.Difference, tolerance: float, min_agreement: float, report: dict[str, Any]
) -> None:
    """Raises ExportError if the merged base does not compute what base and adapter do."""
    beyond = []
    if not found.max_logit_difference <= tolerance:
        beyond.append(
            f"logits differ by {found.max_logit_difference:.2g} (relative), more than "
            f"--tolerance {tolerance:.2g}"
        )
    if not found.greedy_agreement >= min_agreement:
        beyond.append(
            f"the most likely token is the same at {found.greedy_agreement:.1%} of the positions, "
            f"less than --min-agreement {min_agreement:g}"
        )
    if not beyond:
        return
    remedy = "--dtype float32" if report["dtype"] != "float32" else "serving the adapter as it is"
    if report["weights"] == "original":
        remedy = "--weights dequantized"
    raise ExportError(f"nothing was written: {'; '.join(beyond)}; try {remedy}")


def _card(name: str, report: dict[str, Any]) -> str:
    again = report["requantized"]
    served = (
        ""
        if again is None
        else f"\nQuantized anew as `{report['quantization']}`, its logits differ by "
        f"{again['max_logit_difference']:.2g} and agree at {again['greedy_agreement']:.1%} of the "
        "positions: to keep what was trained, serve it with `--quantization none`.\n"
    )
    return f"""\
# {name}

`{report["base"]}` with the adapter `{report["adapter"]}` ({report["method"]}) merged into its
{report["weights"]} weights, written in {report["dtype"]}.

On {report["num_probes"]} probe prompts its logits differ from those of base and adapter by at most
{report["max_logit_difference"]:.2g} (relative), and the most likely token is the same at
{report["greedy_agreement"]:.1%} of the positions.
{served}
`{REPORT_FILE}` holds the fingerprints, and the prompt template that the adapter was trained with.
"""
