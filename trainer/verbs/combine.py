"""`combine`: make one LoRA adapter of several in a store."""

import argparse
from pathlib import Path

from trainer.verbs.verb import Verb, add_json
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Publish a weighted combination of LoRA adapters as a new version. `sum` is exact, and as "
        "large as all of them together; the other recipes are PEFT's."
    )
    parser.add_argument("name", metavar="NAME", help="the result's name in the store")
    parser.add_argument(
        "--adapters",
        nargs="+",
        required=True,
        metavar="ADAPTER[=WEIGHT]",
        help="name, name@version or name@alias; weight 1 where left out",
    )
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="their base model")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--recipe",
        default="sum",
        metavar="RECIPE",
        help="sum (default), svd, linear, ties, dare_linear, dare_ties, magnitude_prune; the last "
        "four also as ..._svd",
    )
    parser.add_argument("--density", type=float, metavar="SHARE", help="numbers to keep, (0, 1]")
    parser.add_argument("--rank", type=int, metavar="R", help="of the result, for the svd recipes")
    parser.add_argument("--seed", type=int, default=0, help="of what dare drops (default 0)")
    add_json(parser, "the summary")


def _run(options: argparse.Namespace) -> int:
    from trainer.combine import Recipe, combine, parse_source, summary_text

    summary = combine(
        options.name,
        [parse_source(text) for text in options.adapters],
        Recipe(options.recipe, options.density, options.rank, options.seed),
        options.base,
        options.store,
    )
    print(json_line(summary) if options.json else summary_text(summary, options.store))
    return 0


VERB = Verb("combine", "make one LoRA adapter of several in a store", _add_arguments, _run)
