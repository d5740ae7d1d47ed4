"""LoRA+: B learns faster than A."""

from collections.abc import Mapping

from torch.nn import Parameter

from trainer.config import LoraConfig
from trainer.methods.lora.variants import complete
from trainer.methods.method import ParameterGroup


def parameter_groups(
    settings: LoraConfig, parameters: Mapping[str, Parameter]
) -> tuple[ParameterGroup, ...]:
    """As PEFT's `create_loraplus_optimizer` splits them: B, biases and magnitudes learn
    `learning_rate_ratio` times as fast as all else. One group where the ratio is 1."""
    ratio = complete(settings).learning_rate_ratio
    assert ratio is not None
    fast = {n for n, p in parameters.items() if "lora_B" in n or p.ndim == 1}
    if ratio == 1 or not fast:
        return (ParameterGroup(tuple(parameters)),)
    slow = tuple(name for name in parameters if name not in fast)
    groups = (
        ParameterGroup(slow),
        ParameterGroup(tuple(n for n in parameters if n in fast), ratio),
    )
    return tuple(group for group in groups if group.names)
