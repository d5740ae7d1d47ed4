"""The page: self-contained, escaped, complete; published numbers; Markdown; plots."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from evalsuite.__main__ import main
from evalsuite.registry import built_in_tasks
from evalsuite.reports.page import embedded
from evalsuite.reports.plots import Dot, dot_plot, ticks
from evalsuite.reports.published import beside_ours, entries

NASTY = "</script><script>alert(1)</script> <!-- & \" ' \u2028 é"
VOID = {"meta", "input", "br", "option"}


class Page(HTMLParser):
    """What a page is made of; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [str(values[name]) for name in ("src", "data", "srcset") if name in values]
        self.ids |= {str(values["id"])} if "id" in values else set()
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)


@pytest.fixture
def finished(server: Any, make_tasks: Callable[..., Any], tmp_path: Path) -> Path:
    """A run with a refused sample and a text that would break a careless page."""
    files = make_tasks()
    path = tmp_path / "rewrite.test.jsonl"
    nasty = {"input": "nasty", "completion": NASTY}
    long = {"input": "long " * 300, "completion": "x"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (nasty, long)) + path.read_text())
    server.gold = {**files.gold, "nasty": NASTY, "long": "x"}
    server.max_context_tokens = 200
    command = ["run", "--server", server.address, "--adapters", "base,gold,half", "--shots", "0"]
    command += ["--tasks", f"{files.rewrite},{files.mood}", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    return tmp_path / "out"


def test_page(finished: Path) -> None:
    samples = (finished / "samples.jsonl").read_bytes()
    assert main(["report", "--out", str(finished), "--own", "gold=rewrite"]) == 0
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert "@import" not in text
    assert "url(" not in text
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert {"scores", "matrix", "plots", "calibration", "samples", "signatures"} <= page.ids
    assert "published" not in page.ids
    data = json.loads(page.scripts[0])
    assert len(page.scripts) == 2
    task = data["rewrite"]
    assert list(task["rows"]) == ["base", "trivial", "gold", "half"]
    assert task["best"] == "gold"
    assert task["samples"][0]["references"] == [NASTY]
    assert task["rows"]["gold"][0]["output"] == NASTY
    assert "tokens" in task["rows"]["gold"][1]["refusal"]
    assert len(task["samples"]) == task["num_samples"] == 14
    # Everything the page says of a sample is in samples.jsonl too, which it left as it was.
    assert (finished / "samples.jsonl").read_bytes() == samples
    for line in map(json.loads, samples.splitlines()):
        found = data[line["task"]]["rows"][line["row"]][
            [sample["id"] for sample in data[line["task"]]["samples"]].index(line["id"])
        ]
        assert {name: line[name] for name in found} == found
    visible = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "1 unscored" in visible
    assert "+0.929*" not in visible
    assert re.search(r"<b>\+1\.000\*</b>", visible)


def test_same_run_same_page(finished: Path) -> None:
    pages = []
    for _ in range(2):
        assert main(["report", "--out", str(finished), "--own", "gold=rewrite"]) == 0
        pages.append((finished / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_large_task_is_cut_and_the_page_says_so(finished: Path) -> None:
    assert main(["report", "--out", str(finished), "--max-samples", "3", "--tasks", "mood"]) == 2
    task = str(finished.parent / "mood.yaml")
    assert main(["report", "--out", str(finished), "--max-samples", "3", "--tasks", task]) == 0
    data = json.loads(Page((finished / "report.html").read_text(encoding="utf-8")).scripts[0])
    assert list(data) == ["mood"]
    assert (len(data["mood"]["samples"]), data["mood"]["num_samples"]) == (3, 12)


def test_a_run_without_a_base_has_no_matrix(
    server: Any, make_tasks: Callable[..., Any], tmp_path: Path
) -> None:
    files = make_tasks()
    server.gold = files.gold
    out = str(tmp_path / "out")
    command = ["run", "--server", server.address, "--adapters", "gold,half", "--out", out]
    assert main([*command, "--tasks", str(files.mood)]) == 0
    assert main(["report", "--out", out]) == 0
    assert "matrix" not in Page((tmp_path / "out" / "report.html").read_text()).ids
    assert not (tmp_path / "out" / "matrix.json").exists()


def test_markdown(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["report", "--out", str(finished), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    names = ["report.html", "report.md", "report.json", "matrix.json"]
    assert [Path(path).name for path in written] == names
    text = (finished / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    calibrated = text.partition("## Calibration")[2].splitlines()
    assert [line for line in calibrated if line.startswith("| mood | gold | 0.2")] != []
    assert len([line for line in calibrated if line.startswith("|")]) == 2 + 3
    assert len(rows) == 2 + 4 + 2 + 2 + 5
    assert {line.count("|") for line in rows[:-5]} == {4}
    assert "| gold | 1.000 [" in text
    assert "correction over 4 cells: holm" in text


@pytest.mark.parametrize("text", [NASTY, "<!--", "]]>", "\\", '"'])
def test_embedded_json_ends_no_script(text: str) -> None:
    found = embedded({"text": text})
    assert "<" not in found
    assert json.loads(found) == {"text": text}


def test_plots_are_well_formed() -> None:
    dots = [
        Dot("a<b & c", 0.5, 0.4, 0.6, "adapter"),
        Dot("x" * 40, None, None, None, "base"),
        Dot("only a value", 0.1, None, None, "base"),
    ]
    svg = ElementTree.fromstring(dot_plot('with "quotes" & <tags>', dots))
    assert len(svg.findall("circle")) == 2
    assert len([line for line in svg.findall("line") if "bar" in line.attrib["class"]]) == 1
    assert dot_plot("nothing", [dots[1]]) == ""
    zero = ElementTree.fromstring(dot_plot("t", [Dot("a", 2.0, 1.0, 3.0, "gain")], zero=True))
    assert [line.attrib["class"] for line in zero.findall("line")].count("zero") == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.49, 0.51), (-3.2, 77.0), (5.0, 5.0), (0.0, 0.0), (-1e-9, 1e3)]
)
def test_ticks_are_round_and_near_the_data(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    room = 0.2 * (high - low) or 1.0
    assert low - room <= found[0] < found[-1] <= high + room
    assert all(len(f"{mark:g}") <= 6 for mark in found)


def report_with(task: str, **changes: Any) -> dict[str, Any]:
    """A report of one task whose row was measured as the course notebook did."""
    metrics = {
        name: {"value": 0.4, "signature": f"task:{task}@1|{name}|stem:yes|refs:max|agg:mean"}
        for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    }
    row = {"kind": "adapter", "shots": 0, "num_unscored": 0, "metrics": metrics}
    row.update({name: value for name, value in changes.items() if name in row})
    trivial = {**row, "kind": "trivial"}
    num = changes.get("num_samples", 1500)
    return {"tasks": {task: {"num_samples": num, "rows": {"mine": row, "trivial": trivial}}}}


def test_published_numbers_stand_beside_ours() -> None:
    found = beside_ours(report_with("dialogsum_single"))
    assert {one.row for one in found} == {"mine"}
    assert len(found) == 3 * 4
    lora = next(one for one in found if one.model.endswith("LoRA") and one.metric == "rouge1")
    assert (lora.value, lora.ours, lora.reasons) == (0.4081, 0.4, ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_samples": 200}, "on 1500 samples, ours on 200"),
        ({"num_unscored": 3}, "3 of our samples are unscored"),
        ({"shots": 3}, "0 shots, ours 3"),
        (
            {"metrics": {"rouge1": {"value": 0.4, "signature": "rouge1|stem:no"}}},
            "needs stem:yes",
        ),
    ],
)
def test_what_was_measured_otherwise_is_not_comparable(
    changes: dict[str, Any], reason: str
) -> None:
    found = beside_ours(report_with("dialogsum_single", **changes))
    assert {one.reasons for one in found} == {(reason,)}


def test_published_file_names_tasks_and_metrics_that_exist() -> None:
    tasks = built_in_tasks()
    for entry in entries():
        assert entry.task in tasks, entry.source
        known = {"model", *tasks[entry.task].definition.spec.metrics}
        for values in entry.values:
            assert set(values) <= known, (entry.source, values)
            assert "model" in values
            assert all(
                0 < float(value) * entry.scale <= 1
                for name, value in values.items()
                if name != "model"
            )


def test_in_context_beside_fine_tuned(
    server: Any, make_tasks: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_tasks()
    server.gold = files.gold
    out = str(tmp_path / "out")
    command = ["run", "--server", server.address, "--adapters", "base,gold", "--shots", "0,1,3"]
    assert main([*command, "--tasks", str(files.rewrite), "--out", out]) == 0
    assert "3.0 │    7.0 │    2.0 │" in capsys.readouterr().out
    assert main(["report", "--out", out]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    lines = text.partition("## In context against fine-tuned")[2].splitlines()
    rows = [line.split(" | ")[1:5] for line in lines if line.startswith("| rewrite |")]
    assert [row[:3] for row in rows] == [
        ["base", "0.000", "7.000"],
        ["base_1shot", "1.000", "7.000"],
        ["base_3shot", "3.000", "7.000"],
        ["gold", "0.000", "7.000"],
    ]
    # What stands in the prompt costs the adapters' tests nothing.
    matrix = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert (len(matrix["rows"]), matrix["settings"]["num_tests"]) == (3, 1)
    cell = matrix["rows"]["gold"]["cells"]["rewrite"]
    assert cell["p_adjusted"] == cell["p"]
