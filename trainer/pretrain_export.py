"""Writes a pretrained model as an ordinary Hugging Face folder, and its curves."""

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.corpus import END, EOS


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes bf16 safetensors, config and tokenizer files to `out`, each file replaced at once.

    Generation ends at the end of a text and at the end of a turn.
    """
    out.mkdir(parents=True, exist_ok=True)
    exported = copy.deepcopy(model).bfloat16()
    ends = tokenizer.convert_tokens_to_ids([EOS, END])
    exported.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        exported.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for path in Path(folder).iterdir():
            path.chmod(0o644)  # safetensors makes its file readable by the owner only
            os.replace(path, out / path.name)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_curves(metrics_path: Path, out: Path) -> None:
    """Draws training loss, its mean over a fiftieth of the run, and held-out bits per byte, all
    over tokens seen."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = read_metrics(metrics_path)
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "validation" in line]
    tokens_per_step = steps[-1]["tokens"] / steps[-1]["step"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    seen, losses = ([line[key] for line in steps] for key in ("tokens", "loss"))
    left.plot(np.array(seen) / 1e6, losses, lw=0.4, alpha=0.5)
    width = max(1, len(steps) // 50)
    means = np.convolve(losses, np.ones(width) / width, mode="valid")
    left.plot(np.array(seen[width - 1 :]) / 1e6, means, lw=1.5, color="black")
    left.set(xlabel="million tokens", ylabel="training loss (nats per token)", ylim=(0, None))
    last = checks[-1]["validation"] if checks else {}
    # Named in the order in which their lines end.
    ordered = sorted(last, key=lambda source: -last[source]["bits_per_byte"])
    right.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
    for source in ordered:
        with_source = [line for line in checks if source in line["validation"]]
        right.plot(
            [line["step"] * tokens_per_step / 1e6 for line in with_source],
            [line["validation"][source]["bits_per_byte"] for line in with_source],
            label=source,
            marker=".",
        )
    right.set(xlabel="million tokens", ylabel="held-out bits per byte")
    if checks:
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=100)
    pyplot.close(figure)
