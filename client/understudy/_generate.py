"""The command `understudy generate`: its arguments, and what it prints."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from understudy._commands import prompt_input
from understudy._output import print_json, print_json_line, print_table, printable
from understudy.client import Client
from understudy.errors import invalid_argument
from understudy.types import (
    GenerateRequest,
    OutputOptions,
    SamplingParams,
    StoppingParams,
    StreamDelta,
    StreamEvent,
    StreamFinished,
    StreamStarted,
    StructuredOutput,
    TokenLogprob,
    WeightedAdapter,
)

_EVENT_NAMES: Mapping[type[StreamEvent], str] = MappingProxyType(
    {StreamStarted: "started", StreamDelta: "delta", StreamFinished: "finished"}
)


def add_arguments(generate: argparse.ArgumentParser) -> None:
    """The arguments beside those that other commands have, too."""
    generate.add_argument("text", nargs="?", help="the input, - for stdin")
    generate.add_argument(
        "--adapter",
        type=_weighted,
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="NAME, NAME@VERSION or NAME@ALIAS (default: the bare base); given several times, the "
        "sum of their updates, each times its weight (default 1)",
    )
    generate.add_argument(
        "--stream",
        action="store_true",
        help="with --json: one line per event instead of one document",
    )

    sampling = generate.add_argument_group("sampling")
    sampling.add_argument(
        "--temperature", type=float, metavar="T", help="0: greedy (default), higher: more varied"
    )
    sampling.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    sampling.add_argument(
        "--top-p", type=float, metavar="P", help="keep the likeliest tokens up to probability P"
    )
    sampling.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="keep tokens at least P times as likely as the likeliest",
    )
    sampling.add_argument("--seed", type=int, metavar="N", help="seed of the draw")
    sampling.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="above 1: against tokens of the prompt and the generation",
    )
    sampling.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="above 0: against generated tokens, for each time they came",
    )
    sampling.add_argument(
        "--presence-penalty", type=float, metavar="X", help="above 0: against generated tokens"
    )
    sampling.add_argument(
        "--logit-bias",
        type=_bias,
        action="append",
        default=[],
        metavar="ID=X",
        help="add X to the logit of a token id (may be repeated)",
    )
    sampling.add_argument("--samples", type=int, metavar="N", help="generations of the one input")

    stopping = generate.add_argument_group("stopping")
    stopping.add_argument("--max-tokens", type=int, metavar="N", help="most tokens to generate")
    stopping.add_argument("--min-tokens", type=int, metavar="N", help="fewest tokens to generate")
    stopping.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text (may be repeated)",
    )
    stopping.add_argument(
        "--ignore-eos", action="store_true", help="go on behind the end-of-sequence token"
    )

    _add_structured_output(generate)
    logprobs = generate.add_argument_group("log-probabilities (before penalties and sampling)")
    logprobs.add_argument("--logprobs", action="store_true", help="show each generated token's")
    logprobs.add_argument(
        "--top-logprobs", type=int, default=0, metavar="N", help="and those of the N likeliest"
    )
    logprobs.add_argument(
        "--prompt-logprobs", action="store_true", help="show each prompt token's, too"
    )


def _add_structured_output(generate: argparse.ArgumentParser) -> None:
    group = generate.add_argument_group(
        "structured output", "the text is of this form as a whole, unless max-tokens cuts it"
    )
    forms = group.add_mutually_exclusive_group()
    forms.add_argument("--json-schema", metavar="FILE", help="JSON valid under the schema in FILE")
    forms.add_argument("--regex", metavar="PATTERN", help="what a regular expression matches")
    forms.add_argument(
        "--choice", action="append", metavar="TEXT", help="this text (repeat it for each choice)"
    )
    forms.add_argument("--grammar", metavar="FILE", help="what the EBNF grammar in FILE derives")


def generate(client: Client, args: argparse.Namespace) -> None:
    """Streams text; with --json one document, with --json --stream one line per event. What a
    stream cannot show in order (several samples, the prompt) is shown at the end."""
    request = _request(args)
    if args.json and args.stream:
        with client.stream(request, timeout=args.timeout) as events:
            for event in events:
                print_json_line({"event": _EVENT_NAMES[type(event)], **asdict(event)})
    elif args.json:
        print_json(client.generate(request, timeout=args.timeout))
    elif args.prompt_logprobs or (args.samples or 1) > 1:
        _print_whole(client, request, args.timeout)
    else:
        _print_stream(client, request, args.timeout)


def _weighted(text: str) -> WeightedAdapter:
    """`NAME` or `NAME=WEIGHT`."""
    name, equals, weight = text.partition("=")
    try:
        return WeightedAdapter(name, float(weight) if equals else None)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{weight!r} in {text!r} is not a number") from None


def _request(args: argparse.Namespace) -> GenerateRequest:
    chosen: list[WeightedAdapter] = args.adapter
    # One without a weight needs no sum, so it may be of any kind.
    is_sum = len(chosen) > 1 or any(one.weight is not None for one in chosen)
    adapter = chosen[0].adapter if chosen and not is_sum else ""
    adapters = tuple(chosen) if is_sum else ()
    return GenerateRequest(
        prompt_input(args, args.text),
        adapter=adapter,
        adapters=adapters,
        sampling=SamplingParams(
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            seed=args.seed,
            repetition_penalty=args.repetition_penalty,
            frequency_penalty=args.frequency_penalty,
            presence_penalty=args.presence_penalty,
            logit_bias=dict(args.logit_bias),
        ),
        stopping=StoppingParams(
            max_tokens=args.max_tokens,
            min_tokens=args.min_tokens,
            stop=args.stop,
            ignore_eos=args.ignore_eos,
        ),
        output=OutputOptions(
            logprobs=args.logprobs,
            top_logprobs=args.top_logprobs,
            prompt_logprobs=args.prompt_logprobs,
        ),
        structured_output=_structured_output(args),
        num_samples=args.samples,
    )


def _structured_output(args: argparse.Namespace) -> StructuredOutput | None:
    schema, grammar = args.json_schema, args.grammar
    wanted = StructuredOutput(
        json_schema=_read_file(schema, "--json-schema") if schema is not None else None,
        regex=args.regex,
        choice=args.choice,
        grammar=_read_file(grammar, "--grammar") if grammar is not None else None,
    )
    return None if wanted == StructuredOutput() else wanted


def _read_file(path: str, flag: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise invalid_argument(flag, f"{path}: {reason}") from None


def _print_stream(client: Client, request: GenerateRequest, timeout: float | None) -> None:
    logprobs: list[TokenLogprob] = []
    with client.stream(request, timeout=timeout) as events:
        for event in events:
            if isinstance(event, StreamDelta):
                print(event.text, end="", flush=True)
                logprobs += event.logprobs
    print()
    if logprobs:
        print()
        _print_logprobs(logprobs)


def _print_whole(client: Client, request: GenerateRequest, timeout: float | None) -> None:
    result = client.generate(request, timeout=timeout)
    if result.prompt_logprobs:
        print("prompt:")
        _print_logprobs(result.prompt_logprobs)
        print()
    for generation in result.generations:
        if len(result.generations) > 1:
            print(f"sample {generation.index}:")
        print(generation.text)
        if generation.logprobs:
            print()
            _print_logprobs(generation.logprobs)
        if generation is not result.generations[-1]:
            print()


def _print_logprobs(logprobs: Sequence[TokenLogprob]) -> None:
    header = ["logprob", "id", "token"]
    rows = [[f"{t.logprob:.4f}", str(t.token_id), printable(t.token)] for t in logprobs]
    if any(entry.top for entry in logprobs):
        header.append("likeliest")
        for row, entry in zip(rows, logprobs, strict=True):
            row.append("  ".join(f"'{printable(t.token)}' {t.logprob:.4f}" for t in entry.top))
    print_table(header, rows)


def _bias(text: str) -> tuple[int, float]:
    token_id, separator, value = text.partition("=")
    try:
        if separator:
            return int(token_id), float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not a token id, =, and a number, as in 42=-1.5")
