"""Artifacts from a stranger, by name: what is done to a sound one, and what the refusal says.

One table for the tests of the reader, of a running server, and of the client's own store.
"""

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import peft
import torch

from tests.server.adapters.hostile.changes import (
    Bomb,
    Change,
    large,
    put,
    sealed,
    setting,
    weights,
    zip_bomb,
)
from tests.server.adapters.hostile.files import FILES
from tests.server.adapters.hostile.meanings import MAGNITUDE, MEANINGS
from tests.tiny import lora_config, make_adapter, prompt_config

MAX_BYTES = 1 << 24
"""Of the tensor file, as the servers of these tests are configured."""


@dataclass(frozen=True)
class Case:
    """`change` makes the sound artifact `of` hostile; the refusal `says` so."""

    change: Change
    says: str
    of: str = "lora"
    by_client: bool = False
    """Whether the client's store refuses it too, which knows no base and no method."""


def make_originals(base: Path, folder: Path) -> dict[str, Path]:
    """A sound artifact of each kind that cases begin with."""
    targets = ["q_proj", "v_proj", "down_proj"]
    dora = peft.LoraConfig(r=2, use_dora=True, target_modules=targets, task_type="CAUSAL_LM")
    configs: dict[str, peft.PeftConfig] = {
        "lora": lora_config(),
        "dora": dora,
        "prompt": prompt_config(),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "tokens": peft.TrainableTokensConfig(token_indices=[3, 5], task_type="CAUSAL_LM"),
        "norms": peft.LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
        "ia3": peft.IA3Config(
            target_modules=targets, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
    }
    return {
        kind: make_adapter(base, folder / kind, config, name="mine", seed=seed)
        for seed, (kind, config) in enumerate(configs.items())
    }


def make(name: str, originals: Mapping[str, Path], directory: Path) -> Path:
    """The artifact of a case in a new `directory`."""
    case = (CASES | HARMLESS | UNUSABLE)[name]
    shutil.copytree(originals[case.of], directory)
    case.change(directory)
    return directory


CASES = {name: Case(change, says, by_client=True) for name, (change, says) in FILES.items()} | {
    name: Case(change, says, of) for name, (of, change, says) in MEANINGS.items()
}
"""Refused by the server, whatever way they come."""

_HARMLESS: dict[str, tuple[str, Change]] = {
    "target-modules-repeated": setting(target_modules=["q_proj", "v_proj", "down_proj"] * 20_000),
    "dora-magnitude-zero": weights(put(MAGNITUDE, torch.zeros(64)), "dora"),
    "dora-magnitude-negative": weights(put(MAGNITUDE, -torch.ones(64)), "dora"),
    "zip-bomb-beside": ("lora", lambda d: zip_bomb(d / "adapter_model.zip")),
    "pickle-beside": (
        "lora",
        lambda d: (d / "adapter_model.bin").write_bytes(pickle.dumps(Bomb())),
    ),
}
HARMLESS = {name: Case(change, "", of) for name, (of, change) in _HARMLESS.items()}
"""Look worse than they are: nothing reads what is bad about them."""

_TEMPLATES = {
    "endless-loops": ("{% for a in input %}" * 7 + "{% endfor %}" * 7, "rounds"),
    "output-doubles": (
        "{% set a = input ~ input %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "4000000",
    ),
    "joined": ("{{ input|join(input|join(input|join(input|join(input)))) }}", "4000000"),
    "calls-itself": ("{% for a in input recursive %}{{ loop(input) }}{% endfor %}", "recursion"),
    "escape": ("{{ input.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "escape-by-format": ("{{ '{0.__class__}'.format(input) }}", "unsafe"),
    "power": ("{{ input }}{{ 9**9**9**9 }}", "'**'"),
    "repeated-text": ("{{ input * 1000000000 }}", "'*'"),
    "division-by-zero": ("{{ input }}{{ 1 // 0 }}", "cannot be rendered"),
    "half-a-pair": ("{{ input }}{{ '\\ud800' }}", "surrogate"),
}


UNUSABLE = {
    f"template-{name}": Case(sealed(prompt_template=template), says)
    for name, (template, says) in _TEMPLATES.items()
} | {
    f"overflows-{of}": Case(weights(large(value), of)[1], "its weights overflow", of)
    for of, value in (
        ("lora", 1e38),
        ("dora", 1e30),
        ("ia3", 1e38),
        ("norms", 1e38),
        ("prefix", 1e38),
    )
}
"""Load, and refuse the requests that use them: `says` tells why."""
