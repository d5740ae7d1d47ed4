"""Rules of the house that ruff, mypy and import-linter do not check."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"server", "trainer", "evalsuite", "demo", "understudy"}
MAX_LINES = 500
# Import names of distributions that exist only as a part of another, at a version it pins.
PART_OF = {"pydantic_core": "pydantic"}
# Files that run in an environment of their own, and what only that one has.
ELSEWHERE = {
    "tests/bench/vllm_worker.py": {"vllm"},
    "tests/evalsuite/oracles/label_values.py": {"sklearn"},
    "tests/evalsuite/oracles/calibration_values.py": {"calibration", "sklearn"},
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/|\.\./shared")


def tracked(pattern: str = "*") -> list[Path]:
    """Return the files git tracks, or would: ignored ones are left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", pattern]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    """Return every Python file written by hand."""
    return [path for path in tracked("*.py") if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_sources_to_check() -> None:
    assert {relative(path).split("/")[0] for path in sources()} >= {"server", "client", "tests"}


@pytest.mark.parametrize("folder", ["proto", "tests", "deploy"])
def test_no_package_marker(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_no_file_is_too_long() -> None:
    lengths = {relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_no_committed_file_names_a_machine() -> None:
    allowed = {".ci/run", relative(Path(__file__))}
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if relative(path) not in allowed and (match := MACHINE_PATH.search(text)):
            found.append(f"{relative(path)}: {match.group()}")
    assert found == []


def mutable_globals(tree: ast.Module) -> list[int]:
    """Return the lines that bind a lower-case module-level name to a list, dict or set.

    Upper-case names are constants by convention, registries among them; `__all__` is Python's own.
    """
    lines = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        mutable = isinstance(
            getattr(node, "value", None),
            ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp,
        )
        if mutable and any(name != "__all__" and not name.isupper() for name in names):
            lines.append(node.lineno)
    return lines


def test_no_mutable_globals() -> None:
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{relative(path)}:{line}" for line in mutable_globals(tree)]
        found += [
            f"{relative(path)}:{node.lineno} global"
            for node in ast.walk(tree)
            if isinstance(node, ast.Global)
        ]
    assert found == []


def test_mutable_globals_are_found() -> None:
    tree = ast.parse("cache = {}\nTABLE = {}\n__all__ = []\nitems: list[int] = []\nn = 3\n")
    assert mutable_globals(tree) == [1, 4]


def test_no_environment_at_import() -> None:
    """Nothing outside a function reads the environment."""
    found = []
    for path in sources():
        if relative(path).startswith("tests/"):
            continue
        pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                found.append(f"{relative(path)}:{node.lineno}")
            pending.extend(ast.iter_child_nodes(node))
    assert found == []


def third_party_imports(path: Path) -> set[str]:
    """Return the top-level names of other people's packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    # `google` belongs to several distributions; triton comes with torch's CUDA builds.
    return names - PACKAGES - set(sys.stdlib_module_names) - {"google", "tests", "triton"}


def declared(pyproject: Path, *extras: str) -> set[str]:
    """Return the names of the distributions a pyproject file asks for."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {re.split(r"[^\w.-]", r)[0].lower().replace("_", "-") for r in requirements}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        *[(folder, ()) for folder in ("client", "demo")],
        ("trainer", ("sweep", "tensorboard")),
        ("evalsuite", ("lm-eval",)),
        ("server", ("remote",)),
        ("tests", ("dev", "remote", "lm-eval", "tensorboard")),
    ],
)
def test_imports_are_declared(folder: str, extras: tuple[str, ...]) -> None:
    """What a part imports stands in its own distribution's dependencies, not in luck."""
    client = declared(ROOT / "client" / "pyproject.toml")
    wanted = client if folder == "client" else client | declared(ROOT / "pyproject.toml", *extras)
    homes = importlib.metadata.packages_distributions()
    missing = []
    for path in sources():
        if relative(path).startswith(f"{folder}/"):
            for name in third_party_imports(path) - ELSEWHERE.get(relative(path), set()):
                owners = {owner.lower().replace("_", "-") for owner in homes.get(name, [])}
                owners.add(PART_OF.get(name, name).lower().replace("_", "-"))
                if not owners & wanted:
                    missing.append(f"{relative(path)} imports {name}")
    assert missing == []


def test_decisions_have_numbers_of_their_own() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers)
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]}: ")
