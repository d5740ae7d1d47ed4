"""The page of a run: `run.html`, one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from trainer.generated import Sample
from trainer.page.chart import Line, Point, chart, smooth

# What a line in the log holds beside what is charted.
NOT_CHARTED = ("event", "step", "elapsed_s", "tokens")


def write_page(
    path: Path,
    run: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
) -> None:
    """Writes the page of a finished run.

    `run` is what `run.json` holds, `records` the log. Links lead to the files beside the page.
    """
    folder = resources("trainer.page")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"bytes": _bytes, "duration": _duration, "figure": _figure}
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        run=run,
        style=(folder / "page.css").read_text(encoding="utf-8"),
        charts=_charts(run, records),
        validations=[record for record in records if record["event"] == "validation"],
        samples=samples,
        settings=_flat(run["config"]),
        files=_files(path.parent),
    )
    path.write_text(text, encoding="utf-8")


def _charts(run: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Titles and SVG of all that the log tells over steps, the loss first."""
    exported = run["exported_step"]
    train, validation = _series(records, "train"), _series(records, "validation")
    loss = train.pop("loss", [])
    lines = [
        Line("training", loss, "raw"),
        Line("training", smooth(loss), "main"),
        Line("validation", validation.pop("loss", []), "other", dots=True),
    ]
    mark = f"exported: the state after step {exported}"
    found = [("loss per completion token, in nats", chart(lines, exported, mark))]
    for name, points in validation.items():
        line = Line(name, points, "other", dots=True)
        found.append((f"validation: {name}", chart([line], exported, mark)))
    found += [(name.replace("_", " "), chart([Line(name, p, "main")])) for name, p in train.items()]
    return [(title, svg) for title, svg in found if svg]


def _series(records: Sequence[Mapping[str, Any]], event: str) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for record in records:
        if record["event"] == event:
            for name in record.keys() - NOT_CHARTED:
                series.setdefault(name, []).append((record["step"], record[name]))
    return dict(sorted(series.items()))


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys as on the command line, and their values."""
    flat: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def _files(folder: Path) -> list[tuple[str, int]]:
    """Relative paths and sizes of what the run wrote, its own page apart."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in found if not path.name.startswith(".") and path.name != "run.html"]
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in kept]


def _bytes(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:,.1f} GiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
