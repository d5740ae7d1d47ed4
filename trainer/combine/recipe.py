"""How adapters become one: which of them, with which weights, by which recipe."""

from dataclasses import dataclass

from trainer.errors import InputError

# Our name of a recipe -> PEFT's combination_type and where it is from.
RECIPES: dict[str, str] = {
    # The sum of the updates, as large as all of them together.
    "sum": "cat",
    # The sum, brought to `rank` by singular values.
    "svd": "svd",
    # Sums A and B apart, which is not the sum of the updates.
    "linear": "linear",
    # arXiv:2306.01708
    "ties": "ties",
    "ties_svd": "ties_svd",
    # arXiv:2311.03099
    "dare_linear": "dare_linear",
    "dare_linear_svd": "dare_linear_svd",
    "dare_ties": "dare_ties",
    "dare_ties_svd": "dare_ties_svd",
    "magnitude_prune": "magnitude_prune",
    "magnitude_prune_svd": "magnitude_prune_svd",
}
DENSE = frozenset({"sum", "svd", "linear"})
"""Recipes that drop no numbers, and take no density."""


@dataclass(frozen=True)
class Source:
    """One adapter of a combination."""

    reference: str
    """`name`, `name@version` or `name@alias` in the store."""
    weight: float


@dataclass(frozen=True)
class Recipe:
    """How adapters become one. `rank` only for recipes that end in `svd`; `density`, the share of
    numbers that is kept, only for those not in DENSE."""

    name: str = "sum"
    density: float | None = None
    rank: int | None = None
    seed: int = 0


def parse_source(text: str) -> Source:
    """`reference` or `reference=weight`. Raises InputError."""
    reference, _, weight = text.partition("=")
    try:
        return Source(reference, float(weight) if weight else 1.0)
    except ValueError:
        raise InputError(f"adapter {text!r}: weight {weight!r} is not a number") from None


def check_recipe(recipe: Recipe, num_sources: int) -> None:
    """Raises InputError naming the option at fault."""
    if recipe.name not in RECIPES:
        raise InputError(f"--recipe {recipe.name!r} is not one of {', '.join(RECIPES)}")
    if num_sources < 2:
        raise InputError("give two adapters or more; one alone is served with a weight as it is")
    if (recipe.density is None) != (recipe.name in DENSE):
        need = "takes no" if recipe.name in DENSE else "needs a"
        raise InputError(f"--recipe {recipe.name} {need} --density")
    if recipe.density is not None and not 0 < recipe.density <= 1:
        raise InputError(f"--density {recipe.density:g} is not in (0, 1]")
    if recipe.rank is not None and not recipe.name.endswith("svd"):
        raise InputError(f"--recipe {recipe.name} takes no --rank; the recipes in svd do")
    if recipe.rank is not None and recipe.rank < 1:
        raise InputError(f"--rank {recipe.rank} is not a number from 1")
