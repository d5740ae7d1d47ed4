"""Task files and data files: what is read, and how every fault is named."""

import json
from pathlib import Path

import pytest

from evalsuite.errors import InputError
from evalsuite.prompts import build_request
from evalsuite.registry import load_tasks
from evalsuite.task import Task
from evalsuite.types import Row, RowKind

GENERATE = 'name: x\ndata: d.jsonl\ntemplate: "{{ input }}"\nmetrics: [bleu]\n'
CHOICE = 'name: x\ndata: d.jsonl\ntemplate: "{{ input }}"\nmode: choice\nmetrics: [accuracy]\n'
YES_NO = CHOICE + 'choices: [" yes", " no"]\n'
GOOD_ROW = '{"input": "a", "completion": "b"}\n'


def load(folder: Path, task: str, rows: str | bytes = GOOD_ROW, train: str = GOOD_ROW) -> Task:
    (folder / "t.yaml").write_text(task)
    (folder / "d.jsonl").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    (folder / "train.jsonl").write_text(train)
    return load_tasks([str(folder / "t.yaml")], None)[0]


def test_a_users_own_task(tmp_path: Path) -> None:
    task = load(
        tmp_path,
        "name: my-task\n"
        "data: d.jsonl\n"
        "train: train.jsonl\n"
        'template: "Q: {{ input }}\\nA:"\n'
        "metrics: [rougeL, exact_match]\n"
        "columns: {input: question, completion: answers}\n"
        "options: {stemmer: false}\n"
        "max_tokens: 9\n"
        'stop: ["\\n"]\n',
        '\n{"question": "é?", "answers": ["one", "two"]}\n',
        '{"question": "b", "answers": "c"}\n{"question": "é?", "answers": "test input"}\n',
    )
    (sample,) = task.samples
    assert (sample.id, sample.input, sample.references) == ("2", "é?", ("one", "two"))
    assert task.prompt(sample) == "Q: é?\nA:"
    assert [metric.name for metric in task.metrics] == ["rougeL", "exact_match"]
    assert "|stem:no|" in task.metrics[0].signature
    assert [row.input for row in task.train] == ["b"], "test inputs are held out of training rows"


def test_data_dir_and_limit(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.jsonl").write_text(GOOD_ROW * 5)
    (tmp_path / "t.yaml").write_text(GENERATE)
    (task,) = load_tasks([str(tmp_path / "t.yaml")], tmp_path / "elsewhere", limit=3)
    assert [sample.id for sample in task.samples] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"input": "a", "completion": "no"}, 1),
        ({"input": "a", "completion": " yes"}, 0),
        ({"input": "a", "completion": "ignored", "label": "no"}, 1),
        ({"input": "a", "label": 1}, 1),
    ],
)
def test_choice_rows(tmp_path: Path, row: dict[str, object], target: int) -> None:
    (sample,) = load(tmp_path, YES_NO, json.dumps(row)).samples
    assert (sample.target, sample.choices) == (target, (" yes", " no"))


def test_rows_with_their_own_choices(tmp_path: Path) -> None:
    rows = '{"input": "a", "choices": ["x", "y", "z"], "label": 2}\n'
    (sample,) = load(tmp_path, CHOICE, rows).samples
    assert (sample.choices, sample.references) == (("x", "y", "z"), ("z",))


def test_python_module_with_its_own_format(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("hello\tbonjour\n")
    (tmp_path / "pairs.py").write_text(
        "from evalsuite.task import TaskSpec\n"
        'SPEC = TaskSpec(name="pairs", data="pairs.tsv", template="{{ input }}", '
        'metrics=("chrf",))\n'
        "def read_rows(path):\n"
        "    for number, line in enumerate(path.read_text().splitlines(), 1):\n"
        '        source, target = line.split("\\t")\n'
        '        yield number, {"input": source, "completion": target}\n'
    )
    (task,) = load_tasks([str(tmp_path / "pairs.py")], None)
    assert (task.samples[0].input, task.samples[0].references) == ("hello", ("bonjour",))


WORDS = (
    'name: x\ndata: d.jsonl\ntemplate: "{{ tone }}: {{ word }}"\nmetrics: [bleu]\n'
    "columns: {input: word, fields: [tone, mood]}\n"
)
WORD_ROW = '{"word": "hut", "tone": "calm", "mood": "gay", "completion": "hat"}\n'


def test_the_input_is_called_by_its_column(tmp_path: Path) -> None:
    task = load(tmp_path, WORDS, WORD_ROW)
    assert task.prompt(task.samples[0]) == "calm: hut"
    with pytest.raises(InputError, match="uses tone, expected the variable 'input' or 'word'"):
        load(tmp_path, WORDS.replace(": {{ word }}", ""), WORD_ROW)


@pytest.mark.parametrize(
    ("variables", "text_variables", "fields"),
    [
        # A plain text fills the only variable, whatever it is called.
        ((), (), {}),
        (("input",), (), {}),
        (("word",), (), {}),
        (("passage",), (), {}),
        # The server says what a conversation is.
        (("messages", "tone"), (), {}),
        (("tone",), (), {"tone": "calm"}),
        (("mood", "word"), ("word",), {"mood": "gay"}),
        (("input", "tone", "word"), ("input", "word"), {"tone": "calm"}),
    ],
)
def test_an_adapter_gets_what_its_template_names(
    tmp_path: Path,
    variables: tuple[str, ...],
    text_variables: tuple[str, ...],
    fields: dict[str, str],
) -> None:
    task = load(tmp_path, WORDS, WORD_ROW)
    row = Row("a", RowKind.ADAPTER, "a", "1", variables=variables)
    request = build_request(task, row, (), task.samples[0])
    assert (request.text, request.raw) == ("hut", False)
    assert (request.text_variables, request.fields) == (text_variables, fields)


def test_an_adapter_whose_template_the_task_cannot_fill(tmp_path: Path) -> None:
    task = load(tmp_path, WORDS, WORD_ROW)
    row = Row("a", RowKind.ADAPTER, "a", "1", variables=("place", "word"))
    with pytest.raises(InputError, match=r"adapter 'a' reads place, word, .* has no place; name"):
        build_request(task, row, (), task.samples[0])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            GENERATE + "max_tokns: 3\n",
            "t.yaml: unknown field 'max_tokns'; did you mean 'max_tokens",
        ),
        (GENERATE + "max_tokens: 0\n", "t.yaml: field 'max_tokens' is 0: input should be greater"),
        (
            GENERATE + "options: {stemer: true}\n",
            "unknown field 'options.stemer'; did you mean 'ste",
        ),
        (
            GENERATE + "columns: {imput: q}\n",
            "unknown field 'columns.imput'; did you mean 'input'?",
        ),
        (GENERATE + "choices: [a, b]\n", "t.yaml: field 'choices' needs 'mode: choice'"),
        (GENERATE + "train: nowhere.jsonl\n", "nowhere.jsonl: cannot be read: No such file"),
        (GENERATE.replace("bleu", "blue"), "metrics: unknown metric 'blue'; did you mean 'bleu'?"),
        (GENERATE.replace("bleu", "accuracy"), "'accuracy' needs mode 'choice'"),
        (GENERATE.replace("d.jsonl", "e.jsonl"), "e.jsonl: cannot be read: No such file"),
        (GENERATE.replace("{{ input", "{{ inptu"), "'template': uses inptu, expected the variable"),
        (GENERATE.replace("{{ input", "{{ input |"), "'template': prompt template, line 1:"),
        (GENERATE.replace("name: x", "name: a/b"), "field 'name' is 'a/b'"),
        ("name: x\n", "t.yaml: field 'data' is missing"),
        ("name: [x\n", "t.yaml:2: not YAML"),
        ("just words\n", "t.yaml: expected fields such as 'name: ...', found no mapping"),
        (CHOICE + "choices: [yes_, yes_]\n", "'choices' needs at least two, all different"),
    ],
)
def test_faults_of_task_files(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, task)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (GENERATE, GOOD_ROW + '{"input": "a", "comp\n', "d.jsonl:2: not JSON at column 16: "),
        (GENERATE, GOOD_ROW + "[1]\n", "d.jsonl:2: expected an object, found list"),
        (GENERATE, b'{"input": "\xff"}\n', "d.jsonl:1: not UTF-8 at byte 11"),
        (GENERATE, "[" * 100_000, "d.jsonl:1: nested too deeply"),
        (GENERATE, "\n\n", "d.jsonl: no rows"),
        (GENERATE, '{"inputs": "a"}\n', "d.jsonl:1: no column 'input'; did you mean 'inputs'?"),
        (GENERATE, '{"input": 3, "completion": "b"}', "d.jsonl:1: 'input' is int, expected text"),
        (GENERATE, '{"input": "a", "completion": " "}', "d.jsonl:1: 'completion' is empty"),
        (GENERATE, '{"input": "a", "completion": []}', "d.jsonl:1: 'completion' is empty"),
        (
            GENERATE,
            '{"input": "\\ud800", "completion": "b"}',
            "'input' holds half a surrogate pair",
        ),
        (GENERATE, '{"input": "a", "completion": null}', "'completion' is NoneType, expected text"),
        (YES_NO, '{"input": "a", "label": "yess"}', "not one of the choices; did you mean 'yes'?"),
        (YES_NO, '{"input": "a", "label": 2}', "d.jsonl:1: 'label' is 2, expected 0 to 1"),
        (CHOICE, '{"input": "a", "label": 0}', "d.jsonl:1: no column 'choices'; valid: "),
        (CHOICE, '{"input": "a", "label": 0, "choices": ["x"]}', "a list of at least two texts"),
    ],
)
def test_faults_of_data_files(tmp_path: Path, task: str, rows: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, task, rows)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("1 / 0\n", "m.py: ZeroDivisionError: division by zero"),
        ("x = 1\n", "m.py: a task module needs `SPEC = TaskSpec(...)`"),
    ],
)
def test_faults_of_task_modules(tmp_path: Path, module: str, message: str) -> None:
    (tmp_path / "m.py").write_text(module)
    with pytest.raises(InputError) as error:
        load_tasks([str(tmp_path / "m.py")], None)
    assert message in str(error.value)


def test_unknown_and_repeated_tasks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no built-in task 'reviewlabel'; did you mean 'review_l"):
        load_tasks(["reviewlabel"], None)
    with pytest.raises(InputError, match=r"no file 'nowhere\.yaml'"):
        load_tasks(["nowhere.yaml"], None)
    load(tmp_path, GENERATE)
    with pytest.raises(InputError, match="two tasks are named 'x'"):
        load_tasks([str(tmp_path / "t.yaml")] * 2, None)
