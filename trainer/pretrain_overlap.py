"""How many test items share a passage with pretraining text.

Run it as `python -m trainer.pretrain_overlap SETS --work WORK --out FILE`. The files are those that
`pretrain --keep-out SETS` keeps out. An item is a line of a .jsonl, .tsv or .txt file, a row of a
.csv file (column names are such a line or row, too), or an element of the lists in a .json file. A
passage is that of `trainer.keep_out`.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from trainer import corpus
from trainer.errors import DataError, InputError
from trainer.keep_out import NUM_WORDS, KeptOut, files_of, passages, strings
from trainer.pretrain_config import SourceConfig


def items_of(path: Path) -> Iterator[list[str]]:
    """The texts of each item of a file."""
    if path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        lists = value.values() if isinstance(value, dict) else [value]
        for items in lists:
            yield from (list(strings(item)) for item in items if isinstance(items, list))
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        if path.suffix == ".csv":  # a quoted field may have several lines
            yield from ([" ".join(row)] for row in csv.reader(lines))
            return
        for line in lines:
            yield list(strings(json.loads(line))) if path.suffix == ".jsonl" else [line]


def training_texts(work: Path) -> Iterator[str]:
    """The documents that a folder of `corpus.prepare` holds for training, decoded."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    for source in corpus.load(work):
        begins = np.flatnonzero(source.train == tokenizer.bos_token_id)
        bounds = list(zip(begins, [*begins[1:], len(source.train)], strict=True))
        for first in range(0, len(bounds), 1000):
            ids = [source.train[b + 1 : e - 1].tolist() for b, e in bounds[first : first + 1000]]
            yield from tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)


def corpus_texts(works: Sequence[Path], folder: Path) -> Iterator[str]:
    """The corpus' own documents of every source of the stages that is in the folder."""
    found = (source.name for work in works for source in corpus.load(work))
    for name in dict.fromkeys(found):
        if (folder / f"{name}.jsonl.gz").is_file():
            yield from corpus.read_source(folder, SourceConfig(name, 1.0))


def overlap(sets: Path, texts: dict[str, Iterable[str]]) -> dict[str, Any]:
    """By folder below `sets`: items, those long enough, and those with a passage of each text.

    Raises:
        DataError: what `files_of` raises, or a file that cannot be read as its name says.
    """
    paths = files_of(sets)
    known = {name: KeptOut(found) for name, found in texts.items()}
    counts: dict[str, dict[str, int]] = {}
    for path in paths:
        name = path.relative_to(sets).parent.as_posix()
        found = counts.setdefault(name, dict.fromkeys(("items", "long_enough", *known), 0))
        try:
            for item in items_of(path):
                found["items"] += 1
                found["long_enough"] += any(len(passages(text)) for text in item)
                for label, kept in known.items():
                    found[label] += any(kept.meets(text) for text in item)
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path}: {error}") from error
    return {"num_words": NUM_WORDS, "sets": counts}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the counts as JSON; returns the exit code, 2 for what cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.pretrain_overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sets", type=Path, help="folder with the test sets")
    parser.add_argument("--work", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--corpus", type=Path, help="look in the corpus as published, too")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(argv)
    texts: dict[str, Iterable[str]] = {
        "in_training": (text for work in options.work for text in training_texts(work))
    }
    if options.corpus is not None:
        texts["in_corpus"] = corpus_texts(options.work, options.corpus)
    try:
        found = overlap(options.sets, texts)
    except (InputError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
