"""A scripted server in this process, and tasks small enough to work out by hand."""

import hashlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.evalsuite import canned
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import adapter_service_pb2_grpc as adapter_grpc
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import generation_service_pb2_grpc as generation_grpc
from understudy.v1 import types_pb2 as types_pb

VERSIONS = {"gold": "aaaa1111", "half": "bbbb2222"}


def is_lucky(text: str) -> bool:
    """A coin that depends on the text alone."""
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


@dataclass
class ScriptedServer(
    generation_grpc.GenerationServiceServicer, adapter_grpc.AdapterServiceServicer
):
    """Answers from a table of right completions.

    Adapter `gold` is always right and `half` for lucky inputs; the base is right for lucky inputs
    if its prompt has worked examples, else it never is. A token is a word.
    """

    gold: dict[str, str] = field(default_factory=dict)
    max_context_tokens: int = 1000
    fail_after: int | None = None
    """Answers before every further one fails with INTERNAL."""
    die_after: int | None = None
    """Answers before the server goes away."""
    unload_after: int | None = None
    """Answers before its adapters are gone."""
    fingerprint: str = "f" * 64
    die: Callable[[], object] = lambda: None
    delay_s: float = 0.0
    logprob: float = -1.0
    """Of the choice taken; others have -2."""
    requests: list[Any] = field(default_factory=list)
    num_tokenized: int = 0
    in_flight: list[str] = field(default_factory=list)
    seen_together: set[frozenset[str]] = field(default_factory=set)
    address: str = ""
    _lock: Any = field(default_factory=threading.Lock)

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        return generation_pb.GetModelInfoResponse(
            base_model="scripted",
            base_fingerprint=self.fingerprint,
            quantization="nf4",
            max_context_tokens=self.max_context_tokens,
            max_batch_size=4,
        )

    def GetAdapter(self, request: Any, context: Any) -> Any:
        name = request.adapter.partition("@")[0]
        if name not in VERSIONS:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"no adapter '{name}'; close names: gold, half"
            )
        adapter = types_pb.Adapter(name=name, version=VERSIONS[name], method="lora")
        return adapter_pb.GetAdapterResponse(adapter=adapter)

    def Tokenize(self, request: Any, context: Any) -> Any:
        with self._lock:
            self.num_tokenized += 1
        words = request.input.raw_prompt.split()
        return generation_pb.TokenizeResponse(token_ids=range(len(words)), tokens=words)

    def BatchGenerate(self, requests: Any, context: Any) -> Any:
        """Answers as they finish, up to eight at a time."""
        answers: queue.Queue[Any] = queue.Queue()

        def answer(asked: Any) -> None:
            try:
                response = self._generate(asked.request)
                answers.put(generation_pb.BatchGenerateResponse(key=asked.key, response=response))
            except _Abort as abort:
                error = generation_pb.BatchError(code=abort.code.value[0], message=abort.message)
                answers.put(generation_pb.BatchGenerateResponse(key=asked.key, error=error))

        with ThreadPoolExecutor(max_workers=8) as pool, ThreadPoolExecutor(1) as reader:
            reader.submit(self._submit_all, pool, answer, requests, answers)
            while (found := answers.get()) is not None:
                yield found

    @staticmethod
    def _submit_all(pool: Any, answer: Any, requests: Any, answers: Any) -> None:
        pending = []
        try:
            for asked in requests:
                pending.append(pool.submit(answer, asked))
        except grpc.RpcError:
            pass
        for one in pending:
            one.result()
        answers.put(None)

    def _generate(self, request: Any) -> Any:
        with self._answering(request):
            right = self._right(request)
            text = right[1] if right[0] else "no idea"
            return generation_pb.GenerateResponse(
                generations=[types_pb_generation(text)],
                usage=types_pb.Usage(num_prompt_tokens=7, num_completion_tokens=2, total_s=1.0),
            )

    def Score(self, request: Any, context: Any) -> Any:
        try:
            with self._answering(request):
                is_right, gold = self._right(request)
                texts = [continuation.text for continuation in request.continuations]
        except _Abort as abort:
            context.abort(abort.code, abort.message)
        return generation_pb.ScoreResponse(
            scores=[
                generation_pb.ContinuationScore(
                    logprob=self.logprob if (text == gold) == is_right else -2.0, num_tokens=1
                )
                for text in texts
            ]
        )

    def _right(self, request: Any) -> tuple[bool, str]:
        name = request.adapter.partition("@")[0]
        text = request.input.raw_prompt or request.input.text
        asked = text.rpartition("\n\n")[2]
        source = next((key for key in self.gold if key in asked), "")
        shots = "\n\n" in text
        is_right = name == "gold" or ((name == "half" or shots) and is_lucky(source))
        return is_right, self.gold[source]

    def _answering(self, request: Any) -> "_Answering":
        return _Answering(self, request)


@dataclass
class _Abort(Exception):
    """A request fails with this status."""

    code: grpc.StatusCode
    message: str


def types_pb_generation(text: str) -> Any:
    return generation_pb.Generation(text=text, finish_reason=types_pb.FINISH_REASON_EOS)


@dataclass
class _Answering:
    """Books one request in and out, and fails it where the script says so."""

    server: ScriptedServer
    request: Any

    def __enter__(self) -> None:
        server, request = self.server, self.request
        name = request.adapter.partition("@")[0] or "base"
        with server._lock:
            server.requests.append(request)
            server.in_flight.append(name)
            server.seen_together.add(frozenset(server.in_flight))
            num = len(server.requests)
            failing = server.fail_after is not None and num > server.fail_after
            unloaded = server.unload_after is not None and num > server.unload_after
            if server.die_after == num:
                server.die()
        if server.delay_s:
            time.sleep(server.delay_s)
        num_tokens = len((request.input.raw_prompt or request.input.text).split())
        code, message = None, ""
        if failing:
            code, message = grpc.StatusCode.INTERNAL, "internal error"
        elif unloaded and name != "base":
            code, message = grpc.StatusCode.NOT_FOUND, f"no adapter '{request.adapter}'"
        elif num_tokens > server.max_context_tokens:
            code = grpc.StatusCode.INVALID_ARGUMENT
            message = f"prompt has {num_tokens} tokens, at most {server.max_context_tokens} fit"
        if code is not None:
            with server._lock:
                server.in_flight.remove(name)
            raise _Abort(code, message)

    def __exit__(self, *error: object) -> None:
        with self.server._lock:
            self.server.in_flight.remove(self.request.adapter.partition("@")[0] or "base")


@pytest.fixture
def start_scripted() -> Iterator[Callable[[], ScriptedServer]]:
    """Return a function that starts scripted servers; they end with the test."""
    started = []

    def start() -> ScriptedServer:
        scripted = ScriptedServer()  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED
        served = grpc.server(ThreadPoolExecutor(max_workers=32))
        generation_grpc.add_GenerationServiceServicer_to_server(scripted, served)
        adapter_grpc.add_AdapterServiceServicer_to_server(scripted, served)
        scripted.address = f"127.0.0.1:{served.add_insecure_port('127.0.0.1:0')}"
        scripted.die = lambda: served.stop(grace=None)
        served.start()
        started.append(served)
        return scripted

    yield start
    for served in started:
        served.stop(grace=None).wait()


@pytest.fixture
def server(start_scripted: Callable[[], ScriptedServer]) -> ScriptedServer:
    return start_scripted()


@pytest.fixture
def canned_address() -> Iterator[str]:
    command = [sys.executable, "-m", canned.__name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield f"127.0.0.1:{child.stdout.readline().strip()}"
        child.kill()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class TaskFiles:
    """Two tasks on disk, `rewrite` (generate) and `mood` (choice), with their right answers."""

    rewrite: Path
    mood: Path
    gold: dict[str, str]


@pytest.fixture
def make_tasks(tmp_path: Path) -> Callable[..., TaskFiles]:
    def make(num_test: int = 12, num_train: int = 10) -> TaskFiles:
        gold = {}
        for name, completion in (("rewrite", rewritten), ("mood", mood)):
            for split, count in (("test", num_test), ("train", num_train)):
                rows = []
                for index in range(count):
                    text = f"{name}-{split}-{index}."
                    rows.append({"input": text, "completion": completion(index)})
                    gold[text] = completion(index)
                write_jsonl(tmp_path / f"{name}.{split}.jsonl", rows)
        rewrite = tmp_path / "rewrite.yaml"
        rewrite.write_text(
            "name: rewrite\ndata: rewrite.test.jsonl\ntrain: rewrite.train.jsonl\n"
            'template: "Rewrite: {{ input }}\\nOut:"\nmetrics: [exact_match, rougeL, bleu]\n'
            'max_tokens: 8\nstop: ["\\n"]\n'
        )
        moods = tmp_path / "mood.yaml"
        moods.write_text(
            "name: mood\ndata: mood.test.jsonl\ntrain: mood.train.jsonl\n"
            'template: "Text: {{ input }}\\nMood:"\nmode: choice\n'
            "choices: [happy, sad]\nmetrics: [accuracy]\n"
        )
        return TaskFiles(rewrite, moods, gold)

    return make


def rewritten(index: int) -> str:
    return f"the {index} red cats sat on mat number {index}"


def mood(index: int) -> str:
    return "happy" if index % 3 else "sad"
