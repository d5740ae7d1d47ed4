"""The short commands of the command line: each takes a client and the parsed arguments."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields

from understudy._output import print_json, print_table, printable
from understudy.client import Client
from understudy.errors import invalid_argument
from understudy.types import (
    Input,
    RawPrompt,
)


def read_text(text: str) -> str:
    """The argument itself, or all of stdin without its last line break for `-`."""
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise invalid_argument("stdin", f"not UTF-8 at byte {error.start}") from None


def prompt_input(args: argparse.Namespace, text: str | None) -> Input:
    """The input that the arguments are: `text` for the template, with --raw the whole prompt, or
    in its place the values of --input. Raises InvalidArgumentError."""
    if args.input:
        if text is not None or args.raw:
            other = "--raw" if args.raw else f"the text {text:.40}"
            raise invalid_argument("--input", f"fills the template; {other} would, too: give one")
        values = dict(args.input)
        if len(values) < len(args.input):
            names = ", ".join(name for name, _ in args.input)
            raise invalid_argument("--input", f"{names}: a name is given twice")
        return values
    if text is None:
        raise invalid_argument("text", "is missing; give it, - for stdin, or --input NAME=VALUE")
    return RawPrompt(read_text(text)) if args.raw else read_text(text)


def named_value(text: str) -> tuple[str, str]:
    """One --input: a template variable's name and value."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def score(client: Client, args: argparse.Namespace) -> None:
    """A table of log-likelihoods, the best one marked."""
    context, continuations = (None if args.input else args.texts[0]), args.texts
    if context is not None:
        continuations = continuations[1:]
    if not continuations:
        raise invalid_argument("continuation", "is missing; give at least one behind the context")
    result = client.score(
        prompt_input(args, context),
        continuations,
        adapter=args.adapter,
        token_logprobs=args.logprobs,
        timeout=args.timeout,
    )
    if args.json:
        print_json(result)
        return
    best = max(score.logprob for score in result.scores)
    rows = [
        (
            "*" if score.logprob == best else "",
            f"{score.logprob:.4f}",
            f"{score.logprob / score.num_tokens:.4f}" if score.num_tokens else "-",
            str(score.num_tokens),
            "yes" if score.is_greedy else "no",
            printable(text),
        )
        for score, text in zip(result.scores, continuations, strict=True)
    ]
    print_table(("", "logprob", "per token", "tokens", "greedy", "continuation"), rows)
    if args.logprobs:
        for score, text in zip(result.scores, continuations, strict=True):
            print(f"\n{printable(text)}")
            tokens = [
                (f"{t.logprob:.4f}", str(t.token_id), printable(t.token)) for t in score.tokens
            ]
            print_table(("logprob", "id", "token"), tokens)


def classify(client: Client, args: argparse.Namespace) -> None:
    """A table of labels, the most likely first."""
    result = client.classify(
        prompt_input(args, args.text), adapter=args.adapter, timeout=args.timeout
    )
    if args.json:
        print_json(result)
        return
    rows = [
        (f"{score.probability:.4f}", f"{score.logit:.4f}", printable(score.label))
        for score in result.labels
    ]
    print_table(("probability", "logit", "label"), rows)


def tokenize(client: Client, args: argparse.Namespace) -> None:
    """Token ids with their texts."""
    result = client.tokenize(
        prompt_input(args, args.text), adapter=args.adapter, timeout=args.timeout
    )
    if args.json:
        print_json(result)
        return
    rows = [
        (str(token_id), printable(token))
        for token_id, token in zip(result.token_ids, result.tokens, strict=True)
    ]
    print_table(("id", "token"), rows)
    print(f"\n{len(rows)} tokens")


def info(client: Client, args: argparse.Namespace) -> None:
    """What the server holds."""
    result = client.model_info(timeout=args.timeout)
    if args.json:
        print_json(result)
        return
    rows = [(field.name, cell(getattr(result, field.name))) for field in fields(result)]
    print_table(("server", client.address), rows)


def cell(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


Command = Callable[[Client, argparse.Namespace], None]
