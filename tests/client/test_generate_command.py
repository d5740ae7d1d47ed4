"""`understudy generate` against a scripted server."""

import json
from pathlib import Path
from typing import Any

from tests.client.conftest import Run
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb


def test_generate_streams_text(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.words_stream("v", "one ", "two")
    assert run("generate", "--adapter", "a", "x") == (0, "one two\n", "")
    assert scripted.requests["GenerateStream"][0].request.adapter == "a"


def test_generate_sends_its_flags(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    flags = (
        "--max-tokens 9 --min-tokens 2 --stop a --stop b --ignore-eos --samples 3 "
        "--temperature 0.5 --top-k 4 --top-p 0.75 --min-p 0.25 --seed 3 --repetition-penalty 1.5 "
        "--frequency-penalty -0.5 --presence-penalty 0.125 --logit-bias 7=-2.5 --logit-bias 9=1 "
        "--logprobs --top-logprobs 2 --prompt-logprobs"
    )
    code, *_ = run("generate", "--json", "--raw", *flags.split(), "x")
    assert code == 0
    assert scripted.requests["Generate"][0] == generation_pb.GenerateRequest(
        input=types_pb.Input(raw_prompt="x"),
        num_samples=3,
        sampling=types_pb.SamplingParams(
            temperature=0.5,
            top_k=4,
            top_p=0.75,
            min_p=0.25,
            seed=3,
            repetition_penalty=1.5,
            frequency_penalty=-0.5,
            presence_penalty=0.125,
            logit_bias={7: -2.5, 9: 1.0},
        ),
        stopping=types_pb.StoppingParams(
            max_tokens=9, min_tokens=2, stop=["a", "b"], ignore_eos=True
        ),
        output=types_pb.OutputOptions(logprobs=True, top_logprobs=2, prompt_logprobs=True),
    )


def test_generate_sums_adapters(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    flags = ("--adapter", "a=0.75", "--adapter", "b@stable")
    assert run("generate", "--json", *flags, "x")[0] == 0
    assert scripted.requests["Generate"][0].adapters == [
        types_pb.WeightedAdapter(adapter="a", weight=0.75),
        types_pb.WeightedAdapter(adapter="b@stable"),
    ]
    code, _, err = run("generate", "--adapter", "a=much", "x")
    assert code == 2
    assert "'much' in 'a=much' is not a number" in err


def test_generate_sends_one_form_of_output(
    scripted: Any, run: Run, wire: Any, tmp_path: Path
) -> None:
    scripted.handlers["Generate"] = wire.echo
    file = tmp_path / "form"
    file.write_text('{"type": "string"}', encoding="utf-8")
    for flags, expected in [
        (["--json-schema", str(file)], {"json_schema": '{"type": "string"}'}),
        (["--regex", "a|b"], {"regex": "a|b"}),
        (["--choice", "yes", "--choice", ""], {"choice": types_pb.Choices(choices=["yes", ""])}),
        (["--grammar", str(file)], {"grammar": '{"type": "string"}'}),
    ]:
        assert run("generate", "--json", *flags, "x")[0] == 0
        sent = scripted.requests["Generate"][-1]
        assert sent.structured_output == types_pb.StructuredOutput(**expected)


def test_generate_refuses_two_forms_and_files_it_cannot_read(run: Run, tmp_path: Path) -> None:
    code, _, err = run("generate", "--regex", "a", "--choice", "b", "x")
    assert code == 2
    assert "--choice" in err
    missing = str(tmp_path / "missing.json")
    code, _, err = run("generate", "--json-schema", missing, "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "--json-schema" in err
    assert "missing.json" in err
    (tmp_path / "binary").write_bytes(b"\xff")
    code, _, err = run("generate", "--grammar", str(tmp_path / "binary"), "x")
    assert code == 2
    assert "not UTF-8" in err


def test_generate_leaves_defaults_to_the_server(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    run("generate", "--json", "x")
    sent = scripted.requests["Generate"][0]
    assert sent.sampling == types_pb.SamplingParams()
    assert sent.stopping == types_pb.StoppingParams()
    assert 50 < scripted.time_left_s["Generate"][0] < 61


def test_generate_json_is_one_document(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    code, out, err = run("generate", "--json", "héllo")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["generations"][0]["text"] == "héllo"
    assert document["generations"][0]["finish_reason"] == "eos"
    assert document["adapter"] == {"name": "a", "version": "v", "members": []}


def test_generate_json_stream_is_one_line_per_event(scripted: Any, run: Run, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.words_stream("v", "one ", "two")
    code, out, _ = run("generate", "--json", "--stream", "x")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [e["event"] for e in events] == ["started", "delta", "delta", "finished"]
    assert "".join(e.get("text", "") for e in events) == "one two"


def test_generate_logprobs(scripted: Any, run: Run, wire: Any) -> None:
    token = types_pb.TokenLogprob(token_id=7, token="a\n", logprob=-0.5)
    delta = generation_pb.GenerateStreamResponse(
        delta=generation_pb.StreamDelta(text="a\n", token_ids=[7], logprobs=[token])
    )
    scripted.handlers["GenerateStream"] = lambda *_: iter([delta, wire.finished()])
    _, out, _ = run("generate", "--logprobs", "x")
    assert out.splitlines()[-2:] == ["logprob  id  token", "-0.5000   7  a\\n"]


def test_generate_shows_samples_and_the_prompt(scripted: Any, run: Run, wire: Any) -> None:
    top = [types_pb.TopLogprob(token_id=3, token=" b\n", logprob=-0.25)]
    token = types_pb.TokenLogprob(token_id=7, token="a", logprob=-0.5, top=top)
    answer = wire.response("first")
    answer.generations[0].logprobs.append(token)
    answer.generations.add(index=1, text="second")
    answer.prompt_logprobs.append(token)
    scripted.handlers["Generate"] = lambda *_: answer
    code, out, err = run("generate", "--samples", "2", "--prompt-logprobs", "x")
    assert (code, err) == (0, "")
    table = ["logprob  id  token  likeliest", "-0.5000   7  a      ' b\\n' -0.2500"]
    assert out.splitlines() == [
        "prompt:", *table, "", "sample 0:", "first", "", *table, "", "sample 1:", "second",
    ]  # fmt: skip
    assert scripted.count("GenerateStream") == 0
