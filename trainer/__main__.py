"""Command line of the trainer.

Exit codes: 0 done; 2 wrong input; 130 Ctrl-C, 143 SIGTERM, with a checkpoint; 1 anything else.
"""

import argparse
import contextlib
import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.errors import InputError, InterruptedRunError, TrainerError

EXAMPLES = """\
examples:
  python -m trainer train lora.yaml
  python -m trainer train lora.yaml --set optimiser.epochs=3 --set method.rank=8
  python -m trainer train lora.yaml --resume
  python -m trainer verify store/my-adapter/0123456789abcdef
  python -m trainer combine both --adapters first=0.7 second=0.3 --base BASE --store store
  python -m trainer schema > train.schema.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read when torch loads. Threads that spin while they wait slow each other down severalfold
    # wherever anything else runs on the same processors.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments[:1] == ["pretrain"]:
        from trainer import pretrain

        return pretrain.main(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        if options.command == "train":
            with _without_library_chatter():
                return _train(options)
        if options.command == "combine":
            with _without_library_chatter():
                return _combine(options)
        return _verify(options) if options.command == "verify" else _schema()
    except InterruptedRunError as error:
        print(f"{error}\ncontinue with: {_resume_command(arguments)}", file=sys.stderr)
        return error.exit_code
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        command = _resume_command(arguments)
        print(f"interrupted; from the last checkpoint, if any: {command}", file=sys.stderr)
        return 130


def _resume_command(arguments: Sequence[str]) -> str:
    kept = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    return f"python -m trainer {shlex.join([*kept, '--resume'])}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train adapters over a frozen, quantized base model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train, export and publish one adapter")
    train.add_argument("config", type=Path, metavar="FILE.yaml", help="see docs/training.md")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as optimiser.epochs=3; may be repeated",
    )
    mode = train.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue an interrupted run")
    mode.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    train.add_argument("--json", action="store_true", help="print the summary as one JSON line")
    train.add_argument("--quiet", action="store_true", help="print no progress")

    verify = commands.add_parser("verify", help="re-hash an adapter against its manifest")
    verify.add_argument("directory", type=Path, metavar="DIR", help="the adapter's folder")
    verify.add_argument("--json", action="store_true", help="print the manifest as one JSON line")

    _add_combine(commands)
    commands.add_parser("schema", help="print the configuration's JSON schema")
    commands.add_parser("pretrain", help="make a small base model by a recipe", add_help=False)
    return parser


def _add_combine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    combine = commands.add_parser(
        "combine",
        help="make one LoRA adapter of several in a store",
        description="Publish a weighted combination of LoRA adapters as a new version. `sum` is "
        "exact, and as large as all of them together; the other recipes are PEFT's.",
    )
    combine.add_argument("name", metavar="NAME", help="the result's name in the store")
    combine.add_argument(
        "--adapters",
        nargs="+",
        required=True,
        metavar="ADAPTER[=WEIGHT]",
        help="name, name@version or name@alias; weight 1 where left out",
    )
    combine.add_argument("--base", type=Path, required=True, metavar="DIR", help="their base model")
    combine.add_argument("--store", type=Path, required=True, metavar="DIR")
    combine.add_argument(
        "--recipe",
        default="sum",
        metavar="RECIPE",
        help="sum (default), svd, linear, ties, dare_linear, dare_ties, magnitude_prune; the last "
        "four also as ..._svd",
    )
    combine.add_argument("--density", type=float, metavar="SHARE", help="numbers to keep, (0, 1]")
    combine.add_argument("--rank", type=int, metavar="R", help="of the result, for the svd recipes")
    combine.add_argument("--seed", type=int, default=0, help="of what dare drops (default 0)")
    combine.add_argument("--json", action="store_true", help="print the summary as one JSON line")


@contextlib.contextmanager
def _without_library_chatter() -> Iterator[None]:
    """Hides what the libraries say about their own future and about optional parts."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _train(options: argparse.Namespace) -> int:
    # The libraries behind these take seconds to load; wrong configurations are answered before.
    from trainer.config_file import load_config

    config = load_config(options.config, options.overrides)

    from trainer.train import TrainOptions, train

    summary = train(
        config,
        TrainOptions(resume=options.resume, overwrite=options.overwrite, quiet=options.quiet),
    )
    if options.json:
        print(json.dumps(summary))
        return 0
    where = summary["artifact"]
    if summary["version"] is not None:
        where = f"{config.output.store}/{summary['name']}/{summary['version']}"
    before, after = summary["validation_loss_before"], summary["validation_loss"]
    losses = "" if after is None else f"validation loss {before:.4f} -> {after:.4f}, "
    print(
        f"{summary['name']}: {summary['steps']} steps in {summary['training_s']:.0f} s, {losses}"
        f"{summary['tokens_per_s']:,.0f} tokens/s; adapter in {where}"
    )
    return 0


def _combine(options: argparse.Namespace) -> int:
    from trainer.combine import Recipe, combine, parse_source, summary_text

    summary = combine(
        options.name,
        [parse_source(text) for text in options.adapters],
        Recipe(options.recipe, options.density, options.rank, options.seed),
        options.base,
        options.store,
    )
    print(json.dumps(summary) if options.json else summary_text(summary, options.store))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from understudy.artifact import ArtifactError, verify

    try:
        manifest = verify(options.directory)
    except (ArtifactError, OSError) as error:
        raise InputError(f"{options.directory}: {error}") from error
    if options.json:
        print(json.dumps(json.loads(manifest.to_json())))
    else:
        print(f"{manifest.name}: {manifest.method}, content hash {manifest.content_hash}: intact")
    return 0


def _schema() -> int:
    from trainer.config_file import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
