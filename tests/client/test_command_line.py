"""The command line `understudy` against a scripted server."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.client.conftest import Run
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb


@pytest.mark.parametrize(("given", "sent"), [(b"two\nlines\n", "two\nlines"), (b"", "")])
def test_text_from_stdin(
    scripted: Any,
    run: Run,
    wire: Any,
    monkeypatch: pytest.MonkeyPatch,
    given: bytes,
    sent: str,
) -> None:
    scripted.handlers["Generate"] = wire.echo
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(given)))
    assert run("generate", "--json", "-")[0] == 0
    assert scripted.requests["Generate"][0].input.text == sent


def test_stdin_must_be_utf8(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"ab\xff")))
    code, out, err = run("generate", "-")
    assert (code, out, err) == (2, "", "understudy: stdin: not UTF-8 at byte 2\n")


def scores(*_: Any) -> generation_pb.ScoreResponse:
    token = types_pb.TokenLogprob(token_id=3, token=" bad", logprob=-1.0)
    return generation_pb.ScoreResponse(
        scores=[
            generation_pb.ContinuationScore(logprob=-4.0, num_tokens=2),
            generation_pb.ContinuationScore(
                logprob=-1.0, num_tokens=1, is_greedy=True, tokens=[token]
            ),
            generation_pb.ContinuationScore(logprob=float("-inf"), num_tokens=1),
        ]
    )


def test_score_marks_the_best(scripted: Any, run: Run) -> None:
    scripted.handlers["Score"] = scores
    code, out, _ = run("score", "--adapter", "a", "context", " good", " bad", " no")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[1] == ["-4.0000", "-2.0000", "2", "no", "good"]
    assert rows[2] == ["*", "-1.0000", "-1.0000", "1", "yes", "bad"]
    assert [c.text for c in scripted.requests["Score"][0].continuations] == [" good", " bad", " no"]


def test_fields_stand_in_place_of_the_text(scripted: Any, run: Run, wire: Any) -> None:
    def two(*_: Any) -> generation_pb.ScoreResponse:
        return generation_pb.ScoreResponse(scores=[generation_pb.ContinuationScore()] * 2)

    scripted.handlers |= {
        "Generate": wire.echo,
        "Score": two,
        "Classify": lambda *_: generation_pb.ClassifyResponse(),
        "Tokenize": lambda *_: generation_pb.TokenizeResponse(),
    }
    fields = ["--input", "word=a=b", "--input", "empty="]
    expected = types_pb.Input(
        variables=types_pb.TemplateVariables(values={"word": "a=b", "empty": ""})
    )
    for method in ("Generate", "Classify", "Tokenize"):
        code, _, err = run(method.lower(), "--json", *fields)
        assert (code, err) == (0, "")
        assert scripted.requests[method][-1].input == expected
    code, out, _ = run("score", *fields, " good", " bad")
    (score,) = scripted.requests["Score"]
    assert (code, score.input) == (0, expected)
    assert [c.text for c in score.continuations] == [" good", " bad"]
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["good", "bad"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["classify"], "text: is missing; give it, - for stdin, or --input NAME=VALUE"),
        (["generate", "--input", "a=1", "some text"], "--input: fills the template; the text some"),
        (["tokenize", "--input", "a=1", "--raw"], "--input: fills the template; --raw would, too"),
        (["tokenize", "--input", "a=1", "--input", "a=2"], "--input: a, a: a name is given twice"),
        (["generate", "--input", "=1"], "'=1' is not NAME=VALUE"),
        (["score", "only a context"], "continuation: is missing; give at least one"),
    ],
)
def test_inputs_that_do_not_fit_each_other(
    scripted: Any, run: Run, arguments: list[str], fault: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert fault in err


def test_score_json(scripted: Any, run: Run) -> None:
    scripted.handlers["Score"] = scores
    _, out, _ = run("score", "--json", "--logprobs", "context", " good", " bad", " no")
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [s["logprob"] for s in document["scores"]] == [-4.0, -1.0, None]
    assert scripted.requests["Score"][0].token_logprobs


def test_classify(scripted: Any, run: Run) -> None:
    labels = [
        generation_pb.LabelScore(label="good", probability=0.75, logit=2.5),
        generation_pb.LabelScore(label="bad\n", probability=0.25, logit=-1.0),
    ]
    scripted.handlers["Classify"] = lambda *_: generation_pb.ClassifyResponse(labels=labels)
    code, out, _ = run("classify", "--adapter", "a", "--raw", "cold food")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["probability", "logit", "label"],
        ["0.7500", "2.5000", "good"],
        ["0.2500", "-1.0000", "bad\\n"],
    ]
    sent = scripted.requests["Classify"][0]
    assert (sent.adapter, sent.input.raw_prompt) == ("a", "cold food")
    assert json.loads(run("classify", "--json", "x")[1])["labels"][1]["logit"] == -1.0


def test_tokenize(scripted: Any, run: Run) -> None:
    scripted.handlers["Tokenize"] = lambda *_: generation_pb.TokenizeResponse(
        token_ids=[5, 60], tokens=["a", "\n"], prompt="a\n"
    )
    code, out, _ = run("tokenize", "--adapter", "a", "a\n")
    assert code == 0
    assert out.splitlines() == ["id  token", " 5  a", "60  \\n", "", "2 tokens"]
    assert json.loads(run("tokenize", "--json", "x")[1])["token_ids"] == [5, 60]


def test_info(scripted: Any, run: Run) -> None:
    scripted.handlers["GetModelInfo"] = lambda *_: generation_pb.GetModelInfoResponse(
        base_model="nano", deterministic=True, adapter_methods=["lora", "prompt_tuning"]
    )
    code, out, _ = run("info")
    assert code == 0
    assert {"base_model", "nano"} <= set(out.split())
    assert "lora, prompt_tuning" in out
    assert json.loads(run("info", "--json")[1])["deterministic"] is True


def test_watch(scripted: Any, run: Run) -> None:
    adapter = types_pb.Adapter(name="summary", version="0123456789abcdef", tier=types_pb.TIER_HOST)

    def changes(_: Any, context: Any) -> Iterator[Any]:
        for change, fields in (
            (adapter_pb.ADAPTER_CHANGE_RESIDENT, {}),
            (adapter_pb.ADAPTER_CHANGE_SYNCED, {"adapter": None}),
            (adapter_pb.ADAPTER_CHANGE_ALIAS, {"alias": "stable"}),
            (adapter_pb.ADAPTER_CHANGE_ALIAS, {}),
        ):
            yield adapter_pb.WatchAdaptersResponse(
                **{"change": change, "adapter": adapter, "at": Timestamp(seconds=1)} | fields
            )
        if context.time_remaining() is not None and context.time_remaining() < 1e6:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "over")

    scripted.handlers["WatchAdapters"] = changes
    for arguments in ([], ["--timeout", "5"]):
        code, out, _ = run("watch", "--prefix", "sum", *arguments)
        assert code == 0
        assert [line.split()[1:] for line in out.splitlines()] == [
            ["resident", "summary@0123456789abcdef", "host"],
            ["alias", "summary@0123456789abcdef", "host", "is", "summary@stable"],
            ["alias", "summary@0123456789abcdef", "host", "is", "summary"],
        ]
    assert scripted.requests["WatchAdapters"][0].name_prefix == "sum"
    lines = run("watch", "--json")[1].splitlines()
    assert [json.loads(line)["change"] for line in lines] == [
        "resident", "synced", "alias", "alias",
    ]  # fmt: skip


def test_adapters(scripted: Any, run: Run) -> None:
    adapter = types_pb.Adapter(
        name="summary",
        version="0123456789abcdef",
        method="lora",
        tier=types_pb.TIER_DEVICE,
        size_bytes=2048,
        aliases=["latest"],
        current=True,
        warnings=["trained on int8"],
    )
    scripted.handlers |= {
        "ListAdapters": lambda *_: adapter_pb.ListAdaptersResponse(adapters=[adapter]),
        "GetAdapter": lambda *_: adapter_pb.GetAdapterResponse(
            adapter=adapter, manifest_json='{"prompt_template": "Sum: {{ input }}"}'
        ),
        "LoadAdapter": lambda *_: adapter_pb.LoadAdapterResponse(adapter=adapter, load_s=0.5),
        "UnloadAdapter": lambda *_: adapter_pb.UnloadAdapterResponse(num_leases=3),
        "PinAdapter": lambda *_: adapter_pb.PinAdapterResponse(adapter=adapter),
        "SetAlias": lambda *_: adapter_pb.SetAliasResponse(adapter=adapter),
    }
    code, out, _ = run("adapters", "list", "--prefix", "s", "--tier", "device")
    assert code == 0
    row = ["summary", "0123456789abcdef", "yes", "lora", "device", "2.0", "0", "latest"]
    assert out.splitlines()[1].split() == row
    assert scripted.requests["ListAdapters"][0].tier == types_pb.TIER_DEVICE
    listed = json.loads(run("adapters", "list", "--json")[1])
    assert listed["adapters"][0]["aliases"] == ["latest"]

    code, out, err = run("adapters", "load", "summary", "--source", "dir", "--pin")
    assert (code, out) == (0, "loaded summary@0123456789abcdef in 0.50 s\n")
    assert err == "understudy: warning: summary: trained on int8\n"
    assert json.loads(run("adapters", "load", "summary", "--json")[1])["load_s"] == 0.5

    assert "Sum: {{ input }}" in run("adapters", "show", "summary")[1]
    shown = json.loads(run("adapters", "show", "summary", "--json")[1])
    assert shown["manifest"]["prompt_template"] == "Sum: {{ input }}"

    assert "let go summary@0123456789abcdef" in run("adapters", "pin", "summary", "--off")[1]
    run("adapters", "pin", "summary")
    assert [r.pinned for r in scripted.requests["PinAdapter"]] == [False, True]
    assert (
        "summary@stable is 0123456789abcdef"
        in run("adapters", "alias", "summary", "stable", "0123456789abcdef")[1]
    )
    assert "removed summary@stable" in run("adapters", "alias", "summary", "stable", "--remove")[1]
    assert [r.version for r in scripted.requests["SetAlias"]] == ["0123456789abcdef", ""]

    assert "3 requests still run" in run("adapters", "unload", "summary")[1]
    unloaded = json.loads(run("adapters", "unload", "summary", "--json")[1])
    assert unloaded == {"adapter": "summary", "num_leases": 3}


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, 2),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_server_errors_are_one_line(
    scripted: Any,
    run: Run,
    wire: Any,
    code: grpc.StatusCode,
    exit_code: int,
    json_flag: list[str],
) -> None:
    def fail(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(code, "line one\nline two")

    scripted.handlers |= {"Generate": fail, "GenerateStream": fail}
    got, out, err = run("generate", *json_flag, "x")
    assert (got, out) == (exit_code, "")
    assert err.count("\n") == 1
    assert "line one line two" in err


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ([], "COMMAND"),
        (["generate"], "text"),
        (["generate", "--max-tokens", "many", "x"], "--max-tokens"),
        (["generate", "--timeout", "-1", "x"], "--timeout"),
        (["generate", "--top-k", "-1", "x"], "sampling.top_k"),
        (["generate", "--logit-bias", "7", "x"], "--logit-bias: 7 is not a token id"),
        (["generate", "--logit-bias", "7=a", "x"], "--logit-bias: 7=a is not a token id"),
        (["generate", "--samples", "many", "x"], "--samples"),
        (["generate", "--server", "http://h:1", "x"], "HOST:PORT"),
        (["generate", "--server", "localhost", "x"], "the port is missing"),
        (["score", "context"], "continuation"),
        (["adapters"], "ACTION"),
        (["adapters", "list", "--tier", "moon"], "--tier"),
        (["sing"], "sing"),
    ],
)
def test_bad_command_lines(run: Run, argv: list[str], names: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert names in err


def test_nobody_listens(run: Run) -> None:
    code, out, err = run("info", "--server", "127.0.0.1:1", "--timeout", "0.5")
    assert (code, out) == (1, "")
    assert err.startswith("understudy: 127.0.0.1:1: UNAVAILABLE: ")


@pytest.mark.parametrize(
    "argv", [["--help"], ["generate", "--help"], ["score", "--help"], ["adapters", "--help"]]
)
def test_help(run: Run, argv: list[str]) -> None:
    code, out, _ = run(*argv)
    assert code == 0
    assert "understudy" in out


def start(scripted: Any, *argv: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "understudy", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"UNDERSTUDY_SERVER": scripted.address},
    )


@pytest.mark.parametrize("flags", [[], ["--json", "--stream"]])
def test_ctrl_c_cancels_the_stream(scripted: Any, wire: Any, flags: list[str]) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    with start(scripted, "generate", *flags, "x") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    assert ended.wait(5)


def test_ctrl_c_cancels_a_call(scripted: Any) -> None:
    began, gone = threading.Event(), threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        began.set()
        gone.wait(20)

    scripted.handlers["Generate"] = hang
    with start(scripted, "generate", "--json", "x") as process:
        assert began.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert gone.wait(5)


def test_reader_that_leaves(scripted: Any, wire: Any) -> None:
    """As in `understudy generate ... | head -c 1`: no traceback, and the call ends."""
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    with start(scripted, "generate", "x") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert ended.wait(5)
