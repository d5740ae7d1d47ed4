"""Intervals against scipy, against recomputation from texts, and against what they promise."""

import math
import random
import warnings

import numpy as np
import pytest
import sacrebleu
import scipy.stats

from evalsuite.metrics import MetricOptions, build_metrics, score
from evalsuite.stats import BootstrapConfig, TestConfig, compare, value_interval
from evalsuite.types import Answer, Floats, Mode, Sample, Scores

CONFIG = BootstrapConfig(num_resamples=300, seed=7)
TESTS = TestConfig(CONFIG, num_permutations=200)
MEAN = build_metrics(["exact_match"], Mode.GENERATE, MetricOptions(), [Sample("1", "x", ("y",))])[0]


def means(values: Floats, scored: np.ndarray | None = None) -> Scores:
    """Scores of the mean metric with given values per sample."""
    mask = np.ones(len(values), dtype=bool) if scored is None else scored
    return Scores(MEAN, np.stack([values, np.ones(len(values))], axis=1) * mask[:, None], mask)


def test_gain_of_means_is_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(50) ** 2, rng.random(50)
    expected = scipy.stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        paired=True,
        n_resamples=300,
        method="BCa",
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = compare(means(ours), means(theirs), TESTS)
    assert found.diff == pytest.approx(ours.mean() - theirs.mean(), abs=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(expected), abs=1e-9)
    assert (found.method, found.num_pairs, found.num_groups) == ("bca", 50, 50)


def test_gain_in_corpus_bleu_is_recomputed_from_texts() -> None:
    rng = random.Random(0)
    words = list("abcdefgh")
    references = [" ".join(rng.choices(words, k=9)) for _ in range(25)]
    ours = [" ".join(w if rng.random() < 0.8 else "x" for w in r.split()) for r in references]
    theirs = [" ".join(w if rng.random() < 0.6 else "x" for w in r.split()) for r in references]
    samples = [Sample(str(i), "in", (reference,)) for i, reference in enumerate(references)]
    bleu = build_metrics(["bleu"], Mode.GENERATE, MetricOptions(), samples)[0]

    def difference(indices: np.ndarray) -> float:
        def corpus(hypotheses: list[str]) -> float:
            drawn = [references[i] for i in indices]
            return sacrebleu.corpus_bleu([hypotheses[i] for i in indices], [drawn]).score

        return corpus(ours) - corpus(theirs)

    expected = scipy.stats.bootstrap(
        (np.arange(25),),
        difference,
        vectorized=False,
        n_resamples=100,
        method="BCa",
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = compare(
        score(bleu, samples, [Answer(text=text) for text in ours]),
        score(bleu, samples, [Answer(text=text) for text in theirs]),
        TestConfig(BootstrapConfig(num_resamples=100, seed=7), num_permutations=10),
    )
    assert found.diff == pytest.approx(difference(np.arange(25)), abs=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.ci_low < found.diff < found.ci_high


def test_batches_of_resamples_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(40)
    whole = value_interval(means(values), CONFIG)
    monkeypatch.setattr("evalsuite.stats.bootstrap._BATCH_VALUES", 40 * 7)
    batched = value_interval(means(values), CONFIG)
    assert (batched.low, batched.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    num_trials, hits, excluding_zero = 300, 0, 0
    for _ in range(num_trials):
        difficulty = rng.random(60)
        ours = (rng.random(60) < np.clip(difficulty + 0.1, 0, 1)).astype(float)
        theirs = (rng.random(60) < difficulty).astype(float)
        # E[clip(u + 0.1, 0, 1)] - E[u] for uniform u.
        truth = 0.1 - 0.1**2 / 2
        found = compare(means(ours), means(theirs), TESTS)
        hits += found.ci_low <= truth <= found.ci_high
        same = compare(means(theirs), means((rng.random(60) < difficulty).astype(float)), TESTS)
        excluding_zero += not same.ci_low <= 0 <= same.ci_high
    # 0.95 with a standard error of 0.0126; the bootstrap is a little narrow at 60 samples.
    assert 0.90 <= hits / num_trials <= 0.985
    assert excluding_zero / num_trials <= 0.09


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(4)
    difficulty = rng.random(100)
    ours, theirs = difficulty + 0.05 * rng.random(100), difficulty
    paired = compare(means(ours), means(theirs), TESTS)
    shuffled = compare(means(ours), means(rng.permutation(theirs)), TESTS)
    assert paired.ci_high - paired.ci_low < 0.2 * (shuffled.ci_high - shuffled.ci_low)
    assert paired.ci_low > 0


def test_only_samples_scored_on_both_sides_count() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    ours = means(values, np.array([True, True, True, False]))
    theirs = means(1 - values, np.array([False, True, True, True]))
    found = compare(ours, theirs, TESTS)
    assert found.num_pairs == 2
    assert found.diff == pytest.approx(0.0)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_constant_difference(shift: float) -> None:
    values = np.array([0.25, 0.5, 0.25, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(means(values + shift), means(values), TESTS)
    assert (found.diff, found.ci_low, found.ci_high) == (shift, shift, shift)
    assert (found.method, found.num_pairs) == ("percentile", 4)
    # Four equal differences are no proof that a fifth would be equal.
    assert found.error > 0.1


def test_too_few_samples_have_no_interval() -> None:
    one = compare(means(np.array([1.0])), means(np.array([0.0])), TESTS)
    assert (one.diff, one.method, one.num_pairs) == (1.0, "none", 1)
    assert math.isnan(one.ci_low)
    nobody = means(np.zeros(3), np.zeros(3, dtype=bool))
    assert compare(nobody, means(np.ones(3)), TESTS).num_pairs == 0


def test_seed_decides() -> None:
    scores = means(np.random.default_rng(5).random(30))
    assert value_interval(scores, CONFIG) == value_interval(scores, CONFIG)
    other = BootstrapConfig(num_resamples=300, seed=8)
    assert value_interval(scores, CONFIG) != value_interval(scores, other)


def test_incomparable_rows_are_refused() -> None:
    rouge = build_metrics(["rougeL"], Mode.GENERATE, MetricOptions(), [Sample("1", "x", ("y",))])[0]
    scores = means(np.ones(3))
    with pytest.raises(ValueError, match="same metric"):
        compare(scores, Scores(rouge, scores.statistics, scores.scored), TESTS)
    with pytest.raises(ValueError, match="same samples"):
        compare(scores, means(np.ones(4)), TESTS)
