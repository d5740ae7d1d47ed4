"""Configurations of tiny bases of several architectures, tied and not."""

from typing import Any

import transformers

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
BASES: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**SMALL),
    "llama_tied": transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    # Norms of q and k, by head.
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True),
    # Norms that add one to their weight, embeddings with a factor, always tied.
    "gemma3": transformers.Gemma3TextConfig(
        **SMALL, head_dim=16, sliding_window=7, query_pre_attn_scalar=16
    ),
    # Logits that pass through a tanh.
    "gemma2": transformers.Gemma2Config(
        **SMALL, head_dim=16, query_pre_attn_scalar=16, final_logit_softcapping=5.0
    ),
    "gpt2": transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, n_positions=512, vocab_size=320,
        bos_token_id=None, eos_token_id=0, initializer_range=0.2,
    ),
}  # fmt: skip
