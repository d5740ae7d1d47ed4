"""Write requirements.lock: exact versions of all that both distributions and their checks need.

Versions already in the lock are kept, so a run changes only what the pyproject files ask for.
`--upgrade NAME` frees one package. torch's CUDA libraries are left out: torch pins them itself, and
only its CUDA builds need them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OWN = {"understudy", "understudy-suite"}
PINNED_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")
HEADER = """\
# Exact versions of what running, testing and checking need. Written by `make lock`; do not edit.
# Take a newer version of one package with `make lock UPGRADE="NAME ..."`.
# Installed with dependencies on, so that torch's CUDA builds bring the libraries they pin.
"""


def canonical(requirement: str) -> str:
    """Return the normalised project name of a requirement line (PEP 503)."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> list[str]:
    """Return the requirements of both distributions, with the `dev` extra and the build tools."""
    requirements: set[str] = set()
    for path in (ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        project = document["project"]
        requirements.update(document["build-system"]["requires"])
        requirements.update(project["dependencies"])
        requirements.update(project.get("optional-dependencies", {}).get("dev", []))
    return sorted(r for r in requirements if canonical(r) not in OWN)


def resolve(requirements: list[str], constraints: list[str]) -> dict[str, str]:
    """Let pip resolve, installing nothing; return version by project name."""
    with tempfile.TemporaryDirectory() as folder:
        constraint_file = Path(folder, "constraints.txt")
        constraint_file.write_text("\n".join(constraints), encoding="utf-8")
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
        command += ["--ignore-installed", "--report", str(report)]
        command += ["--constraint", str(constraint_file), *requirements]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {canonical(i["metadata"]["name"]): i["metadata"]["version"] for i in installs}
    return {
        name: version.split("+")[0]
        for name, version in sorted(found.items())
        if not PINNED_BY_TORCH.match(name)
    }


def main() -> None:
    """Resolve and rewrite the lock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", nargs="*", default=[], metavar="NAME")
    free = {canonical(name) for name in parser.parse_args().upgrade}
    kept = LOCK.read_text(encoding="utf-8").splitlines() if LOCK.exists() else []
    pins = [line for line in kept if line and line[0] != "#" and canonical(line) not in free]
    versions = resolve(wanted(), pins)
    lines = [f"{name}=={version}\n" for name, version in versions.items()]
    LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
