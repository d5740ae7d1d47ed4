"""What becomes of a generation's logits: the tokens and the text of its samples."""

from collections.abc import Sequence as Seq
from dataclasses import replace

import torch

from server.engine.answer import Progress, virtual_tokens
from server.engine.device_sampler import draw_on_device, takes
from server.engine.logits_processors import (
    Draw,
    TokenIdArray,
    distinct_tokens,
    logit_edits,
)
from server.engine.logprobs import log_probabilities, target_logprobs, token_logprobs
from server.engine.sampler import draw, sample_seed
from server.engine.sequence import Sequence
from server.engine.text import Decode, TextStream
from server.errors import InvalidRequestError
from server.kernels import Sampler
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
        index: int,
        prompt_tokens: TokenIdArray,
        *,
        max_tokens: int,
        eos_token_ids: frozenset[int],
        decode: Decode,
    ) -> None:
        request = generation.request
        self.generation = generation
        self.index = index
        self.reason: FinishReason | None = None
        """Why it ended, once it has."""
        self.sequence: Sequence | None = None
        """Its own; None while the samples share the prompt's."""
        self.token_ids: list[int] = []
        """Those generated so far."""
        self.error: InvalidRequestError | None = None
        """Why it cannot go on: its grammar."""
        self._sampling = replace(request.sampling, seed=sample_seed(request.sampling.seed, index))
        self._stopping = request.stopping
        self._max_tokens = max_tokens
        self._eos = eos_token_ids
        self._banned = () if request.stopping.ignore_eos else tuple(sorted(eos_token_ids))
        self._edits = logit_edits(request.sampling, prompt_tokens)
        constraint = request.constraint
        self._matcher = constraint.matcher() if constraint is not None else None
        # The text that the grammar speaks of: decoders may drop a leading space.
        decode = constraint.decode if constraint is not None else decode
        self._text = TextStream(decode, request.stopping.stop)
        self._logprobs: list[TokenLogprob] = []

    def draw(self) -> Draw:
        """How the next token is drawn. May set `error`, and then it must not be."""
        position = len(self.token_ids)
        banned = self._banned if position < self._stopping.min_tokens else ()
        allowed = None
        if self._matcher is not None:
            try:
                allowed = self._matcher.allowed()
            except InvalidRequestError as error:
                self.error = error
        return Draw(self._sampling, position, banned, self._edits, allowed)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> Delta | None:
        """Takes the next token; returns what a stream shows of it. May set `error`."""
        generated = self.token_ids
        generated.append(token_id)
        if self._edits is not None:
            self._edits.push(token_id)
        if self.sequence is not None:
            self.sequence.token_ids.append(token_id)
            self.sequence.logits_from = self.sequence.num_positions - 1
        if logprob is not None:
            self._logprobs.append(logprob)
        may_stop = len(generated) >= self._stopping.min_tokens
        is_eos = token_id in self._eos and not self._stopping.ignore_eos
        if is_eos:
            self.reason = FinishReason.EOS
        elif self._text.push(token_id, may_stop=may_stop):
            self.reason = FinishReason.STOP
        elif self._completes(token_id):
            self.reason = FinishReason.EOS
        elif len(generated) >= self._max_tokens:
            self.reason = FinishReason.LENGTH
        if self.reason in (FinishReason.EOS, FinishReason.LENGTH) and self._text.flush(
            may_stop=may_stop
        ):
            self.reason = FinishReason.STOP
        if not self.generation.request.stream:
            return None
        text = self._text.take(final=self.reason is not None)
        return Delta(text, (token_id,), () if logprob is None else (logprob,), self.index)

    def _completes(self, token_id: int) -> bool:
        """Takes a token of text on to the grammar; True if no text can follow it."""
        if self._matcher is None:
            return False
        try:
            self._matcher.accept(token_id)
            return self._matcher.complete
        except InvalidRequestError as error:
            self.error = error
            return False

    def finished(self) -> FinishedSample:
        """What it came to. Requires that it has ended."""
        assert self.reason is not None
        return FinishedSample(
            text=self._text.text,
            token_ids=tuple(self.token_ids),
            reason=self.reason,
            stop=self._text.matched,
            logprobs=tuple(self._logprobs),
        )


class Generation:
    """Grows the samples of one prompt.

    The prompt runs once. Several samples draw their first tokens from its last logits; then each
    goes on in a sequence of its own, which begins with the blocks of the prompt's.
    """

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
        self._num_virtual, self._num_given = virtual_tokens(request)
        num_positions = self._num_virtual + len(request.prompt_token_ids)
        prompt = self._sequence(0, list(request.prompt_token_ids))
        if request.num_prompt_logprobs is not None:
            # The last virtual token's logits are those of the first text token, where it has any.
            prompt.logits_from = max(self._num_given, self._num_virtual - 1)
        self.sequences = [prompt]
        prompt_tokens = distinct_tokens(request.sampling, request.prompt_token_ids)
        self._samples = [
            Sample(
                self,
                index,
                prompt_tokens,
                # The last token's own position is never computed.
                max_tokens=min(request.stopping.max_tokens, max_context - num_positions + 1),
                eos_token_ids=eos_token_ids,
                decode=decode,
            )
            for index in range(request.num_samples)
        ]
        if request.num_samples == 1:
            self._samples[0].sequence = prompt
        self._prompt_logprobs: list[TokenLogprob] = []

    def accept_prompt(self, sequence: Sequence, logits: torch.Tensor) -> bool:
        """Takes the next rows of logits [n, V] of the prompt, those of its last token left out;
        False if not finite."""
        if not bool(logits.amax(dim=-1).isfinite().all()):
            return False
        first = sequence.logits_from + 1 - self._num_virtual
        targets = self.request.prompt_token_ids[first : first + len(logits)]
        num_top = self.request.num_prompt_logprobs or 0
        self._prompt_logprobs += target_logprobs(logits, targets, num_top)
        # A sequence that loses its blocks needs no logits again for what is known already.
        sequence.logits_from += len(logits)
        return True

    def samples_of(self, sequence: Sequence) -> list[Sample]:
        """Those whose next token is drawn from the logits of this sequence's last position."""
        sample = self._samples[sequence.index]
        return [sample] if sample.sequence is sequence else self._samples

    def fork(self) -> list[Sequence]:
        """A sequence for each sample that goes on, nothing computed yet. Requires several samples
        and their first tokens."""
        self.sequences = []
        for sample in self._samples:
            if sample.reason is None:
                token_ids = [*self.request.prompt_token_ids, *sample.token_ids]
                sample.sequence = self._sequence(sample.index, token_ids)
                self.sequences.append(sample.sequence)
        return self.sequences

    def terminal(self) -> Finished | None:
        """The terminal event, once every sample has ended."""
        if any(sample.reason is None for sample in self._samples):
            return None
        num_tokens = sum(len(sample.token_ids) for sample in self._samples)
        return Finished(
            samples=tuple(sample.finished() for sample in self._samples),
            usage=self.progress.usage(self.request, num_tokens),
            prompt_logprobs=tuple(self._prompt_logprobs),
        )

    def _sequence(self, index: int, token_ids: list[int]) -> Sequence:
        return Sequence(
            answer=self,
            order=(-self.request.priority, self.progress.number, index),
            token_ids=token_ids,
            num_virtual=self._num_virtual,
            num_given=self._num_given,
            logits_from=self._num_virtual + len(token_ids) - 1,
            index=index,
        )


def draw_next(
    samples: Seq[Sample], logits: torch.Tensor, sampler: Sampler | None = None
) -> list[tuple[int | None, TokenLogprob | None]]:
    """Each sample's next token, drawn from its row of `logits` [N, V], which it overwrites, with
    its log-probability where asked for. None where the row is not finite."""
    wanted = [sample.generation.request.num_logprobs for sample in samples]
    if sampler is None:
        return _draw_plainly(samples, logits, wanted)
    left = [i for i, count in enumerate(wanted) if not takes(logits.shape[1], count)]
    if len(left) == len(samples):
        return _draw_plainly(samples, logits, wanted)
    if not left:
        return draw_on_device(sampler, logits, [sample.draw() for sample in samples], wanted)
    # One that asks for more than the device's sampler gives does not slow down the others.
    found: dict[int, tuple[int | None, TokenLogprob | None]] = {}
    taken = [i for i in range(len(samples)) if i not in left]
    own, draws = [wanted[i] for i in taken], [samples[i].draw() for i in taken]
    found |= zip(taken, draw_on_device(sampler, logits[taken], draws, own), strict=True)
    rest = [samples[i] for i in left], logits[left], [wanted[i] for i in left]
    found |= zip(left, _draw_plainly(*rest), strict=True)
    return [found[i] for i in range(len(samples))]


def _draw_plainly(
    samples: Seq[Sample], logits: torch.Tensor, wanted: Seq[int | None]
) -> list[tuple[int | None, TokenLogprob | None]]:
    asked = [i for i, count in enumerate(wanted) if count is not None]
    logprobs = log_probabilities(logits[asked]) if asked else None
    token_ids = draw(logits, [sample.draw() for sample in samples])
    found: list[TokenLogprob | None] = [None] * len(samples)
    if logprobs is not None:
        num_top = max(wanted[i] or 0 for i in asked)
        entries = token_logprobs(logprobs, [token_ids[i] or 0 for i in asked], num_top)
        for i, entry in zip(asked, entries, strict=True):
            # Each gets as many as it asked for, whatever its neighbours asked for.
            found[i] = replace(entry, top=entry.top[: wanted[i]])
    return list(zip(token_ids, found, strict=True))
