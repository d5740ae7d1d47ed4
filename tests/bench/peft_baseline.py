"""The baselines, in a child process: transformers, alone, with PEFT and with bitsandbytes.

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
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache

from tests.bench.child import Answer, serve
from tests.bench.machine import linear_rate

ATTENTIONS = ("sdpa", "eager")
_TRIAL_TOKENS = 6


class Baseline:
    """The base alone, and a second copy of it with adapters."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._attention: dict[str, str] = {}
        self._device = "cpu"

    def load(
        self,
        base: str,
        adapters: Mapping[str, str],
        trial: list[list[int]],
        nf4: bool,
        device: str = "cpu",
    ) -> Answer:
        """Load base and adapters (directory by name) on `device`, and choose each one's attention.

        With `nf4` the base is quantized, and runs as bitsandbytes runs it.
        """
        self._device = device
        self._models["base"] = _load(base, nf4, device)
        trial_s = self._choose("base", trial, ())
        adapted: Any = None
        for name, directory in adapters.items():
            if adapted is None:
                # As saved: by default PEFT would compute the updates of a bf16 base in fp32.
                adapted = PeftModel.from_pretrained(
                    _load(base, nf4, device),
                    directory,
                    adapter_name=name,
                    autocast_adapter_dtype=False,
                )
            else:
                adapted.load_adapter(directory, adapter_name=name, autocast_adapter_dtype=False)
        if adapters:
            self._models["lora"] = adapted.eval()
            names = list(adapters)
            mixed = [names[i % len(names)] for i in range(len(trial))]
            trial_s += self._choose("lora", trial, mixed)
        return {"attention": self._attention, "trial_s": trial_s}

    def _choose(self, kind: str, prompts: list[list[int]], names: Sequence[str]) -> float:
        """Choose the attention that is faster after a first time; seconds that it took."""
        trial_s: dict[str, float] = {}
        for attention in ATTENTIONS:
            self._attention[kind] = attention
            self.play(prompts, 1, names)
            trial_s[attention] = self.play(prompts, _TRIAL_TOKENS, names)["wall_s"]
        self._attention[kind] = min(trial_s, key=trial_s.__getitem__)
        return trial_s[self._attention[kind]]

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
        ids = torch.tensor(prompts, device=self._device)
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


def _load(directory: str, nf4: bool, device: str) -> Any:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        Path(directory),
        dtype=torch.bfloat16,
        local_files_only=True,
        device_map=None if device == "cpu" else {"": device},
        quantization_config=quantization if nf4 else None,
    )
    return model.eval()


if __name__ == "__main__":
    baseline = Baseline()
    serve({"load": baseline.load, "play": baseline.play, "rate": baseline.rate})
