"""The report as Markdown: scores with intervals, and what was gained and forgotten."""

from collections.abc import Mapping
from typing import Any

from evalsuite.reports.plots import shown


def report_markdown(
    report: Mapping[str, Any],
    matrix: Mapping[str, Any] | None,
    cost: Mapping[str, Any] | None = None,
) -> str:
    """Markdown of report.json's content, and of matrix.json's and efficiency.json's if there."""
    lines = ["## Scores", "", *_scores(report)]
    if matrix is not None:
        lines += ["", "## Gained and forgotten", "", *_matrix(matrix)]
    in_context = _in_context(report)
    if in_context:
        lines += ["", "## In context against fine-tuned", "", *in_context]
    calibrated = _calibration(report)
    if calibrated:
        lines += ["", "## Calibration", "", *calibrated]
    for name, task in report["robustness"].items():
        heading = f"## Robustness and fairness: {name} ({task['metric']})"
        lines += ["", heading, "", *_robustness(task)]
    if cost is not None:
        lines += ["", "## Efficiency", "", *_efficiency(cost)]
    return "\n".join(lines) + "\n"


def _scores(report: Mapping[str, Any]) -> list[str]:
    tasks = report["tasks"]
    heads = [f"{_cell(n)} ({t['primary_metric']}, n={t['num_samples']})" for n, t in tasks.items()]
    lines = [_row(["", *heads]), _row(["---", *["---:"] * len(tasks)])]
    for label in dict.fromkeys(label for task in tasks.values() for label in task["rows"]):
        cells = []
        for task in tasks.values():
            row = task["rows"].get(label)
            number = row["metrics"][task["primary_metric"]] if row else None
            cells.append("–" if number is None else _interval(number, "value"))
        lines.append(_row([_cell(label), *cells]))
    return lines


def _in_context(report: Mapping[str, Any]) -> list[str]:
    """Rows with the worked examples and tokens that each took; nothing where no row had any."""
    asked = [
        (name, label, row, row["metrics"][task["primary_metric"]])
        for name, task in report["tasks"].items()
        for label, row in task["rows"].items()
        if row["kind"] != "trivial"
    ]
    if not any(row["shots"] for _, _, row, _ in asked):
        return []
    heads = ["task", "row", "shots", "prompt tokens", "new tokens", "value"]
    means = ("mean_shots", "mean_prompt_tokens", "mean_completion_tokens")
    return [
        _row(heads),
        _row(["---", "---", *["---:"] * 4]),
        *(
            _row(
                [
                    _cell(name),
                    _cell(label),
                    *(shown(row[mean]) for mean in means),
                    _interval(number, "value"),
                ]
            )
            for name, label, row, number in asked
        ),
    ]


_CALIBRATION = {
    "ece": "ECE",
    "ece_if_calibrated": "if calibrated",
    "brier": "Brier",
    "mean_confidence": "confidence",
    "accuracy": "accuracy",
    "selective_accuracy_10": "surest tenth",
}


def _calibration(report: Mapping[str, Any]) -> list[str]:
    rows = [
        _row([_cell(name), _cell(label), *(shown(row["calibration"][key]) for key in _CALIBRATION)])
        for name, task in report["tasks"].items()
        for label, row in task["rows"].items()
        if row["calibration"] is not None
    ]
    heads = ["task", "row", *_CALIBRATION.values()]
    dashes = ["---", "---", *["---:"] * len(_CALIBRATION)]
    return [_row(heads), _row(dashes), *rows] if rows else []


def _robustness(task: Mapping[str, Any]) -> list[str]:
    """Values, and changes from the original with their paired intervals."""
    first = next(iter(task["rows"].values()))
    heads = ["", "original", *first["perturbation"], *(f"worst: {one}" for one in first["worst"])]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for label, row in task["rows"].items():
        cells = [
            f"{shown(one['value'])} ({_change(one)})" if one["value"] is not None else "–"
            for kind in ("perturbation", "worst")
            for one in row[kind].values()
        ]
        original = "–" if row["original"] is None else shown(row["original"])
        lines.append(_row([_cell(label), original, *cells]))
    return lines


def _efficiency(cost: Mapping[str, Any]) -> list[str]:
    server, load = cost["server"], cost["load"]
    pace = f"{load['rate']} a second" if load["rate"] else f"{load['concurrency']} at a time"
    lines = [
        f"{load['num_requests']} requests, {pace}, on {server['device']}: "
        f"{load['requests_per_s']} requests/s, {load['tokens_per_s']} tokens/s; base "
        f"{server['weights_bytes'] / 1e6:.1f} MB.",
        "",
        _row(["", "size, kB", "first token p50, ms", "first token p95, ms", "p50, ms", "p95, ms"]),
        _row(["---", *["---:"] * 5]),
    ]
    for label, row in cost["rows"].items():
        size = shown(row["size_bytes"] / 1000) if "size_bytes" in row else "–"
        times = [
            "–" if row[kind][percent] is None else shown(row[kind][percent])
            for kind in ("first_token_ms", "latency_ms")
            for percent in ("p50", "p95")
        ]
        lines.append(_row([_cell(label), size, *times]))
    return lines


def _change(one: Mapping[str, Any]) -> str:
    return _interval(
        {"change": one["change"], "ci_low": one["change_low"], "ci_high": one["change_high"]},
        "change",
        signed=True,
    )


def _matrix(matrix: Mapping[str, Any]) -> list[str]:
    tests = matrix["settings"]["tests"]
    heads = [f"{_cell(name)} ({task['metric']})" for name, task in matrix["tasks"].items()]
    lines = [_row(["", *heads]), _row(["---", *["---:"] * len(heads)])]
    for label, row in matrix["rows"].items():
        cells = []
        for cell in row["cells"].values():
            star = "\\*" if cell["finding"] in {"gain", "loss"} else ""
            cells.append(_interval(cell, "gain", signed=True) + star)
        lines.append(_row([_cell(label), *cells]))
    lines += [
        "",
        f"Change from {_cell(matrix['base'])}, more being better. \\* p ≤ {tests['alpha']:g}, "
        f"correction over {matrix['settings']['num_tests']} cells: "
        f"{matrix['settings']['correction']}.",
    ]
    return lines


def _interval(number: Mapping[str, Any], name: str, signed: bool = False) -> str:
    def one(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{'+' if signed and value > 0 else ''}{shown(value)}"

    return f"{one(number[name])} [{one(number['ci_low'])}, {one(number['ci_high'])}]"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
