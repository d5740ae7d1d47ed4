"""Which modules of a base a method trains: by their names' ends, and by their kind."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.errors import ConfigError
from trainer.model import output_head


def linears(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Linears by path, the output head apart; GPT-2's, which hold their weight the other way
    round, too."""
    head = output_head(model)
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Norms with a weight, by path."""
    found = {}
    for path, module in model.named_modules():
        parameters = dict(module.named_parameters())
        if "Norm" in type(module).__name__ and {"weight"} <= parameters.keys() <= {
            "weight",
            "bias",
        }:
            found[path] = module
    return found


def ends_with(path: str, end: str) -> bool:
    """Whether `end` are the last parts of a module's path."""
    return path == end or path.endswith(f".{end}")


def choose(
    modules: Mapping[str, nn.Module], ends: Sequence[str], key: str, what: str
) -> dict[str, nn.Module]:
    """Those of `modules` whose paths end with one of `ends`.

    Raises ConfigError naming `key` for an end that is of none; `what` they are, for the message.
    """
    for end in ends:
        if not any(ends_with(path, end) for path in modules):
            known = ", ".join(last_parts(modules)) or "none"
            raise ConfigError(
                f"key {key!r}: {end!r} names no {what} of the base; there are {known}"
            )
    return {p: m for p, m in modules.items() if any(ends_with(p, end) for end in ends)}


def last_parts(paths: Iterable[str]) -> list[str]:
    """The last parts of module paths, each once."""
    return sorted({path.rsplit(".", 1)[-1] for path in paths})


def num_parameters(modules: Iterable[nn.Module]) -> int:
    """Parameters of all of them, those of each counted."""
    return sum(p.numel() for module in modules for p in module.parameters())
