"""`plan`: what `train` would do, or why it would refuse; loads no weights."""

import argparse

from trainer.verbs.train import add_config, check_first
from trainer.verbs.verb import Verb, add_json
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print what `train` would do with this configuration: rows, tokens, steps, an example as "
        "the model reads it, leakage, memory, time. Exit code 2 for what it would refuse."
    )
    add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="as for train")
    parser.add_argument(
        "--measure", action="store_true", help="load the base and time a few steps of the run"
    )
    add_json(parser, "the plan")


def _run(options: argparse.Namespace) -> int:
    from trainer.run_file import load_run

    given = load_run(options.config, options.overrides)
    check_first(given, resume=False, overwrite=options.overwrite)

    from trainer import plan
    from trainer.train import TrainOptions, check, resolved

    run = resolved(given)
    checked = check(run, run.directory, TrainOptions(overwrite=options.overwrite), quiet=True)
    plans = [
        plan.plan(config, inputs, plan.measure(config, inputs) if options.measure else None)
        for config, inputs in zip(run.configs, checked.prepared, strict=True)
    ]
    if options.json:
        print(json_line({"jobs": plans} if len(plans) > 1 else plans[0]))
        return 0
    device = run.configs[0].device or "cpu"
    alone = len(plans) == 1
    for found in plans:
        print("\n".join(plan.text(found, checked.memory if alone else None, device)))
    if not alone:
        print(f"all {len(plans)} jobs together")
        print(plan.memory_line(checked.memory, device))
    return 0


VERB = Verb("plan", "print what train would do; loads no weights", _add_arguments, _run)
