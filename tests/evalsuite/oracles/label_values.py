"""Writes `labels.json`: random labels and what scikit-learn makes of them.

Run by hand where scikit-learn is installed, which this project does without:
python tests/evalsuite/oracles/label_values.py
"""

import json
import random
from pathlib import Path

import sklearn
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def case(seed: int) -> dict[str, object]:
    """One task of random labels; some predictions are right, some labels may be missing."""
    rng = random.Random(seed)
    num_labels = rng.randint(2, 5)
    size = rng.choice((3, 20, 60))
    true = [rng.randrange(num_labels) for _ in range(size)]
    share = rng.random()
    taken = [t if rng.random() < share else rng.randrange(num_labels) for t in true]
    if seed % 10 == 9:
        taken = [0] * size
    return {
        "num_labels": num_labels,
        "true": true,
        "taken": taken,
        "mcc": float(matthews_corrcoef(true, taken)),
        "f1": float(f1_score([t == 1 for t in true], [t == 1 for t in taken], zero_division=0)),
        "f1_macro": float(f1_score(true, taken, average="macro", zero_division=0)),
        "label_accuracy": float(accuracy_score(true, taken)),
    }


if __name__ == "__main__":
    values = {
        "library": f"scikit-learn {sklearn.__version__}",
        "cases": [case(s) for s in range(40)],
    }
    Path(__file__).with_name("labels.json").write_text(json.dumps(values) + "\n")
