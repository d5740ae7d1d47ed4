"""GLUE (Wang et al. 2018): nine tasks and the diagnostic set, on the labelled development sets.

Reads the files of GLUE's own archive, JSON lines with Hugging Face's columns, and for CoLA, MRPC,
SST-2 and STS-B the files their authors publish. The test sets' labels are hidden.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalsuite.data import DataRow, NumberedRow, read_rows, read_table, read_text
from evalsuite.samples import Convert
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_DEV_ONLY = (
    "GLUE's test labels are hidden, so only development-set numbers compare. Published ones come "
    "from classifiers fine-tuned on the task; ours from likelihoods of label words. "
)
_LABELS: dict[str, tuple[str, ...]] = {
    "entailment": ("entailment", "not_entailment"),
    "nli": ("entailment", "neutral", "contradiction"),
    "binary": ("0", "1"),
}


def _spec(
    name: str, folder: str, metrics: tuple[str, ...], question: str, **fields: Any
) -> TaskSpec:
    plain = folder.lower().replace("-", "")
    files = (f"{folder}/dev.tsv", f"{plain}/dev.tsv", f"{plain}/dev.jsonl")
    train = tuple(file.replace("dev.", "train.") for file in files)
    values: dict[str, Any] = {
        "folder": "glue",
        "data": files,
        "train": train,
        "template": "{{ input }}\n" + question,
        "mode": Mode.CHOICE,
        "choices": (" no", " yes"),
        "source": "https://gluebenchmark.com",
        "licence": "research use; see the task's own paper",
        "comparable": _DEV_ONLY,
    }
    return TaskSpec(name=f"glue_{name}", metrics=metrics, **{**values, **fields})


def _convert(
    text: Callable[[DataRow], str],
    column: str,
    labels: tuple[str, ...],
    choices: tuple[str, ...],
    category: str = "",
) -> Convert:
    def convert(row: DataRow) -> Iterator[Sample]:
        name = row.first(*column.split("|"))
        target = row.label(name, labels)
        group = row.text(category) if category and category in row else ""
        yield Sample(row.id, text(row), (choices[target],), choices, target, category=group)

    return convert


def _pair(first: str, second: str, names: tuple[str, str]) -> Callable[[DataRow], str]:
    def text(row: DataRow) -> str:
        return (
            f"{names[0]}: {row.text(*first.split('|')).strip()}\n"
            f"{names[1]}: {row.text(*second.split('|')).strip()}"
        )

    return text


def _tsv(path: Path, header: str, columns: tuple[str, ...] = ()) -> Iterator[NumberedRow]:
    """TSV; `columns` names the cells where the first line is no header that holds `header`."""
    if path.suffix in {".jsonl", ".json"}:
        return read_rows(path)
    first = read_text(path).partition("\n")[0].rstrip("\r").split("\t")
    return read_table(path, "\t", () if header in first else columns, quoted=False)


def cola_rows(path: Path) -> Iterator[NumberedRow]:
    """CoLA: four columns without a header, in GLUE's archive as in the authors' own."""
    return _tsv(path, "sentence", ("source", "label", "mark", "sentence"))


def sst2_rows(path: Path) -> Iterator[NumberedRow]:
    """SST-2: GLUE's TSV; or lines `LABEL TEXT`, the authors' binary form."""
    if path.suffix in {".tsv", ".jsonl", ".json"}:
        yield from read_rows(path)
        return
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        label, _, sentence = line.partition(" ")
        yield number, {"label": label, "sentence": sentence}


def mrpc_rows(path: Path) -> Iterator[NumberedRow]:
    """MRPC: GLUE's or Microsoft's TSV, without rows whose pair of ids came before."""
    seen: set[tuple[object, object]] = set()
    for number, row in _tsv(
        path, "Quality", ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    ):
        pair = (row.get("#1 ID", number), row.get("#2 ID", number))
        if pair not in seen:
            seen.add(pair)
            yield number, row


def stsb_rows(path: Path) -> Iterator[NumberedRow]:
    """STS-B: GLUE's TSV; the authors' TSV or a three-column CSV, both without a header."""
    if path.suffix == ".csv":
        first = read_text(path).partition("\n")[0]
        columns = () if "sentence1" in first else ("sentence1", "sentence2", "score")
        return read_table(path, ",", columns)
    names = ("genre", "file", "year", "old_index", "score", "sentence1", "sentence2")
    return _tsv(path, "sentence1", names)


def _stsb(row: DataRow) -> Iterator[Sample]:
    column = row.first("score", "label")
    value = row[column]
    text = _pair("sentence1", "sentence2", ("Sentence 1", "Sentence 2"))(row)
    # Hugging Face's rows hold a number, the archive's a text.
    yield Sample(row.id, text, (f"{value:g}" if isinstance(value, float) else row.text(column),))


_NLI = _pair(
    "premise|sentence1|Premise", "hypothesis|sentence2|Hypothesis", ("Premise", "Hypothesis")
)
_YES_NO = (" yes", " no")
_ENTAILS = "Does the premise entail the hypothesis? Answer:"
_ACCURACY = ("accuracy", "accuracy_per_char")

_COLA = _spec(
    "cola",
    "CoLA",
    ("mcc", "accuracy"),
    "Is this sentence acceptable English? Answer:",
    data=("CoLA/dev.tsv", "cola/dev.tsv", "cola/dev_*.tsv", "cola/dev.jsonl"),
    comparable=_DEV_ONLY + "Matthews' correlation over all 1,043 development sentences.",
    example={"sentence": "Him goes to school.", "label": 0},
)
_SST2 = _spec(
    "sst2",
    "SST-2",
    ("accuracy",),
    "Sentiment:",
    choices=(" negative", " positive"),
    example={"sentence": "a warm and witty film", "label": 1},
)
_MRPC = _spec(
    "mrpc",
    "MRPC",
    ("accuracy", "f1"),
    "Do both sentences mean the same? Answer:",
    data=(
        "MRPC/dev.tsv",
        "mrpc/dev.tsv",
        "MRPC/msr_paraphrase_test.txt",
        "mrpc/msr_paraphrase_test.txt",
        "mrpc/dev.jsonl",
    ),
    train=(
        "MRPC/train.tsv",
        "mrpc/train.tsv",
        "MRPC/msr_paraphrase_train.txt",
        "mrpc/msr_paraphrase_train.txt",
        "mrpc/train.jsonl",
    ),
    comparable=_DEV_ONLY + "Microsoft's own test set (1,725 pairs) is labelled, but is not GLUE's "
    "development set of 408. The LoRA paper gives accuracy.",
    example={"sentence1": "It rained all day.", "sentence2": "Rain fell all day.", "label": 1},
)
_QQP = _spec(
    "qqp",
    "QQP",
    ("accuracy", "f1"),
    "Do both questions ask the same? Answer:",
    example={
        "question1": "How far is the sun?",
        "question2": "How far away is the sun?",
        "is_duplicate": 1,
    },
)
_STSB = _spec(
    "stsb",
    "STS-B",
    ("pearson", "spearman", "parse_rate"),
    "Similarity from 0 to 5:\n",
    mode=Mode.GENERATE,
    choices=(),
    max_tokens=8,
    stop=("\n",),
    data=(
        "STS-B/dev.tsv",
        "stsb/dev.tsv",
        "stsb/sts-dev.csv",
        "stsb/stsb-en-dev.csv",
        "stsb/dev.jsonl",
    ),
    train=("STS-B/train.tsv", "stsb/train.tsv", "stsb/stsb-en-train.csv", "stsb/train.jsonl"),
    comparable=_DEV_ONLY + "An answer without a number counts as -1, as in T5, and parse_rate says "
    "how many there were.",
    example={"sentence1": "A dog runs.", "sentence2": "A dog is running.", "score": "4.8"},
)
_MNLI = _spec(
    "mnli",
    "MNLI",
    ("accuracy",),
    "Is the hypothesis true, unclear or false? Answer:",
    choices=(" true", " unclear", " false"),
    data=("MNLI/dev_matched.tsv", "mnli/dev_matched.tsv", "mnli/validation_matched.jsonl"),
    comparable=_DEV_ONLY + "The LoRA paper gives overall accuracy.",
    example={"premise": "She sold the red car.", "hypothesis": "She owned a car.", "label": 0},
)
_MNLI_MM = replace(
    _MNLI,
    name="glue_mnli_mm",
    data=("MNLI/dev_mismatched.tsv", "mnli/dev_mismatched.tsv", "mnli/validation_mismatched.jsonl"),
)
_QNLI = _spec(
    "qnli",
    "QNLI",
    ("accuracy",),
    "Does the sentence answer the question? Answer:",
    choices=_YES_NO,
    example={
        "question": "When was it built?",
        "sentence": "It was built in 1901.",
        "label": "entailment",
    },
)
_RTE = _spec(
    "rte",
    "RTE",
    ("accuracy",),
    _ENTAILS,
    choices=_YES_NO,
    example={"sentence1": "Bo won the race.", "sentence2": "Bo raced.", "label": "entailment"},
)
_WNLI = _spec(
    "wnli",
    "WNLI",
    ("accuracy",),
    "Does sentence 1 entail sentence 2? Answer:",
    comparable=_DEV_ONLY + "Its development set opposes its training set; most papers "
    "leave it out.",
    example={
        "index": "0",
        "sentence1": "The cup fell off the shelf because it was wet.",
        "sentence2": "The shelf was wet.",
        "label": "1",
    },
)
_AX = _spec(
    "ax",
    "AX",
    ("mcc", "accuracy"),
    "Is the hypothesis true, unclear or false? Answer:",
    choices=(" true", " unclear", " false"),
    train=None,
    data=("AX/diagnostic-full.tsv", "ax/diagnostic-full.tsv", "diagnostic-full.tsv"),
    comparable="The labelled diagnostic set the authors published apart from the benchmark.",
    example={"Premise": "All birds sing.", "Hypothesis": "Some birds sing.", "Label": "entailment"},
)

_SENTENCES = ("Sentence 1", "Sentence 2")


def _sentence(row: DataRow) -> str:
    return f"Sentence: {row.text('sentence').strip()}"


TASKS = (
    Definition(
        _COLA, _convert(_sentence, "label", _LABELS["binary"], _COLA.choices, "source"), cola_rows
    ),
    Definition(_SST2, _convert(_sentence, "label", _LABELS["binary"], _SST2.choices), sst2_rows),
    Definition(
        _MRPC,
        _convert(
            _pair("sentence1|#1 String", "sentence2|#2 String", _SENTENCES),
            "label|Quality",
            _LABELS["binary"],
            _MRPC.choices,
        ),
        mrpc_rows,
    ),
    Definition(
        _QQP,
        _convert(
            _pair("question1", "question2", ("Question 1", "Question 2")),
            "is_duplicate|label",
            _LABELS["binary"],
            _QQP.choices,
        ),
    ),
    Definition(_STSB, _stsb, stsb_rows),
    Definition(_MNLI, _convert(_NLI, "gold_label|label", _LABELS["nli"], _MNLI.choices, "genre")),
    Definition(
        _MNLI_MM, _convert(_NLI, "gold_label|label", _LABELS["nli"], _MNLI.choices, "genre")
    ),
    Definition(
        _QNLI,
        _convert(
            _pair("question", "sentence", ("Question", "Sentence")),
            "label",
            _LABELS["entailment"],
            _QNLI.choices,
        ),
    ),
    Definition(_RTE, _convert(_NLI, "label", _LABELS["entailment"], _RTE.choices)),
    Definition(
        _WNLI,
        _convert(
            _pair("sentence1", "sentence2", _SENTENCES), "label", _LABELS["binary"], _WNLI.choices
        ),
    ),
    Definition(_AX, _convert(_NLI, "Label|label", _LABELS["nli"], _AX.choices)),
)
