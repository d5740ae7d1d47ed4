"""Every shell command in the documentation is one that works.

Commands of our own programs are parsed by those programs, `make` targets are looked up, links are
followed. What can only be tried by hand stands in BY_HAND with the reason; nothing else passes.
`tests/e2e/test_readme.py` runs the README's own-model section for real.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    "docs/adapters.md",
    "docs/operating.md",
    "docs/training.md",
    "docs/dialogsum.md",
    "docs/pre-flight.md",
    "docs/store.md",
    "docs/evaluation.md",
    "docs/evaluation-runs.md",
    "docs/evaluation-aspects.md",
]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
PROGRAMS = {"server", "trainer", "evalsuite", "demo", "understudy"}

DIRECTORIES = "BASE_DIR=/path/to/model STORE_DIR=/path/to/store"
NO_DOCKER = "needs a Docker engine; tests/test_deploy.py checks the files"
BY_HAND = {
    "accelerate launch --num_processes 2 -m trainer train first.yaml": "needs two devices; "
    "tests/trainer/test_distributed.py starts two processes so on the CPU",
    ".venv/bin/pre-commit install": "writes into .git; the hooks run the tools of `make check`",
    f"{DIRECTORIES} docker compose --file deploy/compose.yaml up --build": NO_DOCKER,
    f"{DIRECTORIES} docker compose --file deploy/compose.yaml --file deploy/compose.cuda.yaml "
    "up --build": NO_DOCKER,
}


def commands(page: str) -> list[str]:
    """Return the commands of a page's `sh` blocks, comments cut and continuations joined."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    cut = [" ".join(shlex.split(line, comments=True, posix=False)) for line in lines]
    return [line for line in cut if line]


CASES = [(page, command) for page in PAGES for command in commands(page)]


def test_there_are_commands() -> None:
    assert {page for page, _ in CASES} == set(PAGES)


def make(*arguments: str) -> str:
    """Run make as a user's shell does, also where the tests themselves run under make."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(("page", "command"), CASES, ids=lambda value: str(value)[:60])
def test_command(page: str, command: str, parse_command: Callable[[Sequence[str]], None]) -> None:
    words = [word for word in shlex.split(command) if word != "&"]
    if words[0] == "make":
        make("--dry-run", *words[1:])
    elif Path(words[0]).name == "understudy" or (
        words[1:2] == ["-m"] and words[2].split(".")[0] in PROGRAMS
    ):
        parse_command([Path(words[0]).name, *words[1:]])
    else:
        assert command in BY_HAND


def test_by_hand_has_no_leftovers() -> None:
    assert set(BY_HAND) <= {command for _, command in CASES}


@pytest.mark.parametrize(
    "page", [*PAGES, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    targets = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (folder / target).exists()] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    shown = [line.split()[0] for line in make("help").splitlines()]
    assert shown == phony[1].split()


def test_make_clean_keeps_what_users_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made, kept = ["build", ".venv", "server/__pycache__"], ["runs/mine", "store", "demo-run"]
    for name in [*made, *kept]:
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [name for name in [*made, *kept] if (tmp_path / name).exists()] == kept
