"""Writes `calibration.json`: random predictions and what the libraries make of them.

Run by hand where uncertainty-calibration and scikit-learn are installed, which this project does
without: python tests/evalsuite/oracles/calibration_values.py
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import calibration
import numpy as np
from sklearn.linear_model import LogisticRegression


def case(seed: int) -> dict[str, Any]:
    """One task of random log-likelihoods; in some, many confidences are equal."""
    rng = np.random.default_rng(seed)
    num, num_choices = int(rng.choice([7, 40, 120])), int(rng.integers(2, 6))
    logprobs = rng.normal(0, rng.uniform(0.3, 4), (num, num_choices))
    logprobs = np.round(logprobs, 0 if seed % 4 == 3 else 3)
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(num_choices, p=row) for row in shares])
    targets = np.where(rng.random(num) < 0.3, rng.integers(0, num_choices, num), targets)
    sure, correct = shares.max(axis=1), (shares.argmax(axis=1) == targets).astype(int)
    found = {
        "logprobs": logprobs.tolist(),
        "targets": targets.tolist(),
        "ece": calibration.get_ece_em(sure, correct, num_bins=10),
        "ece_1_bin": calibration.get_ece_em(sure, correct, num_bins=1),
        "ece_equal_width": calibration.get_ece(sure, correct, num_bins=10),
        "ece_adaptive": calibration.get_ece_em(shares, targets, num_bins=10, mode="marginal"),
    }
    if len(set(sure)) == num:
        area, top = calibration.get_selective_stats(sure, correct)
        found |= {"selective_accuracy_area": area, "selective_accuracy_10": top}
    if 0 < correct.sum() < num:
        odds = np.log(sure / (1 - sure))[:, None]
        fit = LogisticRegression(C=1e10, solver="newton-cholesky", tol=1e-13).fit(odds, correct)
        found["platt"] = fit.predict_proba(odds)[:, 1].tolist()
    return found


if __name__ == "__main__":
    names = ("uncertainty-calibration", "scikit-learn")
    values = {
        "library": ", ".join(f"{name} {version(name)}" for name in names),
        "cases": [case(seed) for seed in range(24)],
    }
    Path(__file__).with_name("calibration.json").write_text(json.dumps(values) + "\n")
