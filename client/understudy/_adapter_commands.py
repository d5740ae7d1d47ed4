"""The commands about a server's adapters: list, show, load, unload, pin, alias; and watch."""

import argparse
import contextlib
import sys
from dataclasses import asdict, fields

from understudy._commands import cell
from understudy._output import print_json, print_json_line, print_table
from understudy.client import Client
from understudy.errors import DeadlineExceededError
from understudy.types import AdapterChange, AdapterEvent, AdapterInfo, Tier

_REFERENCE = "NAME, NAME@VERSION or NAME@ALIAS"
_EXAMPLES = """\
examples:
  understudy adapters list --prefix sum
  understudy adapters show summary@stable
  understudy adapters load summary --pin
  understudy adapters unload summary
  understudy adapters alias summary latest 0123456789abcdef
"""


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
    endless: argparse.ArgumentParser,
) -> None:
    """Adds `adapters` and `watch`. `common`: the options of every call; `endless`: the same for
    calls without a time limit of their own."""
    adapters = commands.add_parser(
        "adapters",
        help="what adapters a server has, and which it uses",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = adapters.add_subparsers(title="actions", required=True, metavar="ACTION")

    listing = actions.add_parser("list", parents=[common], help="list the adapters")
    _add_prefix(listing)
    listing.add_argument("--method", default="", help="such as lora or prompt_tuning")
    tiers = [tier.value for tier in Tier if tier is not Tier.UNSPECIFIED]
    listing.add_argument("--tier", choices=tiers, help="where the tensors are")
    listing.set_defaults(command=list_adapters)

    load = actions.add_parser("load", parents=[common], help="load an adapter")
    load.add_argument("name")
    load.add_argument(
        "--source",
        default="",
        metavar="SOURCE",
        help="directory on the server's machine, or hf://, s3://, gs://, https:// where the server "
        "allows it (default: the latest version in its store)",
    )
    load.add_argument("--pin", action="store_true", help="keep it in memory")
    load.set_defaults(command=load_adapter)

    unload = actions.add_parser("unload", parents=[common], help="take an adapter out of service")
    unload.add_argument("name", help=_REFERENCE)
    unload.set_defaults(command=unload_adapter)

    show = actions.add_parser("show", parents=[common], help="show one adapter")
    show.add_argument("name", help=_REFERENCE)
    show.set_defaults(command=show_adapter)

    pin = actions.add_parser("pin", parents=[common], help="keep an adapter in memory")
    pin.add_argument("name", help=_REFERENCE)
    pin.add_argument("--off", action="store_true", help="let it go")
    pin.set_defaults(command=pin_adapter)

    alias = actions.add_parser(
        "alias",
        parents=[common],
        help="point an alias at a version",
        epilog="To roll back, point latest to the version before: it is what the bare name means.",
    )
    alias.add_argument("name")
    alias.add_argument("alias", help="such as latest or stable")
    target = alias.add_mutually_exclusive_group(required=True)
    target.add_argument("version", nargs="?", default="", help="a version, in full")
    target.add_argument("--remove", action="store_true", help="remove the alias")
    alias.set_defaults(command=set_alias)

    watch = commands.add_parser(
        "watch",
        parents=[endless],
        help="show changes of adapters as they happen",
        epilog="example: understudy watch --prefix sum",
    )
    _add_prefix(watch)
    watch.set_defaults(command=watch_adapters)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", default="", help="names that start with this")


def list_adapters(client: Client, args: argparse.Namespace) -> None:
    """A table of adapters."""
    adapters = list(
        client.adapters.list(
            name_prefix=args.prefix,
            method=args.method,
            tier=Tier(args.tier) if args.tier else Tier.UNSPECIFIED,
            timeout=args.timeout,
        )
    )
    if args.json:
        print_json({"adapters": [asdict(adapter) for adapter in adapters]})
        return
    rows = [
        (
            adapter.name,
            adapter.version,
            "yes" if adapter.current else "",
            adapter.method,
            adapter.tier + (", pinned" if adapter.pinned else ""),
            f"{adapter.size_bytes / 1024:.1f}",
            str(adapter.num_leases),
            ", ".join(adapter.aliases),
        )
        for adapter in adapters
    ]
    header = ("name", "version", "current", "method", "tier", "KiB", "leases", "aliases")
    print_table(header, rows)


def load_adapter(client: Client, args: argparse.Namespace) -> None:
    """Loads an adapter and says which version it is."""
    result = client.adapters.load(args.name, source=args.source, pin=args.pin, timeout=args.timeout)
    if args.json:
        print_json(result)
        return
    print(f"loaded {result.adapter.name}@{result.adapter.version} in {result.load_s:.2f} s")
    _print_warnings(result.adapter)


def unload_adapter(client: Client, args: argparse.Namespace) -> None:
    """Unloads an adapter and says how many requests still run on it."""
    num_leases = client.adapters.unload(args.name, timeout=args.timeout)
    if args.json:
        print_json({"adapter": args.name, "num_leases": num_leases})
    else:
        print(f"unloaded {args.name}; {num_leases} requests still run on it")


def show_adapter(client: Client, args: argparse.Namespace) -> None:
    """One adapter with its manifest and evaluation results."""
    details = client.adapters.get(args.name, timeout=args.timeout)
    if args.json:
        print_json(details)
        return
    adapter = details.adapter
    rows = [
        (field.name, cell(getattr(adapter, field.name)))
        for field in fields(adapter)
        if field.name not in ("name", "warnings")
    ]
    print_table(("adapter", adapter.name), rows)
    if details.manifest and details.manifest.get("prompt_template"):
        print(f"\nprompt template:\n{details.manifest['prompt_template']}")
    if details.evals:
        print(f"\nevaluations: {', '.join(sorted(details.evals))}")
    _print_warnings(adapter)


def _print_warnings(adapter: AdapterInfo) -> None:
    for warning in adapter.warnings:
        print(f"understudy: warning: {adapter.name}: {warning}", file=sys.stderr)


def pin_adapter(client: Client, args: argparse.Namespace) -> None:
    """Pins an adapter, or lets it go."""
    adapter = client.adapters.pin(args.name, pinned=not args.off, timeout=args.timeout)
    if args.json:
        print_json(adapter)
        return
    done = "pinned" if adapter.pinned else "let go"
    print(f"{done} {adapter.name}@{adapter.version}, in tier {adapter.tier}")


def set_alias(client: Client, args: argparse.Namespace) -> None:
    """Points an alias at a version, or removes it."""
    adapter = client.adapters.set_alias(args.name, args.alias, args.version, timeout=args.timeout)
    if args.json:
        print_json(adapter)
    elif args.version:
        print(f"{args.name}@{args.alias} is {adapter.version}")
    else:
        print(f"removed {args.name}@{args.alias}")


def watch_adapters(client: Client, args: argparse.Namespace) -> None:
    """A line for each version in memory, then for each change, until Ctrl-C or --timeout."""
    with (
        contextlib.suppress(DeadlineExceededError),
        client.adapters.watch(name_prefix=args.prefix, timeout=args.timeout) as events,
    ):
        for event in events:
            if args.json:
                print_json_line(event)
            elif event.change is not AdapterChange.SYNCED:
                print(_line(event), flush=True)


def _line(event: AdapterEvent) -> str:
    adapter = event.adapter
    parts = [
        event.at.astimezone().strftime("%H:%M:%S.%f")[:-3] if event.at else "-",
        f"{event.change:8}",
        f"{adapter.name}@{adapter.version or event.alias}",
        str(adapter.tier),
    ]
    match event.change:
        case AdapterChange.ALIAS if not adapter.version:
            parts[-1] = "alias removed"
        case AdapterChange.ALIAS:
            parts.append(
                f"is {adapter.name}@{event.alias}" if event.alias else f"is {adapter.name}"
            )
        case AdapterChange.PINNED:
            parts.append("pinned" if adapter.pinned else "let go")
    return "  ".join(parts)
