"""The adapter x task matrix in the terminal."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalsuite.reports.matrix import Finding, Matrix, MatrixCell

_STYLES = {Finding.GAIN: "green", Finding.LOSS: "red"}


def print_matrix(matrix: Matrix, console: Console) -> None:
    """Prints the matrix, what each row comes to, and what the numbers mean."""
    console.print(_cells(matrix))
    console.print(_summaries(matrix))
    for line in notes(matrix):
        console.print(f"[dim]{line}[/]")


def number(value: float, signed: bool = False) -> str:
    """Three decimals, fewer for what is above 100; `-` for what is not known."""
    if math.isnan(value):
        return "-"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:{'+' if signed else ''}.{digits}f}"


def notes(matrix: Matrix) -> list[str]:
    """What a reader must know to read the matrix."""
    tests = matrix.settings.tests
    corrected = (
        f"corrected over {matrix.num_tests} cells ({matrix.settings.correction})"
        if matrix.settings.correction != "none"
        else "not corrected for the number of cells"
    )
    found = [
        f"Below a value: change from {matrix.base} with its paired "
        f"{tests.bootstrap.confidence:.0%} interval, more being better; * where p <= "
        f"{tests.alpha:g} {corrected}.",
        "mde: the true change that a test of this cell alone finds with probability "
        f"{tests.power:g}; a smaller one would often be missed.",
    ]
    if matrix.sequence is not None:
        found.append(
            f"In sequence {' -> '.join(matrix.sequence.order)}: backward transfer "
            f"{number(matrix.sequence.backward_transfer, True)} points (standard error "
            f"{number(matrix.sequence.standard_error)}), forgetting "
            f"{number(matrix.sequence.forgetting)} points."
        )
    return found


def _cells(matrix: Matrix) -> Table:
    table = Table(title=f"Gained and forgotten, beside {matrix.base}")
    table.add_column("")
    for result in matrix.results:
        metric = result.task.metrics[0]
        better = "" if metric.higher_is_better else ", less is better"
        table.add_column(f"{result.task.name}\n{metric.name}, n={len(result.task.samples)}{better}")
    values = [
        result.cells[matrix.base].scores[result.task.metrics[0].name].value
        for result in matrix.results
    ]
    table.add_row(matrix.base, *(number(value) for value in values), end_section=True)
    for row in matrix.rows[1:]:
        own = matrix.summaries[row.label].own_task
        table.add_row(
            row.label,
            *(
                _cell(matrix.cells[row.label, result.task.name], result.task.name == own)
                for result in matrix.results
            ),
        )
    return table


def _cell(cell: MatrixCell, is_own: bool) -> Text:
    found = cell.comparison
    text = Text(number(cell.value), style="bold" if is_own else "")
    if cell.finding is Finding.UNSCORED:
        return text.append(" unscored", style="yellow")
    style = _STYLES.get(cell.finding, "dim")
    star = "*" if cell.finding in _STYLES else ""
    text.append(f"\n{number(found.diff, True)}{star}", style=f"not bold {style}")
    if not math.isnan(found.ci_low):
        interval = f" [{number(found.ci_low, True)}, {number(found.ci_high, True)}]"
        text.append(interval, style=f"not bold {style}")
    return text.append(f"\nmde {number(found.mde)}", style="not bold dim")


def _summaries(matrix: Matrix) -> Table:
    table = Table(title="In points: hundredths of a metric's best value")
    for title in ("", "own task", "gain", "mean loss elsewhere", "worst loss", "shown losses"):
        table.add_column(title)
    for row in matrix.rows[1:]:
        found = matrix.summaries[row.label]
        worst = "" if found.worst_task is None else f" ({found.worst_task})"
        table.add_row(
            row.label,
            found.own_task or "-",
            number(found.own_gain, True),
            number(found.mean_loss),
            f"{number(found.worst_loss)}{worst}",
            str(found.num_losses),
        )
    return table
