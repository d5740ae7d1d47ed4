"""Scores of a metric by its name, for tests against other readings of its definition."""

from collections.abc import Sequence
from typing import Any

import pytest

from evalsuite.metrics import MetricOptions, build_metrics, score
from evalsuite.types import Answer, Metric, Mode, Sample

TEXT = "the a cat dogs run ran, over Under 12 3.5 it's blue; BLUE end. naïve"
WORDS = TEXT.split()
SEEDS = range(6)


def close(value: float) -> Any:
    return pytest.approx(value, abs=1e-9, rel=1e-9)


def value(name: str, samples: Sequence[Sample], answers: Sequence[Answer], **options: Any) -> float:
    return score(metric(name, samples, **options), samples, answers).value


def metric(name: str, samples: Sequence[Sample], **options: Any) -> Metric:
    mode = Mode.GENERATE
    if samples[0].choices:
        mode = Mode.LIKELIHOOD if len(samples[0].choices) == 1 else Mode.CHOICE
    return build_metrics([name], mode, MetricOptions(**options), samples)[0]
