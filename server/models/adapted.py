"""The modules beside linears that adapters may change: norms, input embeddings, output head."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from server.models.layers import AdaptedLinear, LinearGroup, StepContext

_TOLERANCE = 1e-5


class AdaptedHead(AdaptedLinear):
    """Stands in for the output head, whose weight the embeddings may share."""

    def __init__(self, group: LinearGroup, linear: nn.Linear) -> None:
        super().__init__(group, 0, (linear.out_features, linear.in_features))
        self.weight, self.bias = linear.weight, linear.bias


class AdaptedNorm(nn.Module):
    """A normalization over the last dimension, computed anew for rows whose adapter changes it.

    The base's factor is `offset` plus its weight.
    """

    def __init__(
        self,
        index: int,
        path: str,
        module: nn.Module,
        *,
        offset: float,
        row_dim: int,
        context: StepContext,
    ) -> None:
        """`row_dim` is the dimension of the input that counts a step's rows."""
        super().__init__()
        self.index = index
        self.path = path
        self.offset = offset
        self.inner = module
        self._row_dim = row_dim
        # Bound methods: no parts of the model, and called without what a module's call costs.
        self._run = module.forward
        self._run_plain = _with_parameters(module, 1.0 - offset, 0.0).forward
        self._context = context

    @property
    def weight(self) -> torch.Tensor:
        """The base's [size]."""
        return self.inner.get_parameter("weight")

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's [size]."""
        bias = getattr(self.inner, "bias", None)
        return bias if isinstance(bias, torch.Tensor) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the last dimension."""
        out: torch.Tensor = self._run(x)
        changes = self._context.changes
        if changes is None or self.index not in changes.norms:
            return out
        shape = [1] * x.dim()
        shape[self._row_dim], shape[-1] = x.shape[self._row_dim], x.shape[-1]
        return changes.normalize(self.index, out, self._run_plain(x), tuple(shape))


class AdaptedEmbedding:
    """The input embeddings, with what each row's own adapter changes in them."""

    def __init__(self, path: str, module: nn.Module, context: StepContext) -> None:
        self.path = path
        self.module = module
        self._context = context
        self.weight = module.get_parameter("weight")
        scale = float(getattr(module, "embed_scale", 1.0))
        self.factor = torch.tensor(scale, dtype=self.weight.dtype, device=self.weight.device)
        """What the base multiplies its rows with."""

    @torch.inference_mode()
    def is_lookup(self) -> bool:
        """Whether the module looks rows up and multiplies them with `factor`; where it computes
        something else no adapter may change it."""
        token_ids = torch.arange(min(8, len(self.weight)), device=self.weight.device)
        plain = F.embedding(token_ids, self.weight) * self.factor
        return torch.equal(self.module(token_ids), plain)

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[T] to [T, hidden]."""
        changes = self._context.changes
        if changes is None:
            plain: torch.Tensor = self.module(token_ids)
            return plain
        # Of the tokens that adapters add, the base knows none.
        states: torch.Tensor = self.module(token_ids.clamp(max=len(self.weight) - 1))
        changes.embed(token_ids, states)
        return states


def adapt_head(model: Any, group: LinearGroup) -> None:
    """Puts ours in place of the model's output head, in place."""
    head = model.get_output_embeddings()
    parent_path, _, name = path_of(model, head).rpartition(".")
    setattr(model.get_submodule(parent_path), name, AdaptedHead(group, head))


def path_of(model: nn.Module, module: object) -> str:
    """Where `module` is in `model`."""
    paths: Iterator[str] = (path for path, found in model.named_modules() if found is module)
    return next(paths)


@contextlib.contextmanager
def norm_inputs(model: nn.Module) -> Iterator[dict[str, list[torch.Size]]]:
    """The shapes of what the model's norms take in the runs of the block, by module path."""
    seen: dict[str, list[torch.Size]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, given, path=path: seen.setdefault(path, []).append(given[0].shape)
        )
        for path, module in model.named_modules()
        if _is_norm(module)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def adapt_norms(
    model: Any, context: StepContext, inputs: Mapping[str, list[torch.Size]]
) -> tuple[AdaptedNorm, ...]:
    """Puts ours in place of the norms that are affine in their parameters, in place.

    `inputs` are the shapes they take in runs of different numbers of rows.
    """
    found: list[AdaptedNorm] = []
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            full = f"{path}.{name}" if path else name
            row_dim, offset = _row_dim(inputs.get(full, [])), _offset_of(child)
            if row_dim is None or offset is None:
                continue
            ours = AdaptedNorm(
                len(found), full, child, offset=offset, row_dim=row_dim, context=context
            )
            found.append(ours)
            setattr(parent, name, ours)
    return tuple(found)


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _row_dim(shapes: list[torch.Size]) -> int | None:
    """The one dimension in which the shapes differ, not the last."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    varying = [dim for dim, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    return varying[0] if len(varying) == 1 and varying[0] < len(shapes[0]) - 1 else None


def _offset_of(module: nn.Module) -> float | None:
    """What the norm adds to its weight, 0 or 1; None for any other module."""
    names = dict(module.named_parameters())
    if names.keys() - {"bias"} != {"weight"} or not _is_norm(module):
        return None
    weight = names["weight"]
    if weight.dim() != 1 or any(p.shape != weight.shape for p in names.values()):
        return None
    size = len(weight)
    x = torch.linspace(-2, 3, 3 * size, dtype=weight.dtype, device=weight.device).view(1, 3, size)

    def run(factor: float, summand: float = 0.0) -> torch.Tensor:
        out: torch.Tensor = _with_parameters(module, factor, summand)(x)
        return out.float()

    zero, one = run(0.0), run(1.0)
    offset = 1.0 if bool(zero.any()) else 0.0
    plain = zero if offset else one
    affine = [(run(3.0 - offset), 3 * plain)]
    if "bias" in names:
        affine.append((run(1.0 - offset, 2.0), plain + 2))
    tolerance = _TOLERANCE if weight.dtype == torch.float32 else 2e-2
    same = all((got - want).norm() <= tolerance * want.norm() for got, want in affine)
    return offset if same else None


def _with_parameters(module: nn.Module, weight: float, bias: float) -> nn.Module:
    """The module with constant parameters."""
    other = copy.copy(module)
    values = {"weight": weight, "bias": bias}
    # A dictionary of its own: the copy shares the module's.
    other._parameters = {
        name: None
        if parameter is None
        else nn.Parameter(torch.full_like(parameter, values[name]), requires_grad=False)
        for name, parameter in module._parameters.items()
    }
    return other
