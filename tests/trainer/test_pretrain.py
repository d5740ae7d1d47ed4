"""Pretraining: tokenizer, data preparation, resumption to the last bit, export, bad recipes."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from trainer import corpus, pretrain
from trainer.errors import ConfigError, DataError
from trainer.pretrain_config import Recipe, read_recipe
from trainer.pretrain_export import read_metrics
from trainer.pretrain_init import add_copying_heads

RECIPE = """
seed: 3
model:
  vocab_size: 320
  hidden_size: 64
  intermediate_size: 64
  num_layers: 1
  num_heads: 2
  num_kv_heads: 1
  context: 32
data:
  sources:
    - {name: stories, weight: 0.6}
    - {name: notices, weight: 0.4, max_documents: 60}
  validation_share: 0.1
train:
  learning_rate: 0.01
  max_steps: 6
  chunks_per_step: 2
  long_every: 3
  warmup_steps: 2
  validate_every: 3
  log_every: 1
  compile: false
  num_threads: 1
  precision: fp32
"""


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    for name in ("stories", "notices"):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            for number in range(80):
                text = f"The {name} of day {number}: the cat saw {number + 1} birds and sat down."
                out.write(json.dumps({"text": text}) + "\n")
            out.write(
                json.dumps({"text": f"the {name} of DAY 7, the cat saw 8 birds and sat down"})
            )


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def prepared(recipe_path: Path, work: Path) -> Recipe:
    recipe = read_recipe(recipe_path)
    model = recipe.model
    folder = recipe_path.parent / "corpus"
    corpus.prepare(recipe.data, folder, work, model.vocab_size, model.context)
    return recipe


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [f"Number {number} is a plain sentence, isn't it?" for number in range(200)]
    return corpus.train_tokenizer(texts, vocab_size=400, context=128)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_decodes_to_itself(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(token in text for token in corpus.CONTROL_TOKENS):
        assert tokenizer.decode(ids) == text


def test_encoding_adds_bos_in_front_and_nothing_at_the_end(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    plain = loaded("A sentence.", add_special_tokens=False)["input_ids"]
    assert loaded("A sentence.")["input_ids"] == [loaded.bos_token_id, *plain]
    assert loaded.convert_tokens_to_ids(list(corpus.CONTROL_TOKENS)) == list(range(7))
    marked = loaded("<|user|>hi<|end|>", add_special_tokens=False)["input_ids"]
    assert (marked[0], marked[-1]) == (4, 6)


def test_preparation_drops_duplicates_and_holds_documents_out(
    recipe_path: Path, tmp_path: Path
) -> None:
    prepared(recipe_path, tmp_path / "work")
    stories, notices = json.loads((tmp_path / "work" / "data.json").read_text())
    assert (stories["num_documents"], stories["num_duplicates"]) == (80, 1)
    assert notices["num_documents"] == 60
    assert 0 < stories["num_validation_tokens"] < stories["num_train_tokens"]
    loaded = AutoTokenizer.from_pretrained(tmp_path / "work" / "tokenizer")
    sources = corpus.load(tmp_path / "work")
    held = set(loaded.decode(sources[0].validation).split("<|eos|>"))
    assert not (held - {""}) & set(loaded.decode(sources[0].train).split("<|eos|>"))


def test_plan_visits_every_chunk_once_per_epoch(recipe_path: Path, tmp_path: Path) -> None:
    prepared(recipe_path, tmp_path / "work")
    sources = corpus.load(tmp_path / "work")
    order = corpus.plan(sources, 32, 1000, seed=1)
    np.testing.assert_array_equal(order, corpus.plan(sources, 32, 1000, seed=1))
    size = (len(sources[0].train) - 1) // 32
    first_epoch = order[order[:, 0] == 0, 1][:size]
    assert sorted(first_epoch) == list(range(size))
    assert abs((order[:, 0] == 0).mean() - 0.6) < 0.06


def test_late_source_takes_its_share_from_its_step_on_and_changes_nothing_before() -> None:
    tokens = np.zeros(3300, dtype=np.uint16)
    source = [corpus.SourceTokens(name, 0.5, tokens, tokens, 1) for name in ("a", "b")]
    late = corpus.SourceTokens(corpus.LATE, 0.4, tokens, tokens, 1)
    without = corpus.plan(source, 32, 2000, seed=1)
    order = corpus.plan([*source, late], 32, 2000, seed=1, late_from=600)
    np.testing.assert_array_equal(order[:600], without[:600])
    share = (order[600:, 0] == 2).mean()
    assert 0.35 < share < 0.45
    rest = order[600:][order[600:, 0] != 2]
    np.testing.assert_array_equal(rest, without[600:][order[600:, 0] != 2])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_and_resumed_equals_uninterrupted(
    recipe_path: Path, tmp_path: Path, optimizer: str
) -> None:
    recipe_path.write_text(RECIPE.replace("train:", f"train:\n  optimizer: {optimizer}"))
    recipe = prepared(recipe_path, tmp_path / "a")
    prepared(recipe_path, tmp_path / "b")
    whole = pretrain.train(recipe, tmp_path / "a").state_dict()
    first_half = replace(recipe, train=replace(recipe.train, stop_at=3))
    halfway = pretrain.train(first_half, tmp_path / "b").state_dict()
    resumed = pretrain.train(recipe, tmp_path / "b").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], halfway[name]) for name in whole)
    lines = read_metrics(tmp_path / "b" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert {"stories", "notices"} == lines[-1]["validation"].keys()


def test_copying_heads_copy_before_any_training() -> None:
    """On random tokens that come twice, the fresh model foresees the second time."""
    shape = {"hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, **shape, **heads))
    ids = torch.randint(10, 512, (8, 30))
    ids = torch.cat([ids, ids], dim=1)

    def share_foreseen() -> float:
        with torch.no_grad():
            guesses = model(ids).logits[:, 30:-1].argmax(-1)
        return float((guesses == ids[:, 31:]).float().mean())

    assert share_foreseen() < 0.05
    add_copying_heads(model, seed=1, rope_theta=10_000.0)
    assert share_foreseen() > 0.7


def test_copying_heads_refuse_a_model_without_room() -> None:
    small = LlamaConfig(vocab_size=64, hidden_size=64, num_attention_heads=1, num_hidden_layers=1)
    with pytest.raises(ValueError, match="heads of 64, hidden size >= 256 and >= 4 layers"):
        add_copying_heads(LlamaForCausalLM(small), seed=1, rope_theta=10_000.0)


def test_second_stage_goes_on_from_the_first_with_its_tokenizer(
    recipe_path: Path, tmp_path: Path
) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    common = [str(recipe_path), "--corpus", str(tmp_path / "corpus")]
    assert pretrain.main([*common, "--work", str(tmp_path / "a"), "--out", str(first)]) == 0
    recipe_path.write_text(RECIPE.replace("max_steps: 6", "max_steps: 1").replace("0.01", "1e-9"))
    for init, where in ((["--init", str(first)], second), ([], out)):
        work = tmp_path / f"work-{where.name}"
        assert pretrain.main([*common, *init, "--work", str(work), "--out", str(where)]) == 0
    start, gone_on, fresh = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (first, second, out)
    )
    assert all(torch.equal(start[name], gone_on[name]) for name in start)
    assert not all(torch.equal(start[name], fresh[name]) for name in start)
    assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


def test_time_limit_ends_the_run_with_the_rate_decayed(recipe_path: Path) -> None:
    config = replace(read_recipe(recipe_path).train, max_minutes=10.0)
    at = pretrain.Position
    assert pretrain.progress_of(config, at(step=3, elapsed_s=60.0)) == 0.5
    assert pretrain.progress_of(config, at(step=3, elapsed_s=480.0)) == 0.8
    assert pretrain.learning_rate(config, at(step=0)) == pytest.approx(0.005)
    assert pretrain.learning_rate(config, at(step=2)) == pytest.approx(0.01)
    assert pretrain.learning_rate(config, at(step=3, elapsed_s=600.0)) == 0.0


def test_command_trains_and_exports_a_folder_that_transformers_loads(
    recipe_path: Path, tmp_path: Path
) -> None:
    folder, work, out = tmp_path / "corpus", tmp_path / "work", tmp_path / "out"
    command = [str(recipe_path), "--work", str(work), "--out", str(out)]
    assert pretrain.main([*command, "--corpus", str(folder)]) == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(out)) <= model.config.vocab_size == 320
    assert model.generation_config.eos_token_id == [1, 6]  # the end of a text, and of a turn
    assert (out / "curves.png").stat().st_size > 1000
    assert pretrain.main([*command, "--export-only"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("num_heads", "num_head"), "unknown key 'model.num_head'.* 'num_heads'"),
        (("weight: 0.6", "wieght: 0.6"), "data.sources.0.wieght.* 'weight'"),
        (("hidden_size: 64", "hidden_size: 65"), "model.hidden_size: .*multiple of 64, got 65"),
    ],
)
def test_wrong_recipe_is_named(
    recipe_path: Path, change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_path.write_text(RECIPE.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe_path)
    work = str(recipe_path.parent / "work")
    assert pretrain.main([str(recipe_path), "--work", work, "--out", work]) == 2
    assert "recipe.yaml" in capsys.readouterr().err


def test_missing_source_and_broken_line_are_named(recipe_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with gzip.open(folder / "notices.jsonl.gz", "wt") as out:
        out.write('{"text": "fine"}\n{"no": 1}\n')
    with pytest.raises(DataError, match=r"notices.jsonl.gz:2: not an object with 'text'"):
        prepared(recipe_path, tmp_path / "work")
    (folder / "stories.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"stories.jsonl.gz: no such file"):
        prepared(recipe_path, tmp_path / "work")


def test_kept_out_documents_are_dropped_and_counted(recipe_path: Path, tmp_path: Path) -> None:
    test_set = tmp_path / "tests"
    test_set.mkdir()
    row = {"input": "Note: the notices of day 9: the cat saw 10 birds and sat down"}
    (test_set / "items.jsonl").write_text(json.dumps(row) + "\n")
    command = [str(recipe_path), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    command += ["--corpus", str(tmp_path / "corpus"), "--keep-out", str(test_set)]
    assert pretrain.main(command) == 0
    stories, notices = json.loads((tmp_path / "work" / "data.json").read_text())
    assert (stories["num_kept_out"], notices["num_kept_out"]) == (0, 1)
    assert (stories["num_documents"], notices["num_documents"]) == (80, 59)


def test_generated_sources_stand_beside_each_other_by_name(
    recipe_path: Path, tmp_path: Path
) -> None:
    made = "\n  generated:\n" + "".join(
        f'    - {{name: {name}, factory: "demo.tasks.base_text:texts", weight: 0.5, '
        f"num_documents: 40, seed: {seed}}}\n"
        for name, seed in (("first", 1), ("second", 2))
    )
    recipe_path.write_text(RECIPE.replace("data:\n", "data:" + made))
    prepared(recipe_path, tmp_path / "work")
    counts = json.loads((tmp_path / "work" / "data.json").read_text())
    assert [count["source"] for count in counts] == ["stories", "notices", "first", "second"]
    assert counts[2]["sha256"] != counts[3]["sha256"]


def test_chat_template_writes_turns_between_control_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    ids = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == "<|bos|><|user|>Hi.<|end|><|assistant|>"
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == "<|bos|><|user|>Hi.<|end|><|assistant|>Hello.<|end|>"
