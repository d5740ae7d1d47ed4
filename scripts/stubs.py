"""Generate the Python stubs of proto/ into client/; `--check` compares with what is committed."""

import argparse
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
CLIENT = ROOT / "client"


def generate(destination: Path) -> None:
    """Run protoc on every .proto file, writing below `destination`."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    outputs = {"python": "", "mypy": "quiet:", "grpc_python": "", "mypy_grpc": "quiet:"}
    # protoc finds its mypy plugins beside this interpreter, whether or not the venv is active.
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"),
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            *(f"--{output}_out={options}{destination}" for output, options in outputs.items()),
            *files,
        ],
        check=True,
    )


def stubs(root: Path) -> dict[str, str]:
    """Return the text of every generated file below `root`, by path."""
    return {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*_pb2*.py*"))
        if path.suffix in (".py", ".pyi")
    }


def difference() -> str:
    """Return a unified diff from the committed stubs to fresh ones; empty when equal."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = stubs(Path(folder))
    committed = stubs(CLIENT)
    lines: list[str] = []
    for name in sorted(fresh.keys() | committed.keys()):
        old, new = (texts.get(name, "").splitlines(keepends=True) for texts in (committed, fresh))
        lines += difflib.unified_diff(old, new, f"client/{name}", f"from proto/: {name}")
    return "".join(lines)


def main() -> None:
    """Generate, or compare and exit 1 on a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if they differ")
    if not parser.parse_args().check:
        for name in stubs(CLIENT):
            (CLIENT / name).unlink()
        generate(CLIENT)
        print(f"wrote {len(stubs(CLIENT))} stubs below {CLIENT.name}/")
    elif text := difference():
        sys.exit(f"{text}\nThe stubs differ from proto/: run `make proto` and commit the result.")
    else:
        print(f"{len(stubs(CLIENT))} stubs match proto/")


if __name__ == "__main__":
    main()
