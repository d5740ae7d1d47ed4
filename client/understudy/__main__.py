"""The command line `understudy`: generate, score, classify, tokenize, adapters, watch, info, store.

Exit codes: 0 done, 1 the server or the disk failed, 2 wrong input or no such adapter, 130 Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from understudy import _adapter_commands, _commands, _generate, _store
from understudy._output import printable
from understudy.artifact import ArtifactError
from understudy.client import Client
from understudy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnderstudyError,
)

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT_S = 60.0

EXIT_SERVER = 1
EXIT_INPUT = 2
EXIT_INTERRUPT = 128 + signal.SIGINT

_INPUT_ERRORS = (InvalidArgumentError, NotFoundError, FailedPreconditionError, AlreadyExistsError)

_EXAMPLES = """\
examples:
  understudy generate --adapter summary "Customer: my parcel is late ..."
  echo "some text" | understudy generate --adapter summary -
  understudy generate --raw --temperature 0.8 --seed 7 "Once upon a time"
  understudy generate --samples 3 --temperature 1 --adapter summary "..."
  understudy generate --adapter summary=0.7 --adapter formal=0.3 "some text"
  understudy generate --json --adapter summary "..." | jq -r .generations[0].text
  understudy generate --adapter reviews --choice positive --choice negative "Cold food."
  understudy score --adapter reviews "The food was cold." " good" " bad"
  understudy classify --adapter mood "The food was cold."
  understudy generate --adapter answers --input context="It rained." --input question="Why?"
  understudy tokenize --adapter summary "some text"
  understudy adapters list
  understudy adapters load summary --pin
  understudy adapters alias summary latest 0123456789abcdef
  understudy watch --prefix sum
  understudy info --server gpu1:50051 --json
  understudy store gc --store store --keep 3 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = _parser().parse_args(argv)
    server = getattr(args, "server", "") or os.environ.get("UNDERSTUDY_SERVER") or DEFAULT_SERVER
    try:
        if "offline" in args:
            return _offline(args)
        with Client(server) as client:
            args.command(client, args)
            sys.stdout.flush()
    except UnderstudyError as error:
        print(f"understudy: {_one_line(error, server)}", file=sys.stderr)
        return EXIT_INPUT if isinstance(error, _INPUT_ERRORS) else EXIT_SERVER
    except KeyboardInterrupt:
        return EXIT_INTERRUPT
    except BrokenPipeError:
        # The reader has gone; what is left in stdout's buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_SERVER
    return 0


def _offline(args: argparse.Namespace) -> int:
    """Runs a command that needs no server."""
    try:
        code = args.offline(args)
        sys.stdout.flush()
        return int(code)
    except ArtifactError as error:
        print(f"understudy: {printable(str(error))}", file=sys.stderr)
        return EXIT_INPUT
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        print(f"understudy: {where}{error.strerror}", file=sys.stderr)
        return EXIT_SERVER


def _one_line(error: UnderstudyError, server: str) -> str:
    message = " ".join(printable(line) for line in error.message.splitlines())
    if isinstance(error, _INPUT_ERRORS):
        return message
    hint = "; is the server running there?" if "Failed to connect" in message else ""
    return f"{server}: {error.code.name}: {message}{hint}"


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="understudy",
        description="Client of the Understudy server: one base model, an adapter per request.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = _common(DEFAULT_TIMEOUT_S)
    raw = argparse.ArgumentParser(add_help=False)
    raw.add_argument(
        "--raw", action="store_true", help="take the text as the whole prompt, without template"
    )
    raw.add_argument(
        "--input",
        type=_commands.named_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="in place of the text: the value of a variable of the adapter's prompt template "
        "(may be repeated)",
    )
    prompt = argparse.ArgumentParser(add_help=False, parents=[raw])
    prompt.add_argument(
        "--adapter",
        default="",
        metavar="NAME",
        help="NAME, NAME@VERSION or NAME@ALIAS (default: the bare base)",
    )

    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_generate(commands, [common, raw])
    _add_score(commands, [common, prompt])

    classify = commands.add_parser(
        "classify",
        parents=[common, prompt],
        help="labels from an adapter that classifies",
        epilog='example: understudy classify --adapter mood "The food was cold."',
    )
    classify.add_argument("text", nargs="?", help="the text, - for stdin")
    classify.set_defaults(command=_commands.classify)

    tokenize = commands.add_parser(
        "tokenize",
        parents=[common, prompt],
        help="show the tokens a request would run",
        epilog='example: understudy tokenize --adapter summary "some text"',
    )
    tokenize.add_argument("text", nargs="?", help="the text, - for stdin")
    tokenize.set_defaults(command=_commands.tokenize)

    _adapter_commands.add_commands(commands, common, _common(None))

    info = commands.add_parser(
        "info",
        parents=[common],
        help="show what the server holds",
        epilog="example: understudy info --server gpu1:50051 --json",
    )
    info.set_defaults(command=_commands.info)

    _store.add_commands(commands)
    return parser


def _common(timeout_s: float | None) -> argparse.ArgumentParser:
    """The options of every call, which may take `timeout_s` unless told otherwise."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--server",
        metavar="ADDR",
        help=f"HOST:PORT (default: $UNDERSTUDY_SERVER, or {DEFAULT_SERVER})",
    )
    common.add_argument(
        "--timeout",
        type=seconds,
        default=timeout_s,
        metavar="S",
        help=f"seconds the call may take, 0 for no limit (default: {timeout_s or 0:g})",
    )
    common.add_argument("--json", action="store_true", help="print JSON on stdout")
    return common


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_generate(commands: _Commands, parents: list[argparse.ArgumentParser]) -> None:
    generate = commands.add_parser(
        "generate",
        parents=parents,
        help="generate text, shown as it comes",
        epilog='example: understudy generate --adapter summary --max-tokens 64 "some text"',
    )
    _generate.add_arguments(generate)
    generate.set_defaults(command=_generate.generate)


def _add_score(commands: _Commands, parents: list[argparse.ArgumentParser]) -> None:
    score = commands.add_parser(
        "score",
        parents=parents,
        help="log-likelihood of continuations of one context",
        epilog='example: understudy score --adapter reviews "The food was cold." " good" " bad"',
    )
    score.add_argument(
        "texts",
        nargs="+",
        metavar="text",
        help="the context, - for stdin, unless --input gives it; then the continuations",
    )
    score.add_argument("--logprobs", action="store_true", help="show each token's log-probability")
    score.set_defaults(command=_commands.score)


def seconds(text: str) -> float | None:
    """A time limit from the command line; 0 is None, no limit."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 up")
    return value or None


if __name__ == "__main__":
    sys.exit(main())
