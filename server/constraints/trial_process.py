"""The process in which grammars are tried: a program of its own, run by `trial.py`.

Native code that compiles a grammar can run for hours, take all memory or overflow its stack, and a
thread in it cannot be stopped. So each grammar is compiled in a child process first, under limits.
The first line on standard input is a JSON object with `tokenizer`, `num_tokens`, `eos_token` and
`limits`; every other line is a job (`grammar`, `seconds` of processor time, `num_bytes`). Each line
is answered by one: `error` (empty if the grammar is good) and `memory_bytes`.

Needs llguidance and the standard library alone, so that it starts fast and forks cheaply.
"""

import json
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# A grammar that fits an eighth of a thread's usual stack is safe in the server's threads.
_STACK_BYTES = 1 << 20
# Follows a grammar this far, since not all of its work is done when it is compiled.
_NUM_STEPS = 24
# Below the server, which shares the machine.
_NICENESS = 5
# Of a message: the library quotes grammars, which may be long.
_MAX_LINES, _MAX_LINE_CHARS = 20, 200


def main() -> None:
    """Answers jobs until standard input ends."""
    os.nice(_NICENESS)
    settings = json.loads(sys.stdin.readline())
    tokenizer = LLTokenizer(
        settings["tokenizer"], n_vocab=settings["num_tokens"], eos_token=settings["eos_token"]
    )
    limits = LLParserLimits(**settings["limits"])
    print(json.dumps({"error": "", "memory_bytes": 0}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        work = partial(_try, tokenizer, limits, job["grammar"])
        answer = _in_child(work, job["seconds"], job["num_bytes"])
        print(json.dumps(answer), flush=True)


def _in_child(work: Callable[[], str], seconds: float, num_bytes: int) -> dict[str, Any]:
    """Runs `work`, which returns an error or "", in a fork with these limits."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            _limit(seconds, num_bytes)
            threading.stack_size(_STACK_BYTES)
            thread = threading.Thread(target=_report, args=(work, writer))
            thread.start()
            thread.join()
        finally:
            # Never back into the loop, which is the parent's.
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(process, 0)
    if text:
        answer = json.loads(text)
        assert isinstance(answer, dict)
        return answer
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended_by == signal.SIGPROF:
        return _refusal(f"takes more than {seconds:g} s to compile")
    if ended_by == signal.SIGSEGV:
        return _refusal("is too deeply nested")
    return _refusal(f"takes more than {num_bytes >> 20} MiB of memory to compile")


def _report(work: Callable[[], str], pipe: int) -> None:
    """Runs `work` and writes the answer to a pipe."""
    before = _peak_bytes()
    try:
        error = work()
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
    lines = [line[:_MAX_LINE_CHARS] for line in error.split("\n")[:_MAX_LINES]]
    memory_bytes = max(0, _peak_bytes() - before)
    os.write(pipe, json.dumps({"error": "\n".join(lines), "memory_bytes": memory_bytes}).encode())


def _limit(seconds: float, num_bytes: int) -> None:
    """Puts this process under limits whose breach ends it without a word."""
    # What Rust says when it aborts is of no use to the server's operator.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        address_space = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + num_bytes,) * 2)


def _refusal(error: str) -> dict[str, Any]:
    return {"error": error, "memory_bytes": 0}


def _try(tokenizer: LLTokenizer, limits: LLParserLimits, grammar: str) -> str:
    """Compiles a grammar and follows it for a few tokens; returns why it cannot be used, or ""."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        return matcher.get_error() or "no text can be generated"
    end = 1 << tokenizer.eos_token
    allowed = int.from_bytes(mask, "little") & ~end
    if not allowed:
        return "only the empty text matches"
    chance = random.Random(0)
    for _ in range(_NUM_STEPS):
        shift = chance.randrange(tokenizer.vocab_size)
        upper = allowed >> shift << shift
        lowest = upper or allowed
        token_id = (lowest & -lowest).bit_length() - 1
        if not matcher.consume_token(token_id) or matcher.is_stopped():
            break
        allowed = int.from_bytes(matcher.compute_bitmask(), "little") & ~end
        if not allowed:
            break
    # The library tells of work that it gave up while compiling only once a token is taken.
    return matcher.get_error()


def _peak_bytes() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
