"""Command line of the trainer.

Exit codes: 0 done; 2 wrong input; 130 Ctrl-C, 143 SIGTERM, with a checkpoint; 1 anything else.
"""

import argparse
import contextlib
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence

from trainer.distributed import is_main
from trainer.errors import InterruptedRunError, TrainerError
from trainer.verbs import VERBS

EXAMPLES = """\
examples:
  python -m trainer train lora.yaml
  python -m trainer train lora.yaml --set optimiser.epochs=3 --set method.rank=8
  python -m trainer resume runs/lora
  python -m trainer plan lora.yaml
  python -m trainer compare recipes/compare.yaml --methods lora,prompt_tuning
  python -m trainer sweep recipes/sweep.yaml --trials 8
  python -m trainer verify store
  python -m trainer inspect my-adapter@latest --base BASE --store store
  python -m trainer merge --adapter my-adapter --base BASE --out NEW-BASE --store store
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
        # Its options are its own, `--help` included.
        return VERBS["pretrain"].run(argparse.Namespace(arguments=arguments[1:]))
    options = _parser().parse_args(arguments)
    started = time.time()
    try:
        with _without_library_chatter():
            return VERBS[options.command].run(options)
    except TrainerError as error:
        if is_main():
            prefix = "" if isinstance(error, InterruptedRunError) else "error: "
            print(f"{prefix}{error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(_after_interrupt(options, arguments, started), file=sys.stderr)
        return 130


def _after_interrupt(options: argparse.Namespace, arguments: Sequence[str], started: float) -> str:
    """What Ctrl-C left, and the command that goes on; a run had begun at `started`, a time."""
    if options.command not in ("train", "resume"):
        goes_on = options.command in ("compare", "sweep")
        return "interrupted; the same command goes on from here" if goes_on else "interrupted"
    from trainer import files
    from trainer.run_file import load_run

    continues = options.command == "resume" or options.resume
    mode: list[str] = []
    try:
        directory = (
            options.directory
            if options.command == "resume"
            else load_run(options.config, options.overrides).directory
        )
        # What lay there before is not of this run, unless it goes on with it.
        checkpoint, config = (
            (directory / name).is_file()
            and (continues or (directory / name).stat().st_mtime >= started)
            for name in (files.CHECKPOINT, files.CONFIG)
        )
    except (TrainerError, OSError):
        checkpoint = config = False
    if not continues and checkpoint:
        mode = ["--resume"]
    elif not continues and config:
        # The folder says by now that a run is there.
        mode = ["--overwrite"]
    kept = [argument for argument in arguments if not mode or argument != "--overwrite"]
    command = f"python -m trainer {shlex.join([*kept, *mode])}"
    if checkpoint:
        return f"interrupted; continue from the last checkpoint with: {command}"
    return f"interrupted; nothing was saved yet, start again with: {command}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train adapters over a frozen, quantized base model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb in VERBS.values():
        added = commands.add_parser(verb.name, help=verb.help)
        verb.add_arguments(added)
    return parser


@contextlib.contextmanager
def _without_library_chatter() -> Iterator[None]:
    """Hides what the libraries say about their own future and about optional parts."""
    for name in ("bitsandbytes", "transformers.modeling_layers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


if __name__ == "__main__":
    sys.exit(main())
