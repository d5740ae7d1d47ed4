"""Scores of the served base on the eval suite's tasks, which runs as a process of its own."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from demo.card.bits import Progress
from demo.card.held import CardError, Document
from understudy import processes
from understudy.processes import python

# Folder below the data folder, and the tasks scored there. Those with training rows are asked
# with and without worked examples.
WITH_SHOTS = {
    "glue/cola": "glue_cola@random:100",
    "glue/sst2": "glue_sst2@random:100",
    "glue/mrpc": "glue_mrpc@random:100",
    "glue/wnli": "glue_wnli",
    "superglue/cb": "superglue_cb",
    "superglue/rte": "superglue_rte@random:100",
}
WITHOUT = {
    "glue/stsb": "glue_stsb@random:100",
    "mmlu": "mmlu@stratified:114",
    "bbh": "bbh@stratified:108",
    "truthfulqa": "truthfulqa_mc1@random:100",
    "bbq": "bbq@random:100",
}
SHOTS = "0,3"
DOCUMENTS_PER_SOURCE = 25
CHARS_PER_DOCUMENT = 2000
PREFIX = "text_"
# Metrics of which a constant or a random answer gets 0.
ZERO_BY_CHANCE = frozenset({"mcc", "pearson"})


def score(
    address: str, data: Path, documents: Sequence[Document], out: Path, progress: Progress
) -> dict[str, Any]:
    """Runs the eval suite on the base at `address`; by task its rows, as `_rows` makes them.

    `data` is the folder of the data sets; a set that it lacks is left out. The held-out
    `documents` are weighed by source. Logs, samples and reports lie in `out`; what was asked there
    before is not asked again.
    """
    with_shots = [task for folder, task in WITH_SHOTS.items() if (data / folder).is_dir()]
    without = [task for folder, task in WITHOUT.items() if (data / folder).is_dir()]
    without += [str(path) for path in write_texts(documents, out / "texts")]
    missing = {*WITH_SHOTS, *WITHOUT} - {f for f in (*WITH_SHOTS, *WITHOUT) if (data / f).is_dir()}
    if missing:
        progress(f"no data in {data}: {', '.join(sorted(missing))}")
    found: dict[str, Any] = {}
    for name, tasks, shots in (("shots", with_shots, SHOTS), ("plain", without, "0")):
        if not tasks:
            continue
        progress(f"{len(tasks)} tasks, shots {shots}")
        command = python("evalsuite", "run", "--server", address, "--adapters", "base")
        command += ["--tasks", ",".join(tasks), "--data-dir", str(data), "--shots", shots]
        command += ["--out", str(out / name)]
        processes.run(command, "the eval suite", out / f"{name}.log")
        found |= _read(out / name, data)
    return found


def write_texts(documents: Sequence[Document], folder: Path) -> Iterator[Path]:
    """A task file for each source: the beginnings of its first held-out documents.

    The first word is the context and is not counted, as in the suite's own `text`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_source: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[document.source].append(document)
    for source, found in by_source.items():
        rows = [_beginning(document.text) for document in found[:DOCUMENTS_PER_SOURCE]]
        lines = [json.dumps({"input": first, "completion": rest}) for first, rest in rows if rest]
        if not lines:
            continue
        data, task = folder / f"{source}.jsonl", folder / f"{source}.yaml"
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fields = {
            "name": PREFIX + source,
            "data": str(data.resolve()),
            "template": "{{ input }}",
            "mode": "likelihood",
            "metrics": ["bits_per_byte", "perplexity", "word_perplexity"],
            "source": "held out from pretraining",
        }
        task.write_text(json.dumps(fields), encoding="utf-8")  # JSON is YAML
        yield task


def _beginning(text: str) -> tuple[str, str]:
    """The first word of a text, and what follows it up to CHARS_PER_DOCUMENT."""
    text = text.strip()
    if len(text) > CHARS_PER_DOCUMENT:
        text = text[:CHARS_PER_DOCUMENT].rsplit(maxsplit=1)[0]
    first = (text.split(maxsplit=1) or [""])[0]
    return first, text[len(first) :]


def _read(out: Path, data: Path) -> dict[str, Any]:
    """What the tables need of a run's report, by task."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    found = {}
    for name, task in report["tasks"].items():
        metric = task["primary_metric"]
        own = [s for s in samples if s["task"] == name and s["row"] == "base"]
        if not own:
            raise CardError(f"{out}: no row 'base' for {name}")
        found[name] = {
            "metric": metric,
            "num_samples": task["num_samples"],
            "chance": _chance(metric, own, data),
            "rows": {
                label: {key: row["metrics"][key] for key in row["metrics"]}
                for label, row in task["rows"].items()
            },
        }
    return found


def _chance(metric: str, samples: Sequence[dict[str, Any]], data: Path) -> float | None:
    """What guessing gets: among a sample's choices, or BBH's answers that occur in a sub-task."""
    if metric in ZERO_BY_CHANCE:
        return 0.0
    if metric in ("accuracy", "target_score") and all("choices" in s for s in samples):
        return mean(1 / len(sample["choices"]) for sample in samples)
    if metric == "exact_match" and samples[0]["task"] == "bbh":
        return mean(1 / _num_answers(data, sample["id"].partition(":")[0]) for sample in samples)
    return None


def _num_answers(data: Path, subtask: str) -> int:
    path = data / "bbh" / "bbh" / f"{subtask}.json"
    examples = json.loads(path.read_text(encoding="utf-8"))["examples"]
    return len({example["target"] for example in examples})
