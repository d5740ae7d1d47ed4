"""From `structured_output` on the wire to a compiled grammar, beside the event loop."""

import asyncio
from concurrent.futures import Executor

from server.config import LimitsConfig
from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
from server.constraints.grammar import FIELD, Grammar
from server.errors import InvalidRequestError, QueueFullError
from server.types import Constraint
from understudy.v1 import generation_service_pb2

# Grammars that wait to be compiled: beyond it clients are told to come back.
_MAX_WAITING = 64
_RETRY_S = 1.0


def grammar_of(
    request: generation_service_pb2.GenerateRequest, limits: LimitsConfig
) -> Grammar | None:
    """The grammar that a request asks for. Raises InvalidRequestError, also for options that
    would end the text elsewhere than the grammar does."""
    if not request.HasField("structured_output"):
        return None
    wanted = request.structured_output
    form = wanted.WhichOneof("constraint")
    if form is None:
        raise InvalidRequestError(FIELD, "is empty; set json_schema, regex, choice or grammar")
    stopping = request.stopping
    for name in ("min_tokens", "stop", "ignore_eos"):
        if getattr(stopping, name):
            raise InvalidRequestError(
                f"stopping.{name}", f"cannot be combined with {FIELD}, which says where texts end"
            )
    size = wanted.ByteSize()
    if size > limits.max_constraint_bytes:
        raise InvalidRequestError(
            f"{FIELD}.{form}", f"has {size} bytes, at most {limits.max_constraint_bytes}"
        )
    if form == "json_schema":
        return grammar.json_schema(wanted.json_schema)
    if form == "regex":
        return grammar.regex(wanted.regex)
    if form == "choice":
        return grammar.choice(wanted.choice.choices)
    return grammar.ebnf(wanted.grammar)


class ConstraintDesk:
    """Gives compiled grammars. Requests that wait for the same one share its compilation."""

    def __init__(self, compiler: GrammarCompiler, executor: Executor) -> None:
        """`executor` compiles; its own, so that a grammar never holds up anything else."""
        self._compiler = compiler
        self._executor = executor
        self._waiting: dict[Grammar, asyncio.Future[Constraint]] = {}

    async def acquire(self, wanted: Grammar) -> Constraint:
        """The compiled grammar.

        Raises InvalidRequestError naming the field, UnsupportedError, QueueFullError.
        """
        found = self._compiler.find(wanted)
        if found is not None:
            return found
        compiling = self._waiting.get(wanted)
        if compiling is None:
            if len(self._waiting) >= _MAX_WAITING:
                raise QueueFullError(_MAX_WAITING, _RETRY_S)
            loop = asyncio.get_running_loop()
            compiling = loop.run_in_executor(self._executor, self._compiler.compile, wanted)
            self._waiting[wanted] = compiling
            compiling.add_done_callback(lambda done: self._forget(wanted, done))
        # Whoever gives up must not stop the compilation for the others.
        return await asyncio.shield(compiling)

    def _forget(self, wanted: Grammar, done: "asyncio.Future[Constraint]") -> None:
        del self._waiting[wanted]
        if not done.cancelled():
            # Marks the exception as seen, where every waiter has gone.
            done.exception()
