"""`tasks`, `show` and `fingerprints`, and one clear line with exit code 2 for bad data."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evalsuite.__main__ import main
from evalsuite.metrics import METRICS
from evalsuite.registry import built_in_tasks
from understudy.fingerprint import FingerprintIndex, read

QUESTION = {"question": "Kim has 3 boxes of 4 pens. How many pens?", "answer": "12.\n#### 12"}
MMLU_ROW = "What is 1+1?,1,2,3,4,B\n"


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    (tmp_path / "test.jsonl").write_text(json.dumps(QUESTION) + "\n")
    other = {"question": "Two and two?", "answer": "4.\n#### 4"}
    (tmp_path / "train.jsonl").write_text(json.dumps(other) + "\n")
    return tmp_path


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    listed = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(built_in_tasks())
    assert listed["mmlu"]["mode"] == "letter"
    assert listed["mmlu"]["metrics"] == ["accuracy", "accuracy_macro"]
    assert main(["tasks"]) == 0
    assert "superglue_multirc" in capsys.readouterr().out


def test_show_a_prompt_with_its_answer(gsm8k: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "gsm8k", "--data", str(gsm8k), "--shots", "1"]) == 0
    shown = capsys.readouterr().out
    assert "Question: Two and two?\nAnswer: 4.\n#### 4\n\nQuestion: Kim has 3 boxes" in shown
    assert "--- completion\n 12.\n#### 12\n--- reference\n12\n" in shown
    assert main(["show", "gsm8k", "--data", str(gsm8k / "test.jsonl"), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["prompts"] == [f"Question: {QUESTION['question']}\nAnswer:"]
    assert fields["signature"].startswith("task:gsm8k@1|data:")
    assert "|subset:all|mode:generate|" in fields["signature"]


def test_show_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "law_test.csv").write_text(MMLU_ROW * 3)
    assert main(["show", "mmlu@random:2:5", "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "|n:2|subset:random:2:seed5|mode:letter|" in shown
    assert "A. 1\nB. 2\nC. 3\nD. 4\nAnswer:\n--- choice 0\n' A'\n--- choice 1, right\n" in shown


def test_show_without_data_is_the_tasks_own_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "winogrande"]) == 0
    shown = capsys.readouterr().out
    assert "licence: CC-BY-4.0" in shown
    assert '"qID": "MADEUP-1"' in shown
    assert main(["show", "winogrande", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["example"]["option1"] == "vase"


def test_ten_lines_make_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndata: mine.jsonl\nmode: letter\nmetrics: [accuracy, f1_macro]\n"
        'template: "{{ lead }}: {{ input }}\\nAnswer:"\n'
        "columns: {input: q, choices: options, label: right, group: page, category: kind, "
        "fields: [lead]}\n"
    )
    rows = [
        {"q": f"q{i}", "options": ["x", "y"], "right": i % 2, "page": i // 2, "kind": "k"}
        for i in range(4)
    ]
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps({**row, "lead": "L"}) + "\n" for row in rows)
    )
    assert main(["show", str(tmp_path / "mine.yaml"), "--json", "--id", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["prompts"] == ["L: q1\nA. x\nB. y\nAnswer:"]
    assert (shown["choices"], shown["target"]) == ([" A", " B"], 1)
    assert (shown["group"], shown["category"]) == ("0", "k")


def test_fingerprints(gsm8k: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "f.jsonl"
    command = ["fingerprints", "--tasks", "gsm8k", "--data-dir", str(gsm8k), "--out", str(out)]
    assert main(command) == 0
    assert "1 items" in capsys.readouterr().out
    index = FingerprintIndex(read(out))
    assert [o.task for o in index.overlaps(QUESTION["question"])] == ["gsm8k@1"]
    assert "boxes" not in out.read_text()


def test_the_documentation_names_every_task_and_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in built_in_tasks() if f"`{name}`" not in page] == []
    words = set(re.findall(r"\w+", page)) | {"bleu2", "bleu3"}
    assert [name for name in METRICS if name not in words] == []


def test_the_documented_task_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "triage.yaml").write_text(block)
    for split, text in (("test", "No dial tone"), ("train", "Paid twice")):
        row = {"ticket": text, "queue": "billing", "customer": 7}
        (tmp_path / f"triage.{split}.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["show", str(tmp_path / "triage.yaml"), "--shots", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["prompts"] == [
        "Ticket: Paid twice\nQueue: billing\n\nTicket: No dial tone\nQueue:"
    ]
    assert (shown["target"], shown["group"]) == (0, "7")


GLUE_HEADER = "index\tquestion\tsentence\tlabel\n"
MC_TASK = '{"examples": [{"input": "x", "target_scores": %s}]}'
BBQ = dict(built_in_tasks()["bbq"].definition.spec.example)
ARC = '{"question": {"stem": "q", "choices": [{"text": "a", "label": "A"}, %s]}, "answerKey": "%s"}'
SQUAD = '{"data": [{"paragraphs": [{"context": "c", "qas": %s}]}]}'
WINOGRANDE = '{"sentence": "%s", "option1": "a", "option2": "b", "answer": "%s"}'

# Task, file, its content, and what the one line says.
BAD = [
    ("gsm8k", "d.jsonl", '{"question": "q"}', "d.jsonl:1: no column 'answer'; valid: question"),
    ("gsm8k", "d.jsonl", '{"question": "q", "answer": "12"}', "'answer' has no '#### NUMBER'"),
    ("gsm8k", "d.jsonl", '{"question": 3, "answer": "#### 1"}', "'question' is int, expected text"),
    ("gsm8k", "d.jsonl", '{"question": "q", "answ', "d.jsonl:1: not JSON at column "),
    ("gsm8k", "d.jsonl", b'{"question": "\xff"}', "d.jsonl:1: not UTF-8 at byte 14"),
    ("gsm8k", "d.jsonl", "", "d.jsonl: no rows"),
    ("samsum", "d.json", '{"a": 1}', "d.json: expected a list of rows, found dict"),
    ("samsum", "d.json", "[1]", "d.json:1: expected an object, found int"),
    ("samsum", "d.json", "[", "d.json:1: not JSON at column 2"),
    ("samsum", "d.jsonl", '{"dialogue": "a", "summary": " "}', "a reference is empty; remove the"),
    ("dialogsum", "d.jsonl", '{"dialogue": "a"}', "d.jsonl:1: no column 'summary'"),
    ("glue_qnli", "d.tsv", GLUE_HEADER + "0\tq\ts\tmaybe\n", "'label' is 'maybe', not one of the"),
    ("glue_qnli", "d.tsv", GLUE_HEADER + "0\tq\ts\n", "d.tsv:2: 3 cells, expected 4: index, "),
    ("glue_qnli", "d.tsv", GLUE_HEADER + "0\tq\ts\t-1\n", "the labels of this file are hidden"),
    ("glue_qnli", "d.tsv", "index\tq\tsentence\tlabel\n0\tq\ts\t1\n", "no column 'question'"),
    ("glue_cola", "d.tsv", b"a\t1\t\tgood\na\t1\t\tb\xe9d\n", "d.tsv:2: not UTF-8 at byte "),
    ("glue_stsb", "d.csv", "a,b,high\n", "the reference 'high' of row 1 is no number"),
    ("mmlu", "law_test.csv", "q,a,b,c,d,E\n", "'answer' is 'E', not one of the labels; valid: A"),
    ("mmlu", "law_test.csv", "q,a,b,c,A\n", "law_test.csv:1: 5 cells, expected 6: question"),
    ("bigbench_mc", "task.json", '{"name": "x"}', "expected an object with the list 'examples'"),
    ("bigbench_mc", "task.json", MC_TASK % '{"a": "1"}', "must map choices to numbers"),
    ("bigbench_mc", "task.json", MC_TASK % '{"a": 1}', "needs at least two choices"),
    ("bbh", "x.json", '{"examples": [{"input": "q"}]}', "x.json:1: no column 'target'"),
    ("bbh_cot", "x.json", '{"examples": []}', "x.txt: no such file, and x.json needs its worked"),
    ("truthfulqa_mc1", "d.csv", "Question,Best Answer\nq,a\n", "no column 'Incorrect Answers'"),
    ("arc_easy", "d.jsonl", ARC % ('{"text": "b", "label": "B"}', "C"), "'answerKey' is 'C', not"),
    ("arc_easy", "d.jsonl", ARC % ('{"text": "b"}', "A"), "'choices' 1: no column 'label'"),
    ("winogrande", "d.jsonl", WINOGRANDE % ("no gap", "1"), "'sentence' has no gap '_'"),
    ("winogrande", "d.jsonl", WINOGRANDE % ("a _ b", ""), "'answer' is '', expected 1 or 2"),
    ("squad", "d.json", SQUAD % '{"a": 1}', "'qas' must be a list of objects"),
    ("squad", "d.json", SQUAD % '[{"question": "q"}]', "d.json:1: no column 'answers'"),
    ("bbq", "d.jsonl", json.dumps({**BBQ, "label": 3}), "'label' is 3, expected 0 to 2"),
    ("bbq", "d.jsonl", json.dumps({**BBQ, "answer_info": {}}), "'answer_info': no column 'ans0'"),
    ("translation", "d.tsv", "only one cell\n", "d.tsv:1: one cell, expected source TAB reference"),
    ("superglue_multirc", "d.jsonl", '{"passage": "x"}', "'passage' is str, expected an object"),
]  # fmt: skip


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with exit code 2 and one line, which is returned."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("evalsuite: ")
        return line

    return run


@pytest.mark.parametrize(("task", "name", "content", "message"), BAD)
def test_bad_data(
    tmp_path: Path,
    fails: Callable[..., str],
    task: str,
    name: str,
    content: str | bytes,
    message: str,
) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = fails("show", task, "--data", str(path))
    assert message in line
    assert path.stem in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gsm8k", "--data", "/nowhere"], "no file or folder '/nowhere' with the data of 'gsm8k'"),
        (["gsm8k=/nowhere"], "no file or folder '/nowhere'"),
        (["gsm9k"], "no built-in task 'gsm9k'; did you mean 'gsm8k'?"),
        (["xyzzy"], "no built-in task 'xyzzy'; `python -m evalsuite tasks` lists them."),
        (["nowhere.yaml"], "no file 'nowhere.yaml'"),
        (["gsm8k@third:5"], "a subset is @first:SIZE, @random:SIZE or @stratified:SIZE"),
        (["gsm8k@random:0"], "a subset needs a size of at least 1"),
        (["gsm8k", "--data", "DIR", "--id", "99"], "task 'gsm8k' has no sample '99'; the first"),
        (["gsm8k", "--data", "DIR", "--shots", "2"], "task 'gsm8k' has only 1 training rows"),
        (["hellaswag", "--data", "DIR"], "no data of task 'hellaswag'; looked for hellaswag_val"),
        (["squad", "--data", "DIR"], "they come from https://rajpurkar.github.io"),
    ],
)  # fmt: skip
def test_bad_flags(
    gsm8k: Path, fails: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in fails("show", *(str(gsm8k) if a == "DIR" else a for a in arguments))


def test_checks_tasks_with_their_data(
    gsm8k: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", "--tasks", "gsm8k", "--data-dir", str(gsm8k), "--json"]) == 0
    assert [task["name"] for task in json.loads(capsys.readouterr().out)] == ["gsm8k"]
    line = fails("tasks", "--tasks", "gsm8k,squad", "--data-dir", str(gsm8k))
    assert "no data of task 'squad'" in line
    assert "name the tasks to check with --tasks" in fails("tasks", "--data-dir", str(gsm8k))


def test_fingerprints_into_no_folder(gsm8k: Path, fails: Callable[..., str]) -> None:
    out = str(gsm8k / "test.jsonl" / "f")
    line = fails("fingerprints", "--tasks", "gsm8k", "--data-dir", str(gsm8k), "--out", out)
    assert f"--out {out}: " in line
