"""The dashboard against what a server that has done some work really exports."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from understudy import Client, StoppingParams, UnderstudyError

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "understudy.json"
SELECTOR = re.compile(r"\b(understudy_\w+)(?:\{([^}]*)\})?")


def used_labels() -> set[tuple[str, str]]:
    """Return (series, label) for each label that a panel selects or groups by."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = set()
    for expression in (t["expr"] for panel in panels for t in panel.get("targets", [])):
        groups = re.findall(r"\bby \(([^)]*)\)", expression)
        grouped = [label.strip() for group in groups for label in group.split(",")]
        for name, selected in SELECTOR.findall(expression):
            labels = re.findall(r"(\w+)\s*[=!]~?", selected)
            found |= {(name, label) for label in (*grouped, *labels)}
    return found


def test_every_label_exists(server) -> None:
    with Client(server.address) as client:
        list(client.stream("noon", adapter="pirate", stopping=StoppingParams(max_tokens=4)))
        with pytest.raises(UnderstudyError):
            client.generate("noon", adapter="nobody")
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    exported = {
        (sample.name, label)
        for family in families
        for sample in family.samples
        for label in sample.labels
    }
    assert len(used_labels()) > 5
    assert used_labels() - exported == set()
