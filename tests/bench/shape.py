"""What the benchmark measures on: a base with random weights and adapters for it, on disk.

The base is a Llama of SmolLM-135M's shape, tied embeddings included. Speed depends on shapes, not
on what was learned, so nothing has to be downloaded.
"""

import os
import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from understudy.artifact import Manifest, base_fingerprint, seal
from understudy.store import version_of

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = LINEARS[:4]
RANKS = (8, 16, 32, 16)
"""Ranks of the adapters, in turn."""
MANY_RANK = 8
VIRTUAL_TOKENS = 20
SOFT_PROMPT = "soft"
# Large enough that an adapter changes what the base says, small enough that logits stay finite.
_B_STD = 0.05


@dataclass(frozen=True)
class Shape:
    """A Llama with tied embeddings."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear of a layer, by name."""
        kv = self.hidden // self.heads * self.kv_heads
        wide = {"gate_proj": self.intermediate, "up_proj": self.intermediate}
        outs = {"q_proj": self.hidden, "k_proj": kv, "v_proj": kv, "o_proj": self.hidden, **wide}
        found = {name: (out, self.hidden) for name, out in outs.items()}
        return {**found, "down_proj": (self.hidden, self.intermediate)}

    @property
    def head_dim(self) -> int:
        """Of queries, keys and values."""
        return self.hidden // self.heads

    @property
    def products(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """(outs, in) of each product of a layer: linears that read the same share one."""
        shapes = self.linears
        groups = {
            "qkv": LINEARS[:3], "o": LINEARS[3:4], "gate_up": LINEARS[4:6], "down": LINEARS[6:]
        }  # fmt: skip
        return {
            name: (tuple(shapes[member][0] for member in members), shapes[members[0]][1])
            for name, members in groups.items()
        }

    @property
    def linear_bytes(self) -> int:
        """The linears of all layers in bf16: what nf4 quantizes."""
        return 2 * self.layers * sum(out * into for out, into in self.linears.values())

    def lora_bytes(self, rank: int, linears: Sequence[str] = LINEARS) -> int:
        """A LoRA on these linears of every layer in bf16."""
        shapes = (self.linears[name] for name in linears)
        return 2 * rank * self.layers * sum(out + into for out, into in shapes)

    def step_bytes(self, rows: int, positions: float) -> float:
        """What a decode step of `rows` sequences has to move, each with `positions` in the cache:
        linears in NF4 with a float32 scale for 64 weights, norms and head in bf16, the cache in
        bf16 read, and a position of it written. Activations are left out: a step can keep them."""
        weights = self.linear_bytes / 2 * (0.5 + 4 / 64)
        weights += 2 * self.hidden * (2 * self.layers + 1 + self.vocab + rows)
        position_bytes = 2 * 2 * self.layers * self.kv_heads * self.head_dim
        return weights + rows * (positions + 1) * position_bytes


FULL = Shape(hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, vocab=49152)
LLAMA_8B = Shape(hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, vocab=128256)
TINY = Shape(hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, vocab=1024)


def make_base(directory: Path, shape: Shape, device: str = "cpu") -> None:
    """Write the base in bf16, its values drawn on `device`, and a tokenizer with a text for each of
    its tokens."""
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.split(".")[-2] in LINEARS:
                # At their usual size random layers say one token for ever, whatever the prompt.
                weight.mul_(2)
    model.save_pretrained(directory)
    _tokenizer(shape.vocab).save_pretrained(directory)


def _tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Bytes, then made-up words of three to five letters: every token id has a text."""
    rng = random.Random(0)
    words = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known = set(words)
    while len(words) < vocab:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 5)))
        word = rng.choice(("", "\u0120")) + word  # U+0120 stands for a space in byte-level tokens.
        if word not in known:
            known.add(word)
            words.append(word)
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


class AdapterWriter:
    """Publishes adapters with random weights into a store, fast enough for a thousand."""

    def __init__(
        self, base: Path, store: Path, shape: Shape, fingerprint: str | None = None
    ) -> None:
        """`fingerprint` is the base's, where it is known."""
        self._store, self._shape, self._base_name = store, shape, base.name
        self._fingerprint = fingerprint or base_fingerprint(base)
        generator = torch.Generator().manual_seed(1)
        # Drawing each adapter's millions of values anew would take longer than all else.
        self._pool = torch.randn(1 << 22, generator=generator)

    def lora(self, name: str, rank: int, seed: int, linears: Sequence[str] = LINEARS) -> Path:
        """A LoRA on these linears, scaled by 1; returns its directory."""
        config = peft.LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(linears), task_type="CAUSAL_LM"
        )
        tensors = {}
        values = self._values(seed)
        for layer in range(self._shape.layers):
            for linear in linears:
                out, into = self._shape.linears[linear]
                block = "self_attn" if linear in ATTENTION else "mlp"
                where = f"base_model.model.model.layers.{layer}.{block}.{linear}"
                a = values.take(rank, into) * into**-0.5
                b = values.take(out, rank) * _B_STD
                tensors[f"{where}.lora_A.weight"] = a.to(torch.bfloat16)
                tensors[f"{where}.lora_B.weight"] = b.to(torch.bfloat16)
        return self._publish(name, "lora", config, tensors, rank=rank)

    def soft_prompt(self, name: str, seed: int) -> Path:
        """A soft prompt; returns its directory."""
        config = peft.PromptTuningConfig(
            num_virtual_tokens=VIRTUAL_TOKENS,
            token_dim=self._shape.hidden,
            num_layers=self._shape.layers,
            num_attention_heads=self._shape.heads,
            num_transformer_submodules=1,
            task_type="CAUSAL_LM",
        )
        values = self._values(seed).take(VIRTUAL_TOKENS, self._shape.hidden)
        tensors = {"prompt_embeddings": values}
        return self._publish(
            name, "prompt_tuning", config, tensors, num_virtual_tokens=VIRTUAL_TOKENS
        )

    def _values(self, seed: int) -> "_Values":
        return _Values(self._pool, random.Random(seed).randrange(len(self._pool)))

    def _publish(
        self,
        name: str,
        method: str,
        config: peft.PeftConfig,
        tensors: dict[str, torch.Tensor],
        rank: int = 0,
        num_virtual_tokens: int = 0,
    ) -> Path:
        # As `understudy.store.publish` lays it out, without its copy, second hash and sync.
        folder = self._store / name
        staging = folder / ".staging"
        staging.mkdir(parents=True)
        config.inference_mode = True
        config.save_pretrained(str(staging))
        save_file(tensors, staging / "adapter_model.safetensors")
        manifest = seal(
            staging,
            Manifest(
                name=name,
                method=method,
                base_fingerprint=self._fingerprint,
                base_name=self._base_name,
                base_architecture="LlamaForCausalLM",
                quantization="none",
                rank=rank,
                num_virtual_tokens=num_virtual_tokens,
            ),
        )
        return staging.rename(folder / version_of(manifest.content_hash))


class _Values:
    """Random values, taken in turn from a pool that starts anew when it is used up."""

    def __init__(self, pool: torch.Tensor, begin: int) -> None:
        self._pool, self._at = pool, begin

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """The next [rows, columns]."""
        count = rows * columns
        if self._at + count > len(self._pool):
            self._at = 0
        taken = self._pool[self._at : self._at + count]
        self._at += count
        return taken.reshape(rows, columns)


def drop_page_cache(paths: Iterable[Path]) -> None:
    """Make the next read of these files come from the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
