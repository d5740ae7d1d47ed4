"""vLLM's offline engine, in a child process that runs in an environment of its own.

The other environment has vLLM and none of this project's dependencies. Offline, so nothing stands
around the engine: no server, no gRPC or HTTP, no text.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import vllm
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from tests.bench.child import Answer, serve

_CACHE_BYTES = 1 << 30


class Worker:
    """One engine, with LoRA or without: with it, the bare base would be slower too."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._lora: dict[str, LoRARequest] = {}

    def load(self, base: str, adapters: Mapping[str, str], max_rank: int, context: int) -> Answer:
        """Load the base in bf16; `adapters` are directories by name, none for the bare base."""
        options: dict[str, Any] = {}
        if adapters:
            options = {
                "enable_lora": True,
                "max_loras": len(adapters),
                "max_cpu_loras": len(adapters),
                "max_lora_rank": max_rank,
            }
        self._llm = LLM(
            model=base,
            dtype="bfloat16",
            max_model_len=context,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            disable_log_stats=True,
            kv_cache_memory_bytes=_CACHE_BYTES,
            **options,
        )
        self._lora = {
            name: LoRARequest(name, i, directory)
            for i, (name, directory) in enumerate(adapters.items(), start=1)
        }
        return {"versions": {"vllm": vllm.__version__, "vllm's torch": torch.__version__}}

    def play(
        self, prompts: list[list[int]], num_tokens: int, adapter_names: Sequence[str]
    ) -> Answer:
        """Run all prompts at once, greedy, to full length."""
        sampling = SamplingParams(
            temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )
        lora = [self._lora[name] if name else None for name in adapter_names]
        begin = time.perf_counter()
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            sampling,
            lora_request=lora if any(lora) else None,
            use_tqdm=False,
        )
        wall_s = time.perf_counter() - begin
        return {
            "wall_s": wall_s,
            "token_ids": [list(output.outputs[0].token_ids) for output in outputs],
        }


if __name__ == "__main__":
    worker = Worker()
    serve({"load": worker.load, "play": worker.play})
