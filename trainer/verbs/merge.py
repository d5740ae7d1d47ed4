"""`merge`: write a base with an adapter merged into its weights."""

import argparse
from pathlib import Path

from trainer.errors import InputError
from trainer.verbs.verb import ADAPTER_HELP, Verb, add_json, add_store
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add an adapter's update to its base's weights and write a complete new base. The weights "
        "are those that it was trained on, dequantized, so that the result computes what base and "
        "adapter do; it is compared on probe prompts, and refused beyond the tolerance."
    )
    parser.add_argument("--adapter", required=True, metavar="ADAPTER", help=ADAPTER_HELP)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="its base model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new base")
    add_store(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the weights written (default: the base's own)",
    )
    parser.add_argument(
        "--weights",
        choices=("dequantized", "original"),
        default="dequantized",
        help="what the update is added to (default: dequantized)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest logit difference, relative to the largest logit (default: 1e-4 for float32, "
        "3e-2 for bfloat16, 0.1 for adapters trained on int8)",
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="least share of positions with the same most likely token (default: 0.95)",
    )
    add_json(parser, "the report")


def _run(options: argparse.Namespace) -> int:
    for flag, value in (
        ("--tolerance", options.tolerance),
        ("--min-agreement", options.min_agreement),
    ):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{flag} {value:g} is not in [0, 1]")

    from trainer.merge import MergeOptions, merge
    from trainer.reference import find_adapter

    report = merge(
        find_adapter(options.adapter, options.store),
        options.base,
        options.out,
        MergeOptions(options.dtype, options.weights, options.tolerance, options.min_agreement),
    )
    if options.json:
        print(json_line(report))
        return 0
    print(
        f"{report['out']}: {report['base']} with {report['adapter'][:80]} in its weights, "
        f"{report['dtype']}; largest logit difference {report['max_logit_difference']:.2g} "
        f"(relative), same most likely token at {report['greedy_agreement']:.1%} of the positions"
    )
    if again := report["requantized"]:
        print(
            f"note: quantized anew as {report['quantization']} they would differ by "
            f"{again['max_logit_difference']:.2g} and agree at {again['greedy_agreement']:.1%}; "
            "serve it with --quantization none"
        )
    return 0


VERB = Verb("merge", "write a base with an adapter merged into its weights", _add_arguments, _run)
