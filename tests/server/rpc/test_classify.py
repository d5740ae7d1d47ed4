"""Classify over the wire, as the client and its command line see it."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from server.config import AdaptersConfig
from tests.server.rpc.conftest import StartServer
from tests.tiny import TEMPLATE, lora_config, make_adapter
from understudy import Client, InvalidArgumentError, TokenIds
from understudy.__main__ import main
from understudy.prompt import PromptTemplate
from understudy.store import publish

_LABELS = ("bad", "fair", "good")


@pytest.fixture(scope="module")
def store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mood` classifies, with names for its labels; `plain` is PEFT's directory alone; `pirate`
    generates."""
    folder = tmp_path_factory.mktemp("classifiers")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
    mood = make_adapter(base, folder / "a", config, name="mood", seed=1, labels=_LABELS)
    publish(mood, folder / "store", "mood")
    pirate = make_adapter(base, folder / "b", lora_config(), name="pirate", seed=2)
    publish(pirate, folder / "store", "pirate")
    uploads = folder / "uploads"
    shutil.copytree(mood, uploads / "plain")
    (uploads / "plain" / "understudy.json").unlink()
    path = uploads / "plain" / "adapter_config.json"
    labels = {str(i): f"{i} stars" for i in range(3)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": labels}))
    return folder


@pytest.fixture(scope="module")
def expected(base: Path, store: Path) -> list[float]:
    """What PEFT makes of "noon" in the template."""
    prompt = PromptTemplate(TEMPLATE).render({"input": "noon"})
    ids = AutoTokenizer.from_pretrained(base)(prompt, return_tensors="pt")["input_ids"]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    adapted = peft.PeftModel.from_pretrained(model, store / "a").eval()
    with torch.inference_mode():
        logits: list[float] = adapted(input_ids=ids).logits[0].tolist()
    return logits


def test_classify(
    start_server: StartServer,
    store: Path,
    expected: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapters = AdaptersConfig(store=store / "store", roots=(store / "uploads",))
    server = start_server(adapters=adapters)
    with Client(server.app.address) as client:
        result = client.classify(
            "noon", adapter="mood", priority=2, tenant="shop", request_id="mine"
        )
        assert result.request_id == "mine"
        assert result.adapter.name == "mood"
        logits = {score.label: score.logit for score in result.labels}
        assert [logits[label] for label in _LABELS] == pytest.approx(expected, rel=1e-4)
        assert [s.logit for s in result.labels] == sorted(logits.values(), reverse=True)
        probabilities = torch.tensor(expected).softmax(0).tolist()
        found = {score.label: score.probability for score in result.labels}
        assert [found[label] for label in _LABELS] == pytest.approx(probabilities, rel=1e-4)
        num_tokens = len(client.tokenize("noon", adapter="mood").token_ids)
        assert result.usage.num_prompt_tokens == num_tokens
        assert result.usage.num_completion_tokens == 0

        client.adapters.load("plain", source=str(store / "uploads" / "plain"))
        plain = client.classify("Note: noon\nAnswer:", adapter="plain")
        assert {s.label.replace(" stars", ""): s.logit for s in plain.labels} == pytest.approx(
            dict(zip("012", expected, strict=True)), rel=1e-4
        )

        with pytest.raises(InvalidArgumentError, match="'pirate' has no classification head"):
            client.classify("noon", adapter="pirate")
        with pytest.raises(InvalidArgumentError, match="'base' has no classification head"):
            client.classify("noon", adapter="")
        with pytest.raises(InvalidArgumentError, match=r"'mood' .* use Classify"):
            client.generate("noon", adapter="mood")
        with pytest.raises(InvalidArgumentError, match="use Classify"):
            client.score("noon", [" a"], adapter="mood")
        with (
            pytest.raises(InvalidArgumentError, match="use Classify"),
            client.stream("noon", adapter="mood") as events,
        ):
            next(iter(events))
        with pytest.raises(InvalidArgumentError, match="exceeds the context"):
            client.classify(TokenIds((1,) * 5000), adapter="mood")
        with pytest.raises(InvalidArgumentError, match="tenant"):
            client.classify("noon", adapter="mood", tenant="x" * 1000)
        assert client.generate("noon", adapter="pirate").text
        assert [a.num_leases for a in client.adapters.list()] == [0, 0, 0]

        arguments = ["--server", server.app.address, "--adapter", "mood", "noon"]
        assert main(["classify", *arguments]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows[0] == ["probability", "logit", "label"]
        assert [row[2] for row in rows[1:]] == [score.label for score in result.labels]
        assert main(["classify", "--json", *arguments]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["labels"][0]["label"] == result.labels[0].label
    assert server.sample("understudy_requests_ended_total", outcome="classified") == 4
