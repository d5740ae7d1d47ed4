"""Makes one LoRA adapter of several, by an exact sum or PEFT's merge recipes, and publishes it."""

from trainer.combine.combining import combine, summary_text
from trainer.combine.recipe import RECIPES, Recipe, parse_source

__all__ = ["RECIPES", "Recipe", "combine", "parse_source", "summary_text"]
