"""What becomes of a generation's logits: the tokens and the text of its samples."""

from server.engine.answer import Progress
from server.engine.logits_processors import (
    Draw,
    TokenIdArray,
    distinct_tokens,
    logit_edits,
)
from server.engine.sequence import Sequence
from server.engine.text import Decode, TextStream
from server.types import (
    Delta,
    Finished,
    FinishedSample,
    FinishReason,
    Request,
    TokenLogprob,
)


class Sample:
    """One sample of a generation, token by token."""

    def __init__(
        self,
        generation: "Generation",
        prompt_tokens: TokenIdArray,
        *,
        max_tokens: int,
        eos_token_ids: frozenset[int],
        decode: Decode,
    ) -> None:
        request = generation.request
        self.generation = generation
        self.reason: FinishReason | None = None
        """Why it ended, once it has."""
        self._sequence = generation.sequences[0]
        self._sampling = request.sampling
        self._stopping = request.stopping
        self._max_tokens = max_tokens
        self._eos = eos_token_ids
        self._banned = () if request.stopping.ignore_eos else tuple(sorted(eos_token_ids))
        self._edits = logit_edits(request.sampling, prompt_tokens)
        self._text = TextStream(decode, request.stopping.stop)
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._token_ids)

    def draw(self) -> Draw:
        """How the next token is drawn."""
        position = len(self._token_ids)
        banned = self._banned if position < self._stopping.min_tokens else ()
        return Draw(self._sampling, position, banned, self._edits)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> Delta | None:
        """Takes the next token; returns what a stream shows of it."""
        generated = self._token_ids
        generated.append(token_id)
        if self._edits is not None:
            self._edits.push(token_id)
        sequence = self._sequence
        sequence.token_ids.append(token_id)
        sequence.logits_from = sequence.num_positions - 1
        if logprob is not None:
            self._logprobs.append(logprob)
        may_stop = len(generated) >= self._stopping.min_tokens
        is_eos = token_id in self._eos and not self._stopping.ignore_eos
        if is_eos:
            self.reason = FinishReason.EOS
        elif self._text.push(token_id, may_stop=may_stop):
            self.reason = FinishReason.STOP
        elif len(generated) >= self._max_tokens:
            self.reason = FinishReason.LENGTH
        if self.reason in (FinishReason.EOS, FinishReason.LENGTH) and self._text.flush(
            may_stop=may_stop
        ):
            self.reason = FinishReason.STOP
        if not self.generation.request.stream:
            return None
        text = self._text.take(final=self.reason is not None)
        return Delta(text, (token_id,), () if logprob is None else (logprob,))

    def finished(self) -> FinishedSample:
        """What it came to. Requires that it has ended."""
        assert self.reason is not None
        return FinishedSample(
            text=self._text.text,
            token_ids=tuple(self._token_ids),
            reason=self.reason,
            stop=self._text.matched,
            logprobs=tuple(self._logprobs),
        )


class Generation:
    """Grows the samples of one prompt."""

    def __init__(
        self,
        request: Request,
        progress: Progress,
        *,
        max_context: int,
        eos_token_ids: frozenset[int],
        decode: Decode,
    ) -> None:
        self.request = request
        self.progress = progress
        num_virtual = request.lease.num_virtual_tokens if request.lease else 0
        num_positions = num_virtual + len(request.prompt_token_ids)
        self.sequences: list[Sequence] = [
            Sequence(
                answer=self,
                order=(-request.priority, progress.number, 0),
                token_ids=list(request.prompt_token_ids),
                num_virtual=num_virtual,
                logits_from=num_positions - 1,
            )
        ]
        self._samples = [
            Sample(
                self,
                distinct_tokens(request.sampling, request.prompt_token_ids),
                # The last token's own position is never computed.
                max_tokens=min(request.stopping.max_tokens, max_context - num_positions + 1),
                eos_token_ids=eos_token_ids,
                decode=decode,
            )
        ]

    def samples_of(self, sequence: Sequence) -> list[Sample]:
        """Those whose next token is drawn from the logits of this sequence's last position."""
        return [self._samples[sequence.index]]

    def terminal(self) -> Finished | None:
        """The terminal event, once every sample has ended."""
        if any(sample.reason is None for sample in self._samples):
            return None
        num_tokens = sum(sample.num_tokens for sample in self._samples)
        return Finished(
            samples=tuple(sample.finished() for sample in self._samples),
            usage=self.progress.usage(self.request, num_tokens),
        )
