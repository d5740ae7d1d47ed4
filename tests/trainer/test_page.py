"""The run's page and its TensorBoard files: what they show is what was logged."""

import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.generated import Sample
from trainer.log import read_log
from trainer.page import write_page
from trainer.page.chart import MAX_POINTS, Line, chart, smooth, thin

VOID = {"meta", "link", "br", "img", "input", "circle", "line", "polyline"}


class Page(HTMLParser):
    """Checks that what opens closes; collects links, classes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "a":
            self.links.append(given["href"] or "")
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset")]
        if tag not in VOID or (tag in ("circle", "line") and "/" not in self.get_starttag_text()):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_the_run_and_needs_nothing_else(
    write_config: WriteConfig,
    write_rows: WriteRows,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    rows = make_rows(40)
    for row in rows:
        row["input"] = f"<script>alert('{row['input']}')</script>"
    write_rows("train.jsonl", rows)
    summary = train(
        write_config(loop={"validate_every": 2, "samples": 3, "metric_tokens": 5}), capsys
    )
    run = tmp_path / "run"
    text = (run / "run.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", text)
    assert page.sources == []
    assert sum("<script>alert('" in part for part in page.texts) == 3
    assert {"adapter/adapter_model.safetensors", "adapter/run.json", "loss.png"} <= {*page.links}
    assert all((run / link).is_file() for link in page.links)
    assert summary["content_hash"] in text
    assert str(tmp_path) not in text
    for key, value in (("optimiser.learning_rate", "0.005"), ("method.rank", "4")):
        assert f"<td>{key}</td><td><code>{value}</code></td>" in text
    validations = [r for r in read_log(run / "metrics.jsonl") if r["event"] == "validation"]
    assert len(validations) == 4
    assert all(f"<td>{record['loss']:.4g}</td>" in text for record in validations)
    assert text.count('<svg class="chart"') == 4
    assert text.count("<circle") == 4


def test_a_run_without_validation_has_a_page(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train(write_config(), capsys, "--set", "data.validation=0")
    text = (tmp_path / "run" / "run.html").read_text(encoding="utf-8")
    Page(text)
    assert "not measured" in text
    assert "Answers" not in text


def test_charts_place_points_where_they_belong() -> None:
    svg = chart([Line("loss", [(0, 2.0), (10, 4.0), (20, 3.0)], "main", dots=True)], mark=10)
    path = re.search(r'points="([^"]+)"', svg)
    assert path is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in path[1].split())
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 < y2 < y0
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.2)
    assert f'class="mark" x1="{x1}"' in svg
    assert chart([Line("loss", [], "main")]) == ""
    assert chart([Line("loss", [(0, math.inf), (1, math.nan)], "main")]) == ""
    assert chart([Line("loss", [(0, 2.0), (1, math.inf)], "main", dots=True)]).count("<circle") == 1
    assert "<svg" in chart([Line("loss", [(1, 0.0)], "main")])
    assert ">5e-6<" in chart([Line("rate", [(1, 0.0), (2, 2e-5)], "main")])


def test_long_curves_are_thinned_and_smoothed_to_means() -> None:
    points = [(step, float(step % 2)) for step in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert all(value == pytest.approx(0.5, abs=0.05) for _, value in thinned)
    smoothed = smooth(points)
    assert smoothed[0][0] == 499
    assert all(value == pytest.approx(0.5) for _, value in smoothed)


def test_samples_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    run: dict[str, Any] = {
        "name": "<b>&", "stopped_early": True, "exported_step": 1, "num_steps": 2,
        "validation_loss": 1.0, "validation_loss_before": 2.0, "content_hash": "0",
        "validation_metrics": {"<i>": 1.0}, "validation_metrics_before": {}, "num_tokens": 3,
        "num_trainable_parameters": 4, "training_s": 3725.0, "peak_memory_bytes": 2**31,
        "peak_device_memory_bytes": None, "packages": {"torch": "2"},
        "hardware": {"device": "cpu", "num_threads": 1, "system": "<u>", "machine": "m",
                     "cpu_capability": "c"},
        "config": {"method": {"type": "lora"}, "base": "</td>", "quantization": "nf4", "seed": 0},
        "data": {"files": ["<x>.jsonl"], "num_train": 1, "num_validation": 1, "num_overlong": 0,
                 "sha256": "1"},
    }  # fmt: skip
    nasty = "</pre></div><script>x</script>"
    records = [{"event": "validation", "step": 1, "loss": 1.0, "<i>": 1.0, "elapsed_s": 1}]
    write_page(tmp_path / "run.html", run, records, [Sample(nasty, nasty, nasty)])
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "b", "i", "u", "x"} & ({*page.tags} - {"i"})
    assert page.texts.count(nasty) == 3
    assert "1 h 02 min" in text
    assert "2.0 GiB" in text


def read_events(folder: Path) -> list[Any]:
    """The events of all files in the order of their writing: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def test_tensorboard_gets_what_the_log_gets(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX")
    config = write_config(loop={"validate_every": 2, "tensorboard": True})
    first = train(config, capsys)
    events = read_events(tmp_path / "run" / "tensorboard")
    got = {(v.tag, e.step): v.simple_value for e in events for v in e.summary.value}
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    for record in records:
        key = (f"{record['event']}/loss", record["step"])
        assert got[key] == pytest.approx(record["loss"], rel=1e-6)
    assert len([key for key in got if key[0] == "train/learning_rate"]) == first["steps"]
    plain = train(config, capsys, "--overwrite", "--set", "loop.tensorboard=false")
    assert plain["content_hash"] == first["content_hash"]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_tensorboard_drops_what_a_lost_part_had_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from trainer.tensorboard import EventFiles

    for last, steps in ((-1, (0, 1, 2, 3)), (1, (2, 3))):
        with EventFiles(tmp_path, last) as files:
            for step in steps:
                files.write("train", step, {"loss": step + 10.0 * (last + 1)})
    events = read_events(tmp_path)
    starts = [e.step for e in events if e.HasField("session_log") and e.session_log.status == 1]
    assert starts == [0, 2]
    kept = [(e.step, v.simple_value) for e in events for v in e.summary.value]
    assert kept == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (2, 22.0), (3, 23.0)]


def test_tensorboard_without_its_package_is_refused(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tensorboard.PACKAGE", "a_package_that_nobody_has")
    config = write_config(loop={"tensorboard": True})
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert "key 'loop.tensorboard': a_package_that_nobody_has is not installed" in error
    assert "understudy-suite[tensorboard]" in error
