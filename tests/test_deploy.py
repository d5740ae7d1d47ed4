"""The files in deploy/ against the code they name. Nothing here builds or runs an image."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "docker" / name for name in ("Dockerfile.cpu", "Dockerfile.cuda")]
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "understudy.json"
ParseCommand = Callable[[Sequence[str]], None]
SERIES = re.compile(r"\bunderstudy_\w+")


def exported_series() -> set[str]:
    """Return every series name that `/metrics` can show."""
    suffixes = {
        "counter": ["_total"],
        "info": ["_info"],
        "histogram": ["_bucket", "_sum", "_count"],
    }
    return {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in suffixes.get(family.type, [""])
    }


def expressions(node: Any) -> Iterator[str]:
    """Yield every PromQL expression of a dashboard, template queries included."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"expr", "query"} and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) pairs, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_no_file_is_left_out() -> None:
    assert sorted((DEPLOY / "docker").iterdir()) == DOCKERFILES
    assert list(DASHBOARD.parent.iterdir()) == [DASHBOARD]


def test_dashboard_names_exported_series() -> None:
    found = list(expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))))
    used = {name for expression in found for name in SERIES.findall(expression)}
    assert used
    assert used <= exported_series()
    assert all(SERIES.search(expression) for expression in found)


def test_dashboard_is_well_formed() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    identifiers = [panel["id"] for panel in panels]
    assert len(set(identifiers)) == len(identifiers)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24
    provisioned = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8")
    )
    source = provisioned["datasources"][0]["uid"]
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert all(panel["targets"] for panel in drawn)
    assert {panel["datasource"]["uid"] for panel in drawn} == {source}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile(path: Path) -> None:
    """Copies what exists, and what .dockerignore lets through; runs as a user; has a check."""
    steps = instructions(path)
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for instruction, arguments in steps:
        if instruction == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.split('/')[0]}" in ignore, source
    last_stage = steps[max(i for i, (name, _) in enumerate(steps) if name == "FROM") :]
    final = dict(last_stage)
    assert final["USER"].isdigit()
    assert int(final["USER"]) > 0
    assert f"--uid {final['USER']} " in final["RUN"]
    assert "HEALTHCHECK" in final
    assert [name for name, _ in last_stage].index("USER") < [n for n, _ in last_stage].index("CMD")


def command_of(dockerfile: Path) -> list[str]:
    """Return the full command line that a container of this image runs."""
    final = dict(instructions(dockerfile))
    command: list[str] = json.loads(final["ENTRYPOINT"]) + json.loads(final["CMD"])
    return command


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_server_accepts_the_command(path: Path, parse_command: ParseCommand) -> None:
    parse_command(command_of(path))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_ports_agree(path: Path) -> None:
    """The ports of the command are the ones the image, the check and Prometheus name."""
    final = dict(instructions(path))
    command = command_of(path)
    port = command[command.index("--port") + 1]
    metrics_port = command[command.index("--metrics-port") + 1]
    assert final["EXPOSE"].split() == [port, metrics_port]
    assert f"localhost:{port}" in final["HEALTHCHECK"]
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text(encoding="utf-8"))
    assert scrape["scrape_configs"][0]["static_configs"] == [
        {"targets": [f"server:{metrics_port}"]}
    ]


def test_compose_refers_to_what_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    cuda = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"server", "prometheus", "grafana"}
    build = compose["services"]["server"]["build"]
    context = DEPLOY / build["context"]
    assert (context / build["dockerfile"]).is_file()
    assert (context / cuda["services"]["server"]["build"]["dockerfile"]).is_file()
    named = set(compose["volumes"])
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in named or source.startswith("${"), source


def test_compose_mounts_what_the_command_reads() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    server = compose["services"]["server"]
    command = command_of(DEPLOY / "docker" / "Dockerfile.cpu")
    read = {command[command.index(flag) + 1] for flag in ("--base", "--store")}
    assert {volume["target"] for volume in server["volumes"]} == read
    port = command[command.index("--port") + 1]
    assert server["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_grafana_finds_its_files() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    grafana = compose["services"]["grafana"]
    mounts = {target: source for source, target, _ in (v.split(":") for v in grafana["volumes"])}
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/understudy.yaml").read_text(encoding="utf-8")
    )["providers"][0]
    folder = provider["options"]["path"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == folder
    assert (DEPLOY / mounts[folder] / home.name).is_file()
