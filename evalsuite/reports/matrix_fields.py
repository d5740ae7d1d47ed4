"""The matrix as JSON values."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evalsuite.report import finite
from evalsuite.reports.matrix import Matrix, MatrixCell
from evalsuite.types import Mode

MATRIX_FORMAT = 1


def matrix_fields(matrix: Matrix) -> dict[str, Any]:
    """The matrix as JSON values."""
    tests = matrix.settings.tests
    return {
        "format": MATRIX_FORMAT,
        "settings": {
            "tests": asdict(tests),
            "correction": str(matrix.settings.correction),
            "num_tests": matrix.num_tests,
        },
        "base": matrix.base,
        "tasks": {
            result.task.name: {
                "metric": result.task.metrics[0].name,
                "higher_is_better": result.task.metrics[0].higher_is_better,
                "maximum": result.task.metrics[0].maximum,
                "num_samples": len(result.task.samples),
                "base": finite(result.cells[matrix.base].scores[result.task.metrics[0].name].value),
                "is_text": result.task.spec.mode is Mode.LIKELIHOOD,
            }
            for result in matrix.results
        },
        "rows": {
            row.label: {
                **_finite(asdict(matrix.summaries[row.label])),
                "cells": {
                    result.task.name: _cell_fields(matrix.cells[row.label, result.task.name])
                    for result in matrix.results
                },
            }
            for row in matrix.rows[1:]
        },
        "sequence": None if matrix.sequence is None else _finite(asdict(matrix.sequence)),
    }


def _cell_fields(cell: MatrixCell) -> dict[str, Any]:
    found = cell.comparison
    return _finite(
        {
            "value": cell.value,
            "value_ci_low": cell.ci_low,
            "value_ci_high": cell.ci_high,
            "gain": found.diff,
            "ci_low": found.ci_low,
            "ci_high": found.ci_high,
            "ci_method": found.method,
            "num_pairs": found.num_pairs,
            "num_groups": found.num_groups,
            "standard_error": found.error,
            "p": found.p,
            "p_adjusted": cell.p_adjusted,
            "test": found.test,
            "mde": found.mde,
            "finding": str(cell.finding),
            "signature": cell.signature,
        }
    )


def _finite(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: finite(value) if isinstance(value, float) else value for name, value in fields.items()
    }
