"""What a run has read is what its batches held."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.test_pretrain import RECIPE, prepared, write_corpus
from trainer import corpus, pretrain, pretrain_read


def test_tokens_are_those_of_the_batches(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    work, out = tmp_path / "work", tmp_path / "read.npz"
    recipe = prepared(tmp_path / "recipe.yaml", work)
    command = [str(tmp_path / "recipe.yaml"), "--work", str(work), "--out", str(out)]
    assert pretrain_read.main(command) == 2
    steps = 4
    (work / "metrics.jsonl").write_text(json.dumps({"step": steps, "loss": 1.0}) + "\n")
    assert pretrain_read.main(command) == 0
    found = np.load(out)

    sources, context = corpus.load(work), recipe.model.context
    per_step = recipe.train.chunks_per_step
    order = corpus.plan(sources, context, recipe.train.max_steps * per_step, recipe.seed)
    batch = pretrain.read_batch(sources, order[: steps * per_step], context, 1).numpy()
    rows = {tuple(row) for row in batch}
    assert len(found["tokens"]) == len(rows) * context
    pieces = np.split(found["tokens"], np.flatnonzero(found["begins"])[1:])
    # Every piece is a stretch of a document: bos at its first place or nowhere.
    assert all((piece[1:] != 0).all() for piece in pieces)
    whole = set(map(tuple, found["tokens"].reshape(-1, context)))
    assert whole == rows


@pytest.mark.parametrize("name", ["recipe.yaml", "data.json"])
def test_missing_files_are_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "data.json":
        (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [str(tmp_path / "recipe.yaml"), "--work", str(tmp_path), "--out", str(tmp_path / "o")]
    assert pretrain_read.main(command) == 2
    assert name in capsys.readouterr().err
