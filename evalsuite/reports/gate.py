"""The gate: a candidate passes if on every task a drop of more than the margin is excluded.

Non-inferiority, not "no significant difference": a candidate whose samples are too few to tell
does not pass. p-values are corrected over the tasks by Holm's method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from evalsuite.errors import InputError, nearest
from evalsuite.report import finite
from evalsuite.results import TaskResult
from evalsuite.stats import NonInferiority, TestConfig, Verdict, holm, non_inferiority

GATE_FORMAT = 1


@dataclass(frozen=True)
class GateSettings:
    """What a candidate is held to."""

    candidate: str
    """Row label."""
    baseline: str
    delta: float
    """The greatest drop allowed: in points, hundredths of the metric's best value; for errors such
    as bits per byte in percent of the baseline's value."""
    task_deltas: Mapping[str, float]
    """Where a task has another."""
    tests: TestConfig


@dataclass(frozen=True)
class TaskVerdict:
    """One task at the gate."""

    task: str
    metric: str
    baseline: float
    candidate: float
    found: NonInferiority
    p_adjusted: float
    verdict: Verdict

    @property
    def says(self) -> str:
        """The verdict in a sentence."""
        found = self.found
        if self.verdict is Verdict.UNSCORED:
            if not found.num_lost:
                return "the baseline has no answer to compare with"
            return f"{found.num_lost} samples that the baseline answered have no answer"
        moved = f"{self.metric} {self.baseline:.4g} -> {self.candidate:.4g} ({found.diff:+.4g})"
        if self.verdict is Verdict.PASS:
            return f"{moved}: a drop of {found.margin:.4g} or more is excluded"
        if self.verdict is Verdict.DROP:
            return f"{moved}: the drop is more than {found.margin:.4g}"
        needed = "" if found.num_needed is None else f", of which about {found.num_needed} would do"
        if self.verdict is Verdict.UNDERPOWERED:
            return (
                f"{moved}: {found.num_pairs} samples exclude a drop of {found.margin:.4g} with "
                f"power {found.power:.2f} only{needed}"
            )
        return f"{moved}: a drop of {found.margin:.4g} is not excluded"


@dataclass(frozen=True)
class GateResult:
    """All tasks at the gate."""

    settings: GateSettings
    tasks: tuple[TaskVerdict, ...]

    @property
    def is_open(self) -> bool:
        """Whether every task passes."""
        return all(task.verdict is Verdict.PASS for task in self.tasks)


def judge(results: Sequence[TaskResult], settings: GateSettings) -> GateResult:
    """Compares candidate and baseline on the primary metric of every task.

    Raises InputError for a row or task that was not asked.
    """
    # Not every task has a trivial row.
    rows = [row for row in results[0].cells if all(row in result.cells for result in results)]
    for flag, label in (("candidate", settings.candidate), ("baseline", settings.baseline)):
        if label not in rows:
            raise InputError(f"--{flag}: no row '{label}'; {nearest(label, rows)}")
    names = [result.task.name for result in results]
    for name in settings.task_deltas:
        if name not in names:
            raise InputError(f"--task-delta: no task '{name}'; {nearest(name, names)}")
    level = settings.tests.alpha / len(results)
    found = [_compare(result, settings, level) for result in results]
    adjusted = holm([one.p for one in found])
    verdicts = []
    for result, one, p_adjusted in zip(results, found, adjusted, strict=True):
        metric = result.task.metrics[0].name
        verdicts.append(
            TaskVerdict(
                task=result.task.name,
                metric=metric,
                baseline=result.cells[settings.baseline].scores[metric].value,
                candidate=result.cells[settings.candidate].scores[metric].value,
                found=one,
                p_adjusted=float(p_adjusted),
                verdict=one.verdict(float(p_adjusted), settings.tests.alpha, settings.tests.power),
            )
        )
    return GateResult(settings, tuple(verdicts))


def _compare(result: TaskResult, settings: GateSettings, level: float) -> NonInferiority:
    metric = result.task.metrics[0]
    candidate = result.cells[settings.candidate].scores[metric.name]
    baseline = result.cells[settings.baseline].scores[metric.name]
    delta = settings.task_deltas.get(result.task.name, settings.delta)
    whole = metric.maximum if metric.higher_is_better else abs(baseline.value)
    return non_inferiority(candidate, baseline, delta / 100 * whole, level, settings.tests)


def gate_fields(result: GateResult) -> dict[str, Any]:
    """The gate as JSON values."""
    return {
        "format": GATE_FORMAT,
        "open": result.is_open,
        "settings": asdict(result.settings),
        "tasks": {
            task.task: {
                "metric": task.metric,
                "verdict": str(task.verdict),
                "says": task.says,
                "baseline": finite(task.baseline),
                "candidate": finite(task.candidate),
                "p_adjusted": finite(task.p_adjusted),
                **{
                    name: finite(value) if isinstance(value, float) else value
                    for name, value in asdict(task.found).items()
                },
            }
            for task in result.tasks
        },
    }


def gate_markdown(result: GateResult) -> str:
    """The gate as Markdown, for a pull request."""
    settings, tests = result.settings, result.settings.tests
    head = "passes" if result.is_open else "does not pass"
    lines = [
        f"### `{_escaped(settings.candidate)}` {head} the gate against "
        f"`{_escaped(settings.baseline)}`",
        "",
        "| task | metric | baseline | candidate | change "
        f"[{1 - 2 * tests.alpha:.0%} interval] | allowed drop | p (Holm) | power | n | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for task in result.tasks:
        found = task.found
        mark = "pass" if task.verdict is Verdict.PASS else f"**{task.verdict}**"
        lines.append(
            f"| {_escaped(task.task)} | {task.metric} | {task.baseline:.4g} | {task.candidate:.4g} "
            f"| {found.diff:+.4g} [{found.ci_low:+.4g}, {found.ci_high:+.4g}] "
            f"| {found.margin:.4g} | {task.p_adjusted:.3g} | {found.power:.2f} "
            f"| {found.num_pairs} | {mark} |"
        )
    lines += [""]
    lines += [
        f"- {_escaped(task.task)}: {task.says}"
        for task in result.tasks
        if task.verdict is not Verdict.PASS
    ]
    lines += [
        "",
        f"Passing means that a drop beyond the allowed one is excluded at level {tests.alpha:g} "
        "over all tasks together (Holm). Power: the chance to pass where nothing changed, wanted "
        f"{tests.power:g}.",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def gate_junit(result: GateResult) -> str:
    """The gate as JUnit XML: a test case per task."""
    failed = [task for task in result.tasks if task.verdict is not Verdict.PASS]
    suite = ElementTree.Element(
        "testsuite",
        name="evalsuite gate",
        tests=str(len(result.tasks)),
        failures=str(len(failed)),
        errors="0",
        skipped="0",
    )
    for task in result.tasks:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"gate.{result.settings.candidate}",
            name=f"{task.task} against {result.settings.baseline}",
        )
        if task.verdict is not Verdict.PASS:
            failure = ElementTree.SubElement(
                case, "failure", type=str(task.verdict), message=task.says
            )
            failure.text = task.says
        else:
            ElementTree.SubElement(case, "system-out").text = task.says
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
