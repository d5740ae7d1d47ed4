"""Command line: `python -m evalsuite VERB`; every verb explains itself with --help."""

import argparse
import sys
from collections.abc import Sequence

from evalsuite.commands import bridge, catalog, compare, gate, load, matrix, report, run
from evalsuite.errors import EvalError

_EXAMPLES = """examples:
  python -m evalsuite run --server localhost:50051 --adapters base,support --tasks my_task.yaml
  python -m evalsuite run --server localhost:50051 --adapters base,a,b \\
      --tasks support_summary,review_label --data-dir data --shots 0,3 --out runs/eval
  python -m evalsuite matrix --server localhost:50051 --adapters a,b --tasks t,u --text prose.txt
  python -m evalsuite gate --server localhost:50051 --candidate a@latest --baseline a@stable \\
      --tasks t,u --delta 1 --junit gate.xml --markdown gate.md
  python -m evalsuite report --out runs/eval
  python -m evalsuite compare --blind --adapters a,b --out runs/eval
  python -m evalsuite rescore --out runs/eval
  python -m evalsuite load --server localhost:50051 --adapters base,a,b --mix zipf:1.1 \\
      --rate 20 --requests 500 --prompts data/inputs.txt
  python -m evalsuite bridge --server localhost:50051 --adapter a -- --tasks arc_easy --limit 100
  python -m evalsuite tasks
  python -m evalsuite show gsm8k --data data/gsm8k --shots 2
  python -m evalsuite fingerprints --tasks gsm8k,mmlu --data-dir data --out fingerprints.jsonl
"""
_VERBS = {
    "run": (run.add_run, "score adapters on tasks"),
    "matrix": (matrix.add, "show what each adapter gained on its task and forgot on the others"),
    "report": (report.add, "write a run as one HTML page, as Markdown and as JSON"),
    "gate": (gate.add, "decide whether a candidate may replace a baseline, by exit code"),
    "compare": (compare.add, "let people compare answers without names, and count their votes"),
    "load": (load.add, "measure a server under load, with a mix of adapters"),
    "bridge": (bridge.add, "run lm-evaluation-harness's tasks on the base or an adapter"),
    "rescore": (run.add_rescore, "score a run's answers again, without a server"),
    "tasks": (catalog.add_tasks, "list the built-in tasks"),
    "show": (catalog.add_show, "show a task, or a prompt and its answer"),
    "fingerprints": (catalog.add_fingerprints, "mark test items, to find them in training data"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; the exit code: 0, 2 for anything wrong, 130 after Ctrl-C.

    `gate` has 1 for a gate that does not open.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except EvalError as error:
        print(f"evalsuite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evalsuite: stopped; the same command continues where it was", file=sys.stderr)
        return 130


def _examples(verb: str) -> str:
    """Those of `verb` among all examples; a line that is indented further belongs to the last."""
    lines: list[str] = []
    for line in _EXAMPLES.splitlines()[1:]:
        if line.startswith("      "):
            lines[-1] += f"\n{line}"
        else:
            lines.append(line)
    own = [line for line in lines if line.split()[3] == verb]
    return "\n".join(["examples:", *own])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evalsuite",
        description="Scores adapters and the bare base through a running server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add, help) in _VERBS.items():
        add(
            commands.add_parser(
                name,
                help=help,
                description=f"{help[0].upper()}{help[1:]}.",
                epilog=_examples(name),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
