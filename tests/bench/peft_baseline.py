"""The baseline, in a child process: transformers, and PEFT's mixed batches, at their best.

A static batch of prompts of one length, so nothing is padded; inference mode; a KV cache; one
forward pass a step, with `adapter_names` where there are adapters; greedy. Attention is whatever
of sdpa and eager is faster here. Nothing stands around it: no server, no scheduler, no text.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache

from tests.bench.child import Answer, serve
from tests.bench.machine import linear_rate

ATTENTIONS = ("sdpa", "eager")
_TRIAL_TOKENS = 8


class Baseline:
    """The base alone, and a second copy of it with adapters."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._attention: dict[str, str] = {}

    def load(self, base: str, adapters: Mapping[str, str], trial: list[list[int]]) -> Answer:
        """Load base and adapters (directory by name), and choose each one's attention."""
        self._models["base"] = _load(base)
        adapted: Any = None
        for name, directory in adapters.items():
            if adapted is None:
                # As saved: by default PEFT would compute the updates of a bf16 base in fp32.
                adapted = PeftModel.from_pretrained(
                    _load(base), directory, adapter_name=name, autocast_adapter_dtype=False
                )
            else:
                adapted.load_adapter(directory, adapter_name=name, autocast_adapter_dtype=False)
        self._models["lora"] = adapted.eval()
        names = list(adapters)
        trial_s = {
            kind: self._choose(kind, trial, [names[i % len(names)] for i in range(len(trial))])
            for kind in self._models
        }
        return {"attention": self._attention, "trial_s": trial_s}

    def _choose(
        self, kind: str, prompts: list[list[int]], names: Sequence[str]
    ) -> dict[str, float]:
        trial_s = {}
        for _ in range(2):  # The first time each also warms up.
            for attention in ATTENTIONS:
                self._attention[kind] = attention
                answer = self.play(prompts, _TRIAL_TOKENS, names if kind == "lora" else ())
                trial_s[attention] = answer["wall_s"]
        self._attention[kind] = min(trial_s, key=trial_s.__getitem__)
        return trial_s

    @torch.inference_mode()
    def play(
        self, prompts: list[list[int]], num_tokens: int, adapter_names: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Generate `num_tokens` for each of the prompts (all of one length)."""
        kind = "lora" if any(adapter_names) else "base"
        model = self._models[kind]
        model.set_attn_implementation(self._attention[kind])
        options: dict[str, Any] = {}
        if kind == "lora":
            options["adapter_names"] = [name or "__base__" for name in adapter_names]
        begin = time.perf_counter()
        cache = DynamicCache(config=model.config)
        ids = torch.tensor(prompts)
        generated = []
        for _ in range(num_tokens):
            logits = model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **options
            ).logits
            ids = logits[:, -1:].argmax(-1)
            generated.append(ids)
        token_ids = torch.cat(generated, 1).tolist()
        return {"wall_s": time.perf_counter() - begin, "token_ids": token_ids}

    def rate(self, shapes: list[tuple[int, int]], rows: int) -> Answer:
        """Passes per second of plain bf16 products with weights of these (out, in) shapes."""
        return {"passes_per_s": linear_rate([(out, into) for out, into in shapes], rows)}


def _load(directory: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        Path(directory), dtype=torch.bfloat16, local_files_only=True
    )
    return model.eval()


if __name__ == "__main__":
    baseline = Baseline()
    serve({"load": baseline.load, "play": baseline.play, "rate": baseline.rate})
