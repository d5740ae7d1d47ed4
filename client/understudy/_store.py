"""The commands `understudy store ...`: they work on a store's folder, without a server."""

import argparse
import math
import os
import re
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from understudy import garbage
from understudy import store as layout
from understudy._adopt import QUANTIZATIONS, adopted
from understudy._output import print_json, print_table
from understudy.artifact import (
    MANIFEST_FILE,
    TENSORS_FILE,
    ArtifactError,
    check_name,
    read_facts,
    read_manifest,
)

EXIT_OK, EXIT_FAULT = 0, 2
DEFAULT_STORE = "store"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

_EXAMPLES = """\
examples:
  understudy store publish runs/my-adapter/adapter
  understudy store publish my-peft-folder --name my-adapter --base BASE --template prompt.txt
  understudy store list --store store
  understudy store alias my-adapter stable latest
  understudy store alias my-adapter latest 5745d63b35da8e72
  understudy store verify my-adapter
  understudy store gc --keep 3 --age 24h --dry-run
"""


def add_commands(commands: Any) -> None:
    """Adds `store` and its actions to the command line."""
    store = commands.add_parser(
        "store",
        help="publish, list, verify and clear up the adapters of a store",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help=f"the store's folder (default: $UNDERSTUDY_STORE, or {DEFAULT_STORE})",
    )
    common.add_argument("--json", action="store_true", help="print JSON on stdout")
    actions = store.add_subparsers(title="actions", required=True, metavar="ACTION")

    def action(name: str, run: Any, help_: str, example: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(
            name, parents=[common], help=help_, epilog=f"example: understudy store {example}"
        )
        parser.set_defaults(offline=run)
        return parser

    listing = action("list", list_versions, "list names and versions", "list --store store")
    listing.add_argument("name", nargs="?", default="", help="this name only")

    publish_ = action(
        "publish", publish, "copy an artifact into the store, as `latest`",
        "publish runs/my-adapter/adapter --name my-adapter",
    )  # fmt: skip
    publish_.add_argument("artifact", type=Path, metavar="DIR", help="the artifact's directory")
    publish_.add_argument("--name", default="", help="its name (default: the manifest's)")
    elsewhere = publish_.add_argument_group(
        f"an adapter trained elsewhere (PEFT's files without {MANIFEST_FILE}; --name is needed)"
    )
    elsewhere.add_argument(
        "--base", type=Path, metavar="DIR", help="the base model's directory it was trained over"
    )
    elsewhere.add_argument(
        "--template", type=Path, metavar="FILE", help="Jinja text of its prompts (default: none)"
    )
    elsewhere.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="of the base while it was trained (default: none)",
    )
    elsewhere.add_argument(
        "--adds-tokens", action="store_true", help="its tokenizer's files belong to it"
    )

    alias = action(
        "alias", set_alias, "point an alias at a version", "alias my-adapter stable latest"
    )
    alias.add_argument("name")
    alias.add_argument("alias")
    alias.add_argument(
        "version", nargs="?", default="", help="a version, or an alias for what it means now"
    )
    alias.add_argument("--remove", action="store_true", help="remove the alias")

    verify = action(
        "verify", verify_versions, "hash versions again; exit code 2 where one is damaged",
        "verify my-adapter --json",
    )  # fmt: skip
    verify.add_argument(
        "name", nargs="?", default="", help="NAME, NAME@VERSION or NAME@ALIAS (default: all)"
    )

    collect = action(
        "gc", collect_garbage, "remove versions that nobody needs",
        "gc --keep 3 --age 24h --dry-run",
    )  # fmt: skip
    collect.description = (
        "Removes versions without an alias that no server has in memory, are not among the newest "
        "of their name, and are old enough; and what crashes left behind."
    )
    collect.add_argument("name", nargs="?", default="", help="of this name only")
    collect.add_argument(
        "--keep", type=_count, default=garbage.DEFAULT_KEEP, metavar="N",
        help="newest versions of each name that stay (default: %(default)s)",
    )  # fmt: skip
    collect.add_argument(
        "--age", type=_duration, default=garbage.DEFAULT_MIN_AGE_S, metavar="T",
        help="younger versions stay; such as 90m, 24h or 7d (default: 24h)",
    )  # fmt: skip
    collect.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def list_versions(args: argparse.Namespace) -> int:
    """A table of versions, newest first within each name."""
    store = _store(args)
    rows: list[dict[str, Any]] = []
    for name in [check_name(args.name)] if args.name else layout.names(store):
        entry = layout.read_entry(store, name)
        if args.name and not entry.versions:
            raise ArtifactError(f"the store has no adapter {name!r}")
        for version in entry.versions:
            directory = store / name / version
            try:
                method = read_facts(directory).method
            except ArtifactError:
                method = ""
            rows.append(
                {
                    "name": name,
                    "version": version,
                    "method": method,
                    "size_bytes": _size(directory / TENSORS_FILE),
                    "published_at": directory.stat().st_mtime,
                    "aliases": [a for a, target in entry.aliases if target == version],
                }
            )
    if args.json:
        print_json({"versions": rows})
        return EXIT_OK
    print_table(
        ("name", "version", "method", "KiB", "published", "aliases"),
        [
            (
                row["name"], row["version"], row["method"] or "unreadable",
                f"{row['size_bytes'] / 1024:.1f}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(row["published_at"])),
                ", ".join(row["aliases"]),
            )
            for row in rows
        ],
    )  # fmt: skip
    return EXIT_OK


def publish(args: argparse.Namespace) -> int:
    """Publishes an artifact and says which version it is."""
    if not args.artifact.is_dir():
        raise ArtifactError(f"{args.artifact}: no such directory")
    store = _store(args, must_exist=False)
    manifest = read_manifest(args.artifact)
    if manifest is not None:
        if args.base or args.template or args.quantization or args.adds_tokens:
            raise ArtifactError(
                f"{args.artifact}: its {MANIFEST_FILE} tells base and template; leave out --base, "
                "--template, --quantization and --adds-tokens"
            )
        name = args.name or manifest.name
        version = layout.publish(args.artifact, store, name)
    else:
        name, version = _adopt(args, store)
    if args.json:
        print_json({"name": name, "version": version})
    else:
        print(f"published {name}@{version}; latest points to it")
    return EXIT_OK


def set_alias(args: argparse.Namespace) -> int:
    """Points an alias at a version, or removes it."""
    if args.remove == bool(args.version):
        raise ArtifactError("give a version, or --remove")
    store = _store(args)
    if args.remove:
        layout.remove_alias(store, args.name, args.alias)
        version = None
    else:
        version = _resolve(store, args.name, args.version)
        layout.set_alias(store, args.name, args.alias, version)
    if args.json:
        print_json({"name": args.name, "alias": args.alias, "version": version})
    else:
        print(f"{args.name}@{args.alias} " + (f"is {version}" if version else "is gone"))
    return EXIT_OK


def verify_versions(args: argparse.Namespace) -> int:
    """One line for each fault on stderr; exit code 2 if there are any."""
    store = _store(args)
    name, _, selector = args.name.partition("@")
    names = [check_name(name)] if name else sorted(layout.folders(store))
    found: list[tuple[str, str]] = []
    for listed in names:
        if selector:
            found.append((listed, _resolve(store, listed, selector)))
        else:
            found += [(listed, version) for version in layout.versions(store, listed)]
        if name and not found:
            raise ArtifactError(f"the store has no adapter {name!r}")
    sizes = [_size(store / each / version / TENSORS_FILE) for each, version in found]
    faults = [] if selector else [
        {"name": each, "version": "", "fault": f"alias {alias!r} leads to no version"}
        for each in names for alias in layout.broken_aliases(store, each)
    ]  # fmt: skip
    done = 0
    for (each, version), size in zip(found, sizes, strict=True):
        _show_progress(done, sum(sizes))
        try:
            layout.verify_version(store, each, version)
        except ArtifactError as error:
            faults.append({"name": each, "version": version, "fault": str(error)})
        except OSError as error:
            text = f"cannot be read: {error.strerror}"
            faults.append({"name": each, "version": version, "fault": text})
        done += size
    _show_progress(done, sum(sizes), last=True)
    if args.json:
        print_json({"num_versions": len(found), "num_bytes": sum(sizes), "faults": faults})
    else:
        for fault in faults:
            exact = "@".join(filter(None, (fault["name"], fault["version"])))
            print(f"understudy: {exact}: {fault['fault']}", file=sys.stderr)
        if not faults:
            print(f"{len(found)} versions, {sum(sizes)} bytes of tensors: all as published")
    return EXIT_FAULT if faults else EXIT_OK


def collect_garbage(args: argparse.Namespace) -> int:
    """Says of every version whether it stays, and why."""
    policy = garbage.Policy(args.keep, args.age)
    store = _store(args)
    if args.name and not (store / check_name(args.name)).is_dir():
        raise ArtifactError(f"the store has no adapter {args.name!r}")
    verdicts = garbage.collect(store, policy, name=args.name, dry_run=args.dry_run)
    num_bytes = sum(verdict.size_bytes for verdict in verdicts if verdict.removed)
    if args.json:
        print_json(
            {
                "dry_run": args.dry_run,
                "removed_bytes": num_bytes,
                "versions": [asdict(verdict) for verdict in verdicts],
            }
        )
        return EXIT_OK
    done = "would go" if args.dry_run else "removed"
    print_table(
        ("name", "version", "KiB", "age", "", "reason"),
        [
            (
                v.name, v.version, f"{v.size_bytes / 1024:.1f}", _age(v.age_s),
                done if v.removed else "stays", v.reason,
            )
            for v in verdicts
        ],
    )  # fmt: skip
    count = sum(verdict.removed for verdict in verdicts)
    print(f"\n{done}: {count} of {len(verdicts)}, {num_bytes} bytes")
    return EXIT_OK


def _store(args: argparse.Namespace, *, must_exist: bool = True) -> Path:
    store = args.store or Path(os.environ.get("UNDERSTUDY_STORE") or DEFAULT_STORE)
    if must_exist and not store.is_dir():
        raise ArtifactError(f"{store}: no such store; name one with --store")
    return Path(store)


def _resolve(store: Path, name: str, selector: str) -> str:
    version = layout.read_entry(store, check_name(name)).resolve(selector)
    if version is None:
        raise ArtifactError(f"adapter {name!r} has no version or alias {selector[:80]!r}")
    return version


def _adopt(args: argparse.Namespace, store: Path) -> tuple[str, str]:
    if not args.base or not args.name:
        raise ArtifactError(
            f"{args.artifact}: holds no {MANIFEST_FILE} (a run's is in its folder `adapter`); for "
            "an adapter from elsewhere give --name and --base"
        )
    with adopted(
        args.artifact, args.base, args.name,
        template=args.template,
        quantization=args.quantization or "none",
        adds_tokens=args.adds_tokens,
    ) as artifact:  # fmt: skip
        return args.name, layout.publish(artifact, store, args.name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _show_progress(done: int, total: int, *, last: bool = False) -> None:
    if not sys.stderr.isatty():
        return
    if last:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
        return
    share = done / total if total else 0.0
    width = max(10, min(50, shutil.get_terminal_size().columns - 30))
    bar = "#" * round(share * width)
    text = f"\rverifying [{bar:<{width}}] {share:4.0%}"
    print(text, end="", file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _duration(text: str) -> float:
    """Seconds of `90m`, `24h`, `7d` or a plain number of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text, re.ASCII)
    if match is None or not math.isfinite(float(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90m, 24h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def _age(age_s: float) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f}{unit}"
    return f"{age_s:.0f}s"
