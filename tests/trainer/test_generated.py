"""Answers and their scores while a run goes on, what they decide, and that they disturb nothing."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tests.trainer.conftest import WriteConfig, make_rows
from tests.trainer.test_numbers import attached
from tests.trainer.test_optimisers import make_job
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.config import LoopConfig
from trainer.data import Example
from trainer.examples import InMemory
from trainer.generated import Answerer, Sample, scores, spread
from trainer.log import read_log
from trainer.model import load_base, load_tokenizer
from trainer.stopping import num_without_gain
from trainer.tokens import Encoded, encode

PEFT_ONLY = {
    "prefix_tuning": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p_tuning": peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=32
    ),
}


def model_of(base: Path, method: str) -> peft.PeftModel:
    if method not in PEFT_ONLY:
        return attached(base, method)
    bare = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    torch.manual_seed(0)
    model = peft.get_peft_model(bare, PEFT_ONLY[method])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def greedy(model: Any, prompt: tuple[int, ...], num: int, end: int) -> list[int]:
    """One whole forward pass for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + num:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", *PEFT_ONLY])
def test_answers_are_greedy_and_the_same_in_any_company(base: Path, method: str) -> None:
    tokenizer = load_tokenizer(base)
    model = model_of(base, method).eval()
    rows = [Example(row["input"], row["completion"], "f:1") for row in make_rows(9)]
    examples = encode(tokenizer, rows)
    assert len({len(example.prompt_ids) for example in examples}) > 3
    answerer = Answerer(tokenizer, 10, 2048, left_pads=method == "lora")
    samples = answerer.samples(model, examples)
    for sample, example, row in zip(samples, examples, rows, strict=True):
        expected = greedy(model, example.prompt_ids, 10, tokenizer.eos_token_id)
        assert sample.answer == tokenizer.decode(expected, skip_special_tokens=True).strip()
        assert (sample.prompt, sample.reference) == (row.prompt, row.completion)
    assert len({sample.answer for sample in samples}) > 3


def test_answers_stay_in_the_context_and_end_at_the_last_turn(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    model = attached(base, "lora").eval()
    chat = Encoded(
        (5, 6), (7, 8, 0, 9, 9, 10, 11, 0), "f:1", (True,) * 3 + (False,) * 2 + (True,) * 3
    )
    answerer = Answerer(tokenizer, 50, context_length=9, left_pads=True)
    sample, full = answerer.samples(model, [chat, Encoded((5,) * 9, (6, 0), "f:2")])
    assert sample.reference == tokenizer.decode([10, 11]).strip()
    assert sample.prompt == tokenizer.decode([5, 6, 7, 8, 9, 9]).strip()
    assert full.answer == ""
    assert len(tokenizer(sample.answer)["input_ids"]) <= 2


def test_scores_are_those_of_their_libraries() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    pairs = [
        ("the drivers waited for the train", "the driver waits for a train"),
        ("rain fell on the old bridge", "rain fell on the old bridge"),
    ]
    samples = [Sample("", reference, answer) for reference, answer in pairs]
    got = scores(samples)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    f1 = [scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs]
    assert 0.5 < f1[0] < f1[1] == 1
    assert got["rouge_l"] == pytest.approx(sum(f1) / 2)
    references = [[reference for reference, _ in pairs]]
    assert got["bleu"] == pytest.approx(corpus_bleu([a for _, a in pairs], references).score)
    assert 0 < got["bleu"] < 100
    assert got["accuracy"] == 0.5


def test_rows_are_spread_over_all() -> None:
    examples = InMemory([Encoded((i,), (0,), f"f:{i}") for i in range(10)])
    assert [e.prompt_ids[0] for e in spread(examples, 4)] == [0, 3, 6, 9]
    assert len(spread(examples, 99)) == 10


def test_patience_counts_from_the_last_gain_that_counted() -> None:
    assert num_without_gain([], 0) == 0
    assert num_without_gain([1, 2, 2, 2], 0) == 2
    assert num_without_gain([1, 3, 2, 2.9], 0) == 2
    assert num_without_gain([1.0, 1.4, 1.8, 2.2], 0.5) == 1  # 1.8 counted
    assert num_without_gain([3, 3.05, 3.09], 0.1) == 2


def test_generating_changes_no_bit_of_the_training(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config(
        method={"type": "lora", "rank": 4, "dropout": 0.2},
        loop={"keep": "last", "validate_every": 2, "metric_tokens": 5},
    )
    plain = train(config, capsys)
    judged = train(config, capsys, "--overwrite", "--set", "loop.metric=rouge_l")
    assert judged["content_hash"] == plain["content_hash"]
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    validations = [r for r in records if r["event"] == "validation"]
    assert len(validations) == 4
    assert all({"rouge_l", "bleu", "accuracy"} <= r.keys() for r in validations)


def test_the_metric_decides_which_state_is_kept(base: Path) -> None:
    """Scores that rise while the loss falls, and then fall while it goes on falling."""
    given = iter([0.1, 0.5, 0.3, 0.2, 0.2])
    job = make_job(base, "adamw")
    job.config = replace(job.config, loop=LoopConfig(metric="bleu", patience=2))
    job._judge = lambda model: {"bleu": next(given)}
    job.validate()
    kept = []
    while not job.finished:
        job.train_step()
        job.validate()
        kept.append(job.tensors())
    losses = list(job.validation_losses.values())
    assert losses == sorted(losses, reverse=True)
    assert job.step == 3
    assert job.stopped_early
    assert job.best is not None
    assert job.best.step == 1
    assert all(torch.equal(kept[0][name], t) for name, t in job.best.tensors.items())


def test_patience_survives_an_interruption(base: Path) -> None:
    def new_job() -> Any:
        job = make_job(base, "adamw")
        job.config = replace(job.config, loop=LoopConfig(metric="bleu", patience=3))
        job._judge = lambda model: {"bleu": [1.0, 3.0, 2.0, 2.5, 2.9, 9.0, 9.0][job.step]}
        return job

    def turn(job: Any) -> None:
        job.train_step()
        job.validate()

    first = new_job()
    first.validate()
    for _ in range(3):
        turn(first)
    assert not first.finished
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = new_job()
    second.load_state(torch.load(file, weights_only=True))
    assert not second.finished
    turn(second)
    assert second.stopped_early
    assert second.best.step == 1


def test_a_run_that_stops_early_says_so(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config(
        optimiser={"learning_rate": 5.0, "batch_size": 4, "max_steps": 30},
        loop={"validate_every": 1, "patience": 2, "metric": "accuracy", "metric_tokens": 3},
    )
    assert main(["train", str(config), "--json"]) == 0
    captured = capsys.readouterr()
    assert "stopped early after step 2: accuracy did not get better in 2 valid" in captured.err
    assert '"steps": 2' in captured.out
    config_text = ("--set", "loop.patience=null")
    assert main(["train", str(config), "--resume", *config_text]) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loop.metric=macro_f1"], "'macro_f1' is not measured by the objective 'supervised'"),
        (["loop.patience=2", "data.validation=0"], "key 'loop.patience': needs validation rows"),
        (["loop.metric=bleu", "data.validation=0"], "key 'loop.metric': needs validation rows"),
        (["loop.min_delta=0.1"], "key 'loop.min_delta': means nothing without loop.patience"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    overrides: list[str],
    words: str,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [argument for override in overrides for argument in ("--set", override)]
    assert main(["train", str(write_config()), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
