"""Pretraining text: reading, de-duplication, hold-out, tokenizer, token files.

A corpus folder holds one `<source>.jsonl.gz` per source, each line an object with `text`.
Generated text comes from a factory named in the recipe (`package.module:function`), called with
`(seed, num_documents)`.
"""

import gzip
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trainer.errors import DataError
from trainer.keep_out import KeptOut
from trainer.pretrain_config import DataConfig, SourceConfig

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
END = "<|end|>"  # of a turn
CONTROL_TOKENS = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", END)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LATE = "generated_late"  # the source that DataConfig.late makes; its weight is its share
HOLDOUT_BUCKETS = 1000
NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class SourceCounts:
    """What was taken from one source. `sha256` covers its kept documents in order."""

    source: str
    num_documents: int
    num_duplicates: int
    num_kept_out: int
    num_train_tokens: int
    num_validation_tokens: int
    num_validation_bytes: int
    weight: float
    sha256: str


@dataclass(frozen=True)
class _Taken:
    """What is read or made of one source, before it is held out and encoded."""

    name: str
    weight: float
    texts: list[str]
    num_duplicates: int
    num_kept_out: int


@dataclass(frozen=True)
class SourceTokens:
    """Tokens of one source: train tokens on disk, validation tokens, and their bytes of text."""

    name: str
    weight: float
    train: NDArray[np.uint16]
    validation: NDArray[np.uint16]
    num_validation_bytes: int


def read_source(folder: Path, source: SourceConfig) -> Iterator[str]:
    """Yields the texts of one source, at most `source.max_documents`.

    Raises:
        DataError: the file is missing or a line is not an object with a `text` string.
    """
    path = folder / f"{source.name}.jsonl.gz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; the recipe's data.sources names {source.name!r}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if source.max_documents is not None and number > source.max_documents:
                return
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: not an object with 'text'") from error
            yield text


def generate(factory: str, seed: int, num_documents: int) -> Iterator[str]:
    """Calls the generator named `package.module:function`."""
    module_name, _, function_name = factory.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"factory {factory!r} of the recipe's data cannot be imported") from error
    yield from function(seed, num_documents)


def fingerprint(text: str) -> bytes:
    """Equal for texts that differ only in case, punctuation and spacing."""
    return hashlib.sha1(NOT_A_WORD.sub(" ", text.lower()).strip().encode()).digest()


def unique(texts: Iterable[str], seen: set[bytes]) -> tuple[list[str], int]:
    """The texts not met before, and how many were dropped. Adds to `seen`."""
    kept: list[str] = []
    num_dropped = 0
    for text in texts:
        key = fingerprint(text)
        if key in seen:
            num_dropped += 1
        else:
            seen.add(key)
            kept.append(text)
    return kept, num_dropped


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to validation: decided by its text alone."""
    bucket = int.from_bytes(fingerprint(text)[:4], "big") % HOLDOUT_BUCKETS
    return bucket < share * HOLDOUT_BUCKETS


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the control tokens first.

    Encoding with `add_special_tokens=True` puts `<|bos|>` in front and nothing at the end. Any
    UTF-8 text decodes to itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A $B",
                special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(CONTROL_TOKENS[3:]),
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> NDArray[np.uint16]:
    """All documents in a row: `<|bos|>` text `<|eos|>` for each."""
    if tokenizer.vocab_size > np.iinfo(np.uint16).max:
        raise DataError(f"{tokenizer.vocab_size} token ids do not fit in 16 bits")
    ids: list[int] = []
    for start in range(0, len(texts), 1000):
        for document in tokenizer(texts[start : start + 1000])["input_ids"]:
            ids.extend(document)
            ids.append(tokenizer.eos_token_id)
    return np.array(ids, dtype=np.uint16)


def prepare(
    config: DataConfig,
    folder: Path,
    work: Path,
    vocab_size: int,
    context: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
    keep_out: KeptOut | None = None,
) -> None:
    """Writes the tokenizer, one train and one validation token file per source, `data.json`.

    Everything goes to `work`; `data.json` comes last and marks the work as done. A tokenizer is
    trained if none is given. Documents that share a passage with `keep_out` are left out.
    """
    taken: list[_Taken] = []
    seen: set[bytes] = set()

    def take(name: str, weight: float, found: Iterable[str]) -> None:
        kept, num_duplicates = unique(found, seen)
        clean = [text for text in kept if not (keep_out and keep_out.meets(text))]
        taken.append(_Taken(name, weight, clean, num_duplicates, len(kept) - len(clean)))

    for source in config.sources:
        take(source.name, source.weight, read_source(folder, source))
    for made in config.generated:
        take(made.name, made.weight, generate(made.factory, made.seed, made.num_documents))
    in_tokenizer = len(taken)
    if (late := config.late) is not None:
        take(LATE, late.share, generate(late.factory, late.seed, late.num_documents))

    work.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        sample = [
            text
            for each in taken[:in_tokenizer]
            for text in limit_bytes(each.texts, config.tokenizer_bytes_per_source)
        ]
        tokenizer = train_tokenizer(sample, vocab_size, context)
    tokenizer.save_pretrained(work / "tokenizer")
    counts: list[SourceCounts] = []
    for each in taken:
        held, rest = split(each.texts, config)
        train, validation = encode(tokenizer, rest), encode(tokenizer, held)
        if len(train) <= context:
            raise DataError(f"source {each.name!r} has only {len(train)} training tokens")
        np.save(work / f"{each.name}.train.npy", train)
        np.save(work / f"{each.name}.validation.npy", validation)
        whole = b"".join(text.encode() + b"\0" for text in each.texts)
        counts.append(
            SourceCounts(
                source=each.name,
                num_documents=len(each.texts),
                num_duplicates=each.num_duplicates,
                num_kept_out=each.num_kept_out,
                num_train_tokens=len(train),
                num_validation_tokens=len(validation),
                num_validation_bytes=sum(len(text.encode()) for text in held),
                weight=each.weight,
                sha256=hashlib.sha256(whole).hexdigest(),
            )
        )
    body = json.dumps([asdict(count) for count in counts], indent=2)
    (work / "data.json").write_text(body + "\n")


def split(texts: list[str], config: DataConfig) -> tuple[list[str], list[str]]:
    """Held-out documents, thinned to the byte limit, and those to train on."""
    held = [text for text in texts if is_held_out(text, config.validation_share)]
    rest = [text for text in texts if not is_held_out(text, config.validation_share)]
    return limit_bytes(held, config.validation_bytes_per_source), rest


def limit_bytes(texts: list[str], num_bytes: int) -> list[str]:
    """The texts spread evenly over the list that come to about `num_bytes` bytes."""
    total = sum(len(text.encode()) for text in texts)
    step = max(1, -(-total // num_bytes))
    return texts[::step]


def load(work: Path) -> list[SourceTokens]:
    """Opens what `prepare` wrote; train tokens stay on disk (memory-mapped)."""
    counts = json.loads((work / "data.json").read_text())
    return [
        SourceTokens(
            name=count["source"],
            weight=count["weight"],
            train=np.load(work / f"{count['source']}.train.npy", mmap_mode="r"),
            validation=np.load(work / f"{count['source']}.validation.npy"),
            num_validation_bytes=count["num_validation_bytes"],
        )
        for count in counts
    ]


def plan(
    sources: list[SourceTokens], chunk: int, num_chunks: int, seed: int, late_from: int = 0
) -> NDArray[np.int64]:
    """Which chunk is read when: `[num_chunks, 2]`, source index and chunk index.

    Sources are drawn by weight. Each source is gone through in a fresh random order every epoch,
    so a prefix of the plan is as mixed as the whole. The late source, if any, then takes its
    share of the places from `late_from` on.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([0.0 if source.name == LATE else source.weight for source in sources])
    drawn = rng.choice(len(sources), size=num_chunks, p=weights / weights.sum())
    order = np.empty((num_chunks, 2), dtype=np.int64)
    order[:, 0] = drawn
    for index, source in enumerate(sources):
        places = np.flatnonzero(drawn == index)
        if source.name == LATE:
            taken = np.flatnonzero(rng.random(num_chunks) < source.weight)
            places = taken[taken >= late_from]
            order[places, 0] = index
        size = (len(source.train) - 1) // chunk
        num_epochs = -(-len(places) // size)
        epochs = [rng.permutation(size) for _ in range(num_epochs)]
        order[places, 1] = np.concatenate([*epochs, np.empty(0, np.int64)])[: len(places)]
    return order
