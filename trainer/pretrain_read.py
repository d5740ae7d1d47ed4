"""Which training tokens a run of pretraining has read so far.

Run it as `python -m trainer.pretrain_read RECIPE --work WORK --out FILE`. The order of the data is
planned by seed, so recipe and number of steps tell. A token read in several epochs is given once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from trainer import corpus
from trainer.errors import DataError, InputError
from trainer.pretrain_config import Recipe, read_recipe
from trainer.pretrain_export import read_metrics


def read_tokens(recipe: Recipe, work: Path) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """The tokens read [T], and where a document or a piece of one begins [T].

    Raises:
        DataError: `work` has no record of a step, or a source has none of the text planned for.
    """
    sources, context = corpus.load(work), recipe.model.context
    bos = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").bos_token_id
    path = work / "metrics.jsonl"
    steps = [line["step"] for line in read_metrics(path)] if path.is_file() else []
    if not steps:
        raise DataError(f"{path}: no step is recorded")
    per_step = recipe.train.chunks_per_step
    late_from = recipe.data.late.from_step * per_step if recipe.data.late else 0
    order = corpus.plan(
        sources, context, recipe.train.max_steps * per_step, recipe.seed, late_from
    )[: max(steps) * per_step]
    tokens: list[NDArray[np.uint16]] = []
    begins: list[NDArray[np.bool_]] = []
    for index, source in enumerate(sources):
        chunks = np.unique(order[order[:, 0] == index, 1])
        places = (chunks[:, None] * context + np.arange(context)).ravel()
        found = np.asarray(source.train[places])
        tokens.append(found)
        begins.append((found == bos) | (np.diff(places, prepend=-2) != 1))
    return np.concatenate(tokens), np.concatenate(begins)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes `tokens` and `begins` as .npz; returns the exit code, 2 for what cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.pretrain_read",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="the recipe that was run")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    options = parser.parse_args(argv)
    try:
        tokens, begins = read_tokens(read_recipe(options.recipe), options.work)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    np.savez(options.out, tokens=tokens, begins=begins)
    print(json.dumps({"tokens": len(tokens)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
