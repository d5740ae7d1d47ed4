"""The server's configuration: frozen, parsed once at the edge."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Budgets of the engine."""

    max_batch_size: int = 32
    """Sequences in one step. More raises throughput and the time between tokens."""
    max_queue_size: int = 1024
    """Requests waiting to start; beyond it `submit` refuses, so that memory stays bounded."""
    max_step_tokens: int = 512
    """Rows of one step, decode and prefill together: bounds how long a long prompt holds up the
    others."""
    block_size: int = 16
    """Tokens per cache block."""
    num_blocks: int | None = None
    """Cache blocks. None: as many as `cache_bytes` holds."""
    cache_bytes: int = 256 << 20
    """Memory for keys and values, where `num_blocks` is None."""
    num_adapter_slots: int = 32
    """Adapters on the device at a time. At least `max_batch_size` never delays a request."""
    max_lora_rank: int = 256
    """Largest LoRA rank a request may bring."""
    deterministic: bool = False
    """int8 at threshold 0, and rows padded so that a request's numbers do not depend on how many
    share its step."""
