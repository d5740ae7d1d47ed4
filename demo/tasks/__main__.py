"""Writes generated rows as JSONL: `python -m demo.tasks --task NAME --split test --out FILE`."""

import argparse
import sys
from pathlib import Path

from demo.tasks import SPLITS, TASKS, Split, write_rows

EXAMPLES = """examples:
  python -m demo.tasks --task support_summary --split train --num 2000 --seed 1 --out train.jsonl
  python -m demo.tasks --all --out data
"""
DEFAULT_NUM: dict[Split, int] = {"train": 3000, "validation": 200, "test": 300}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.tasks",
        description="Generate the data of the demo tasks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", choices=sorted(TASKS))
    what.add_argument("--all", action="store_true", help="every task and split, into one folder")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--num", type=int, help="rows (default: 3000 / 200 / 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file, or folder with --all")
    args = parser.parse_args(argv)
    if args.num is not None and args.num < 1:
        parser.error(f"--num must be at least 1, got {args.num}")
    wanted = (
        [(task, split, args.out / f"{task}.{split}.jsonl") for task in TASKS for split in SPLITS]
        if args.all
        else [(args.task, args.split, args.out)]
    )
    try:
        for task, split, path in wanted:
            write_rows(task, split, args.num or DEFAULT_NUM[split], args.seed, path)
            print(f"wrote {path}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
