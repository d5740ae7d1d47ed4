"""The bridge beside lm_eval's own class for transformers models, and beside our own tasks.

Needs the optional extra lm-eval. Servers are real and deterministic; the oracle for an adapter is
PEFT on the same base.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evalsuite.__main__ import main
from evalsuite.errors import InputError, ServerError
from tests.e2e.conftest import Artifacts
from tests.process import ServerProcess, environment
from tests.tiny import WORDS, make_base

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("needs the extra lm-eval", allow_module_level=True)
# Other people's deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "base"
DATA = Path(os.environ.get("UNDERSTUDY_TEST_DATA", "/nowhere")) / "data"
DENSE = ("--quantization", "none", "--dtype", "float32", "--deterministic")

PAIRS = [
    ("The late train left", " a quiet town"),
    ("The late train left", "a quiet town"),
    ("The late train left", " nobody"),
    ("Answer: ", "yes"),
    ("Answer:\n", "yes"),
    ("Answer:\n\n  ", " no"),
    ("", " hello there"),
    ("caf", "é"),
    ("tick", "ets"),
    ("x", "</s>"),
    ("日本", "語 🌊"),
    ("word " * 1100, "more " * 150),
]
TEXTS = ["Once upon a time.", "", " ", "rain 🌧 fell", "many words in a row. " * 500]
GENERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("The late train", {"until": ["\n"], "max_gen_toks": 20}),
    ("The late train ", {"until": ["e"], "do_sample": False, "temperature": 0.0}),
    ("wait for the next one", {"until": [], "max_gen_toks": 12, "repetition_penalty": 1.3}),
    ("word " * 1500, {"until": ["zz", "\n\n"], "max_gen_toks": 8}),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


def ours(address: str, **arguments: Any) -> Any:
    from evalsuite.bridge.model import UnderstudyLM

    return UnderstudyLM(server=address, **arguments)


def theirs(base: Path, adapter: Path | None = None) -> Any:
    from lm_eval.models.huggingface import HFLM

    peft = None if adapter is None else str(adapter)
    return HFLM(pretrained=str(base), peft=peft, dtype="float32", device="cpu", batch_size=1)


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def compare(mine: Any, reference: Any) -> None:
    """All three calls give what the reference gives."""
    asked = instances("loglikelihood", PAIRS)
    for pair, found, right in zip(
        PAIRS, mine.loglikelihood(asked), reference.loglikelihood(asked), strict=True
    ):
        assert found[0] == pytest.approx(right[0], rel=2e-6, abs=2e-4), pair
        assert found[1] == right[1], pair
    asked = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert mine.loglikelihood_rolling(asked) == pytest.approx(
        reference.loglikelihood_rolling(asked), rel=2e-6, abs=2e-4
    )
    asked = instances("generate_until", GENERATIONS)
    assert mine.generate_until(asked) == reference.generate_until(asked)


@pytest.fixture
def dense(start_server: Callable[..., ServerProcess]) -> Callable[..., ServerProcess]:
    return lambda *arguments: start_server(*DENSE, *arguments)


def test_same_as_hf_on_the_demo_base(dense: Callable[..., ServerProcess]) -> None:
    """Its tokenizer puts a token in front, and context and windows end at 1024."""
    mine, reference = ours(dense("--base", DEMO).address), theirs(DEMO)
    assert mine.max_length == reference.max_length == 1024
    assert mine.prefix_token_id == reference.prefix_token_id == 0
    assert mine.eot_token_id == reference.eot_token_id == 1
    compare(mine, reference)
    asked = instances("loglikelihood", [("<|bos|>Hi", " you"), ("", "<|bos|>Hi"), ("   ", "yes")])
    assert [found for found, _ in mine.loglikelihood(asked)] == pytest.approx(
        [right for right, _ in reference.loglikelihood(asked)], abs=1e-4
    )


@pytest.mark.parametrize("name", ["base", "pirate", "polite"])
def test_same_as_hf_and_peft(
    name: str, dense: Callable[..., ServerProcess], base: Path, artifacts: Artifacts
) -> None:
    """A tokenizer without special tokens in front; LoRA and prompt tuning."""
    server = dense("--base", base, "--store", artifacts.store)
    adapter = {"pirate": artifacts.lora, "polite": artifacts.prompt}.get(name)
    mine, reference = ours(server.address, adapter=name), theirs(base, adapter)
    if name == "polite":
        # lm_eval does not count virtual tokens, which take up positions.
        reference._max_length = mine.max_length
    compare(mine, reference)
    # Where lm_eval's class has no context left it fails; here the prefix token stands in.
    found = mine.loglikelihood(instances("l", [("   ", "yes"), ("", "   yes")]))
    assert found[0] == found[1]


def test_chat_templates(dense: Callable[..., ServerProcess], tmp_path: Path) -> None:
    base = make_base(tmp_path / "chat")
    # Without a system role, which both then leave out.
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (base / "chat_template.jinja").write_text(template)
    mine, reference = ours(dense("--base", base).address), theirs(base)
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Which train?"}
    begun = {"role": "assistant", "content": "The late"}
    for turns, prompt in (([user], True), ([system, user], True), ([user, begun], False)):
        assert mine.apply_chat_template(turns, prompt) == reference.apply_chat_template(
            turns, prompt
        )
    assert mine.apply_chat_template([user]) == "<user>Which train?</user><assistant>"


ITEMS = [
    # Choices of different lengths, in characters and in bytes, so that the norms disagree.
    {
        "id": str(index),
        "question": {
            "stem": " ".join(WORDS.split()[index : index + 6]) + "?",
            "choices": [
                {"text": text, "label": label}
                for label, text in zip(
                    "ABCD", (word, f"{word} ö", f"the {word} éé", "no"), strict=True
                )
            ],
        },
        "answerKey": "ABCD"[index % 4],
    }
    for index, word in enumerate(WORDS.split()[:28])
]
ARC = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_choice: {choice}
doc_to_target: {target}
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
"""
METRICS = {"acc": "accuracy", "acc_norm": "accuracy_per_char", "acc_bytes": "accuracy_per_byte"}


def lm_eval_samples(folder: Path, name: str, model: Any) -> dict[int, dict[str, Any]]:
    """Each item's metrics and log-likelihoods, by its number."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0)
    return {sample["doc_id"]: sample for sample in found["samples"][name]}


def our_samples(address: str, out: Path, tasks: str, row: str, *flags: str) -> list[Any]:
    words = ["run", "--server", address, "--adapters", row, "--tasks", tasks, "--out", str(out)]
    assert main([*words, *flags]) == 0
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return [line for line in lines if line["row"] == row]


def check_items(theirs: dict[int, dict[str, Any]], ours: list[Any]) -> None:
    """The same likelihoods, hence the same choices; and not all of them alike."""
    assert len(theirs) == len(ours) > 0
    disagree = 0
    for number, sample in enumerate(ours):
        their = theirs[number]
        logprobs = [float(response[0][0]) for response in their["resps"]]
        assert sample["logprobs"] == pytest.approx(logprobs, abs=1e-9)
        assert {m: their[m] for m in METRICS} == {m: sample["scores"][METRICS[m]] for m in METRICS}
        disagree += len({their[m] for m in METRICS}) > 1
    assert disagree
    assert 0 < sum(their["acc"] for their in theirs.values()) < len(theirs)


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    """The items as our task and lm_eval's read them, and lm_eval's task."""
    (tmp_path / "arc").mkdir()
    data = tmp_path / "arc" / "ARC-Easy-Test.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    flat = [
        {
            "stem": item["question"]["stem"],
            "options": [choice["text"] for choice in item["question"]["choices"]],
            "gold": "ABCD".index(item["answerKey"]),
        }
        for item in ITEMS
    ]
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(item) + "\n" for item in flat))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "mini.yaml").write_text(
        ARC.format(
            name="mini",
            data=tmp_path / "flat.jsonl",
            text='"Question: {{stem}}\\nAnswer:"',
            choice='"{{options}}"',
            target="gold",
        )
    )
    return tmp_path


def test_arc_item_by_item(
    arc: Path, start_server: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also through the whole command, whose second run asks the server nothing."""
    server = start_server("--base", DEMO, "--quantization", "nf4", "--deterministic")
    samples = our_samples(
        server.address, arc / "run", "arc_easy", "base", "--data-dir", str(arc / "arc")
    )
    check_items(lm_eval_samples(arc / "theirs", "mini", ours(server.address)), samples)

    command = [sys.executable, "-m", "evalsuite", "bridge", "--server", server.address, "--"]
    command += ["--tasks", "mini", "--include_path", str(arc / "theirs"), "--log_samples"]
    command += ["--use_cache", str(arc / "cache"), "--output_path"]
    asked = []
    for name in ("first", "second"):
        before = server.sample("understudy_calls_total", method="Score")
        subprocess.run([*command, str(arc / name)], env=environment(), check=True, cwd=ROOT)
        asked.append(server.sample("understudy_calls_total", method="Score") - before)
        (results,) = (arc / name).rglob("results_*.json")
        found = json.loads(results.read_text())
        for theirs_name, name_of_ours in METRICS.items():
            assert found["results"]["mini"][f"{theirs_name},none"] == pytest.approx(
                sum(sample["scores"][name_of_ours] for sample in samples) / len(samples)
            )
        assert found["config"]["adapter"] == "base"
        assert found["config"]["quantization"] == "nf4"
    assert asked == [len(ITEMS), 0]


@pytest.mark.skipif(not DATA.is_dir(), reason="UNDERSTUDY_TEST_DATA is not set")
def test_published_data_item_by_item(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """SuperGLUE's CB, with the base's prompt verbatim on both sides."""
    server = start_server("--base", DEMO, "--quantization", "nf4", "--deterministic")
    data = DATA / "superglue" / "cb" / "val.jsonl"
    labels = ["entailment", "contradiction", "neutral"]
    (tmp_path / "cb.yaml").write_text(
        f"name: cb\ndata: {data}\nmode: choice\nchoices: {[f' {label}' for label in labels]}\n"
        "columns: {input: premise, label: label, fields: [hypothesis]}\n"
        'template: "{{ input }}\\nHypothesis: {{ hypothesis }}\\nAnswer:"\n'
        f"metrics: [{', '.join(METRICS.values())}]\n"
    )
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "cb.yaml").write_text(
        ARC.format(
            name="cb",
            data=data,
            text='"{{premise}}\\nHypothesis: {{hypothesis}}\\nAnswer:"',
            choice=labels,
            target="label",
        )
    )
    found = lm_eval_samples(tmp_path / "theirs", "cb", ours(server.address))
    check_items(
        found, our_samples(server.address, tmp_path / "run", str(tmp_path / "cb.yaml"), "base")
    )


def test_adapter_item_by_item(
    arc: Path, start_server: Callable[..., ServerProcess], base: Path, artifacts: Artifacts
) -> None:
    """Our task gives an adapter the bare input, for its own template; so does `template`."""
    server = start_server("--base", base, "--store", artifacts.store, "--deterministic")
    path = arc / "theirs" / "mini.yaml"
    path.write_text(path.read_text().replace("Question: {{stem}}\\nAnswer:", "{{stem}}"))
    found = lm_eval_samples(
        arc / "theirs", "mini", ours(server.address, adapter="pirate", template=True)
    )
    samples = our_samples(
        server.address, arc / "run", "arc_easy", "pirate", "--data-dir", str(arc / "arc")
    )
    check_items(found, samples)


def test_white_space_behind_a_context(dense: Callable[..., ServerProcess]) -> None:
    """The one difference in what counts: lm_eval scores it with the continuation, Score does not
    where the tokens allow it."""
    from understudy import Client, RawPrompt

    server = dense("--base", DEMO)
    mine, tail = ours(server.address), "yes"
    with Client(server.address) as client:
        for context, differs in (("Answer:\n", True), ("Answer:", False)):
            (score,) = client.score(RawPrompt(context), [tail]).scores
            ((theirs_sum, _),) = mine.loglikelihood(instances("l", [(context, tail)]))
            space = context[len(context.rstrip()) :]
            assert (abs(theirs_sum - score.logprob) > 0.01) == differs
            if space:
                ((before, _),) = mine.loglikelihood(instances("l", [(context.rstrip(), space)]))
                assert theirs_sum == pytest.approx(before + score.logprob, abs=1e-4)


def test_bad_arguments(start_server: Callable[..., ServerProcess], base: Path) -> None:
    server = start_server("--base", base)
    with pytest.raises(InputError, match="unknown 'adaptor'; did you mean 'adapter'"):
        ours(server.address, adaptor="x")
    with pytest.raises(InputError, match="server=HOST:PORT is missing"):
        ours("")
    with pytest.raises(InputError, match="template=True needs an adapter"):
        ours(server.address, template=True)
    with pytest.raises(ServerError, match="adapter 'x' not found"):
        ours(server.address, adapter="x")
    model = ours(server.address)
    with pytest.raises(InputError, match="continuation has 0 tokens, must have 1 to 2048"):
        model.loglikelihood(instances("l", [("a", "")]))
    with pytest.raises(InputError, match="max_gen_toks: 2048 leaves no room"):
        model.generate_until(instances("g", [("a", {"max_gen_toks": 2048})]))
    server.process.kill()
    server.process.wait()
    with pytest.raises(ServerError, match="no server answers"):
        ours(server.address)


@pytest.mark.parametrize("word", ["--tasks", "--help"])
def test_its_flags_are_its_own(word: str) -> None:
    command = [sys.executable, "-m", "evalsuite", "bridge", "--server", "localhost:1", "--", word]
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == (0 if word == "--help" else 2)
    assert "usage: lm-eval run" in found.stdout + found.stderr
