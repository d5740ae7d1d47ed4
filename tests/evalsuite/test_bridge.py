"""The bridge without lm_eval: its arguments, its command line, and requests through a server."""

import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalsuite.__main__ import main
from evalsuite.bridge.door import Door, Pair
from evalsuite.bridge.options import read_options
from evalsuite.errors import InputError, RequestRefused, ServerAway, ServerError
from tests.process import ServerProcess, start
from tests.tiny import CONTEXT, TEMPLATE, lora_config, make_adapter, make_base, prompt_config
from understudy import Client, GenerateRequest, RawPrompt, SamplingParams, StoppingParams, TokenIds
from understudy.store import publish


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("bridge")
    base = make_base(folder / "base")
    for name, config in (("pirate", lora_config()), ("polite", prompt_config())):
        publish(make_adapter(base, folder / name, config, name=name, seed=1), folder / "s", name)
    flags = ["--base", base, "--quantization", "none", "--dtype", "float32", "--deterministic"]
    started = start(folder, [*flags, "--store", folder / "s"])
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm_eval is there")
def test_without_lm_eval(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "--server", "localhost:1", "--", "--tasks", "arc_easy"]) == 2
    line = capsys.readouterr().err
    assert line == (
        "evalsuite: bridge: cannot import lm_eval: pip install 'understudy-suite[lm-eval]'\n"
    )


@pytest.mark.parametrize("word", ["--model", "--model_args=a=b", "-M"])
def test_the_model_is_given_by_our_flags(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "--server", "localhost:1", "--", word, "x"]) == 2
    assert f"{word} is set here; use --server, --adapter and --template" in capsys.readouterr().err


def test_options() -> None:
    sampling, stopping = read_options({})
    assert sampling == SamplingParams()
    assert stopping == StoppingParams(max_tokens=256)
    sampling, stopping = read_options(
        {"until": ["\n", ""], "do_sample": False, "temperature": 0.7, "max_new_tokens": 5}
    )
    assert sampling == SamplingParams()
    assert stopping == StoppingParams(max_tokens=5, stop=("\n",))
    sampling, stopping = read_options(
        {"until": "x", "temperature": "0.7", "top_k": 5, "top_p": 0.9, "seed": 3, "num_beams": 1}
    )
    assert sampling == SamplingParams(temperature=0.7, top_k=5, top_p=0.9, seed=3)
    assert stopping.stop == ("x",)
    assert read_options({"do_sample": True})[0] == SamplingParams(temperature=1.0)
    both = {"max_gen_toks": 7, "max_tokens": 9, "temperature": None}
    assert read_options(both)[1].max_tokens == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temprature": 1}, "unknown 'temprature=1'; did you mean 'temperature'?"),
        ({"num_beams": 4}, "unknown 'num_beams=4'; valid: do_sample"),
        ({"temperature": "hot"}, "temperature='hot' is not a number"),
        ({"max_gen_toks": 1.5}, "max_gen_toks=1.5 is not a whole number of at least 0"),
        ({"top_k": -1}, "top_k=-1 is not a whole number of at least 0"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True needs a temperature above 0"),
        ({"max_gen_toks": float("inf")}, "max_gen_toks=inf is not a whole number"),
        ({"until": 3}, "until=3 is neither a text nor a list of texts"),
    ],
)
def test_bad_options(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        read_options(arguments)
    assert str(error.value).startswith(f"--gen_kwargs: {message}")


def test_scores_are_those_of_single_requests(server: ServerProcess) -> None:
    door = Door(server.address, "pirate", concurrency=3)
    contexts = [door.encode([text])[0] for text in ("the late train", "a quiet town")]
    pairs = [Pair(contexts[i // 70 % 2], (5 + i % 70, 9)) for i in range(200)]
    with Client(server.address) as client:
        found = dict(door.score(pairs))
        assert set(found) == set(range(200))
        for index in (0, 63, 64, 69, 70, 139, 199):
            (alone,) = client.score(
                TokenIds(pairs[index].context),
                [TokenIds(pairs[index].continuation)],
                adapter="pirate",
            ).scores
            assert found[index] == alone
    door.close()


def test_texts_and_tokens(server: ServerProcess) -> None:
    door = Door(server.address, "pirate")
    requests = [
        GenerateRequest(RawPrompt(text), "pirate", stopping=StoppingParams(max_tokens=6))
        for text in ("rain", "the old bridge", "rain")
    ]
    texts = dict(door.generate(requests))
    with Client(server.address) as client:
        assert [texts[i] for i in range(3)] == [client.generate(r).text for r in requests]
        ids = client.tokenize(RawPrompt("the old bridge")).token_ids
    assert door.encode(["", "the old bridge", ""]) == [(), ids, ()]
    assert door.render("rain") == TEMPLATE.replace("{{ input }}", "rain")
    assert door.render_all(["a", "b"]) == [door.render("a"), door.render("b")]
    with pytest.raises(RequestRefused, match="template"):
        door.render([{"role": "user", "content": "rain"}])
    door.close()


def test_special_tokens_come_once(demo_server: ServerProcess) -> None:
    door = Door(demo_server.address)
    assert (door.special_tokens, door.special_text) == ((0,), "<|bos|>")
    assert door.encode(["", "Hi", "<|bos|>Hi", "<|bos|><|bos|>Hi"]) == [
        (0,),
        *[door.encode(["Hi"])[0]] * 2,
        (0, *door.encode(["Hi"])[0]),
    ]
    door.close()


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = Path(__file__).resolve().parents[2]
    started = start(tmp_path_factory.mktemp("demo"), ["--base", root / "demo" / "base"])
    yield started
    started.process.kill()
    started.process.wait()


def test_adapters_are_pinned_and_virtual_tokens_taken_off(server: ServerProcess) -> None:
    base, polite = Door(server.address), Door(server.address, "polite")
    assert (base.adapter, base.max_tokens) == ("", CONTEXT)
    name, _, version = polite.adapter.partition("@")
    assert (name, len(version) > 8) == ("polite", True)
    assert polite.max_tokens == CONTEXT - 5
    full = Pair(tuple([7] * polite.max_tokens), (8,))
    assert len(dict(polite.score([full]))) == 1
    with pytest.raises(RequestRefused, match="exceed"):
        list(polite.score([Pair(full.context, (8, 9))]))
    base.close()
    polite.close()


def test_what_is_wrong_is_said(server: ServerProcess, unused_port: int) -> None:
    with pytest.raises(ServerError, match=r"'pirat'.*pirate"):
        Door(server.address, "pirat")
    with pytest.raises(InputError, match="concurrency: 0 is not at least 1"):
        Door(server.address, concurrency=0)
    with pytest.raises((ServerAway, ServerError), match=f"localhost:{unused_port}"):
        Door(f"localhost:{unused_port}")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
