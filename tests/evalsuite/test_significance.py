"""Tests, corrections, standard errors and power, against scipy, sacreBLEU and plain forms."""

import itertools
import math
import os
import random
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from evalsuite.metrics import MetricOptions, build_metrics, score
from evalsuite.stats import (
    BootstrapConfig,
    Correction,
    TestConfig,
    Verdict,
    adjusted,
    benjamini_hochberg,
    clustered_error,
    compare,
    holm,
    mcnemar,
    minimum_detectable_effect,
    non_inferiority,
    permutation_p,
    power_of,
    required_samples,
    standard_error,
    value_interval,
    wilson,
)
from evalsuite.stats.comparison import pairs
from evalsuite.stats.power import binary_difference_error
from evalsuite.stats.significance import paired_bootstrap_p
from evalsuite.stats.standard_error import jackknife_error, mean_error
from evalsuite.types import Answer, Floats, Ints, Metric, Mode, Sample, Scores

CONFIG = TestConfig(BootstrapConfig(num_resamples=400, seed=3), num_permutations=500)
MEAN = build_metrics(["exact_match"], Mode.GENERATE, MetricOptions(), [Sample("1", "x", ("y",))])[0]


def means(values: Sequence[float] | Floats, groups: Ints | None = None) -> Scores:
    found = np.asarray(values, dtype=float)
    statistics = np.stack([found, np.ones(len(found))], axis=1)
    return Scores(MEAN, statistics, np.ones(len(found), dtype=bool), groups)


def corpus(
    metric: str, seed: int
) -> tuple[Metric, Scores, Scores, list[str], list[str], list[str]]:
    rng = random.Random(seed)
    references = [" ".join(rng.choices("abcdefgh", k=rng.randint(5, 12))) for _ in range(30)]

    def noisy(share: float) -> list[str]:
        return [
            " ".join(w if rng.random() < share else "x" for w in line.split())
            for line in references
        ]

    ours, theirs = noisy(0.85), noisy(0.7)
    samples = [Sample(str(i), "in", (text,)) for i, text in enumerate(references)]
    built = build_metrics([metric], Mode.GENERATE, MetricOptions(), samples)[0]
    scores = [score(built, samples, [Answer(text=t) for t in side]) for side in (ours, theirs)]
    return built, scores[0], scores[1], ours, theirs, references


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("kind", ["ar", "bs"])
def test_corpus_tests_are_sacrebleus(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SACREBLEU_SEED", "12345")
    metric, first, second, ours, theirs, references = corpus(name, seed=11)
    oracle = {"bleu": BLEU, "chrf": CHRF}[name]()
    _, results = PairedTest(
        [("base", theirs), ("ours", ours)],
        {name: oracle},
        [references],
        test_type=kind,
        n_samples=150,
    )()
    expected = next(value[1].p_value for key, value in results.items() if key != "System")
    test = permutation_p if kind == "ar" else paired_bootstrap_p
    found = test(metric.aggregate, first.statistics, second.statistics, 150, 12345)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num", [2, 5, 9])
def test_few_pairs_are_permuted_exactly_as_scipy_does(num: int) -> None:
    rng = np.random.default_rng(num)
    ours, theirs = rng.integers(0, 4, num) / 4, rng.integers(0, 4, num) / 4
    expected = scipy.stats.permutation_test(
        (ours, theirs),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2000,
    ).pvalue
    found = permutation_p(MEAN.aggregate, means(ours).statistics, means(theirs).statistics, 2000, 0)
    assert found == pytest.approx(expected, abs=1e-9)


def test_random_permutations_come_close_to_the_exact_ones() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = means(rng.random(14) + 0.15), means(rng.random(14))
    sides = (MEAN.aggregate, ours.statistics, theirs.statistics)
    exact = permutation_p(*sides, 2**14, 0)
    assert permutation_p(*sides, 10_000, 0) == pytest.approx(exact, abs=0.015)


def test_permutation_batches_do_not_change_p(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    sides = (MEAN.aggregate, means(rng.random(40)).statistics, means(rng.random(40)).statistics)
    whole = permutation_p(*sides, 300, 1)
    monkeypatch.setattr("evalsuite.stats.significance._BATCH_VALUES", 40 * 64)
    assert permutation_p(*sides, 300, 1) == whole


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_sum_of_binomials(better: int, worse: int) -> None:
    num = better + worse
    tail = sum(math.comb(num, k) for k in range(min(better, worse) + 1))
    expected = 1.0 if better == worse else min(1.0, 2 * tail / 2**num)
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_binary_rows_are_compared_by_mcnemar() -> None:
    ours = [1.0] * 9 + [0.0] * 3 + [1.0] * 20
    theirs = [0.0] * 9 + [1.0] * 3 + [1.0] * 20
    found = compare(means(ours), means(theirs), CONFIG)
    assert (found.test, found.p) == ("mcnemar", pytest.approx(mcnemar(9, 3)))
    assert found.error == pytest.approx(binary_difference_error(9, 3, 32))


# Written out as in Holm 1979 and in Benjamini and Hochberg 1995, one hypothesis at a time.
def plain_holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, so_far = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, p[index] * (len(p) - rank)))
        found[index] = so_far
    return found


def plain_bh(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i], reverse=True)
    found, so_far = [0.0] * len(p), 1.0
    for position, index in enumerate(order):
        so_far = min(so_far, p[index] * len(p) / (len(p) - position))
        found[index] = so_far
    return found


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections(p: list[float]) -> None:
    assert holm(p) == pytest.approx(np.array(plain_holm(p)), abs=1e-9)
    assert benjamini_hochberg(p) == pytest.approx(np.array(plain_bh(p)), abs=1e-9)
    assert (holm(p) >= np.array(p) - 1e-12).all()
    assert list(adjusted(p, Correction.NONE)) == p


def test_a_test_that_was_not_made_costs_nothing() -> None:
    assert list(holm([0.01, math.nan, 0.04])) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    assert np.isnan(benjamini_hochberg([math.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_holds_its_level_over_a_table() -> None:
    rng = np.random.default_rng(0)
    tables = rng.random((2000, 8))
    false = sum(bool((holm(list(row)) <= 0.05).any()) for row in tables)
    assert false / len(tables) == pytest.approx(0.05, abs=0.015)


@given(
    hnp.arrays(float, st.integers(2, 40), elements=st.floats(0, 1, width=32)),
    st.integers(1, 5),
)
def test_clustered_error_by_hand(values: Floats, num_groups: int) -> None:
    groups = np.arange(len(values)) % num_groups
    present = sorted(set(groups.tolist()))
    if len(present) < 2:
        assert math.isnan(clustered_error(values, groups))
        return
    total = 0.0
    for group in present:
        inside = [v - values.mean() for v, g in zip(values, groups, strict=True) if g == group]
        # Miller's double sum over all pairs within a group.
        total += sum(a * b for a, b in itertools.product(inside, inside))
    expected = math.sqrt(max(0.0, total) * len(present) / (len(present) - 1)) / len(values)
    assert clustered_error(values, groups) == pytest.approx(expected, abs=1e-9)
    alone = clustered_error(values, np.arange(len(values)))
    assert alone == pytest.approx(mean_error(values), abs=1e-9)


def test_mean_error_is_scipys() -> None:
    values = np.random.default_rng(1).random(50)
    assert mean_error(values) == pytest.approx(float(scipy.stats.sem(values)), abs=1e-9)
    assert standard_error(means(values)) == pytest.approx(mean_error(values), abs=1e-9)
    assert math.isnan(mean_error(values[:1]))


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(2).random(30)
    left_out = (values.sum() - values) / 29
    assert jackknife_error(left_out) == pytest.approx(mean_error(values), abs=1e-9)


def test_corpus_error_agrees_with_the_bootstrap() -> None:
    metric, first, *_ = corpus("chrf", seed=4)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 30, (2000, 30))
    spread = float(np.std(metric.aggregate(first.statistics[drawn].sum(axis=1))))
    assert standard_error(first) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(("right", "num"), [(0, 10), (3, 10), (10, 10), (77, 200)])
def test_wilson_is_scipys(right: int, num: int) -> None:
    expected = scipy.stats.binomtest(right, num).proportion_ci(0.95, method="wilson")
    assert wilson(right, num, 0.95) == pytest.approx(tuple(expected), abs=1e-9)
    found = value_interval(means([1.0] * right + [0.0] * (num - right)), CONFIG.bootstrap)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.method == "wilson"


def test_wilson_without_samples() -> None:
    assert all(math.isnan(bound) for bound in wilson(0, 0, 0.95))


def test_groups_are_drawn_together() -> None:
    rng = np.random.default_rng(8)
    passages = np.repeat(np.arange(20), 10)
    shared = rng.normal(size=20)[passages]
    ours = 0.2 * rng.normal(size=200) + shared
    naive = compare(means(ours), means(np.zeros(200)), CONFIG)
    grouped = compare(means(ours, passages), means(np.zeros(200), passages), CONFIG)
    assert (grouped.num_pairs, grouped.num_groups) == (200, 20)
    assert grouped.diff == pytest.approx(naive.diff, abs=1e-12)
    # Ten samples of a passage say hardly more than one: about sqrt(10) wider.
    assert 2 < (grouped.ci_high - grouped.ci_low) / (naive.ci_high - naive.ci_low) < 4.5
    assert 2 < grouped.error / naive.error < 4.5
    assert grouped.p > naive.p
    # The same as comparing means of equally large groups.
    condensed = compare(means(ours.reshape(20, 10).mean(axis=1)), means(np.zeros(20)), CONFIG)
    assert (grouped.ci_low, grouped.ci_high) == pytest.approx(
        (condensed.ci_low, condensed.ci_high), abs=1e-9
    )
    assert grouped.p == pytest.approx(condensed.p, abs=1e-9)


def test_binary_groups_are_no_proportion_of_independent_samples() -> None:
    groups = np.repeat(np.arange(10), 2)
    scores = means([1.0, 1.0, 0.0, 0.0] * 5, groups)
    assert value_interval(scores, CONFIG.bootstrap).method == "bca"
    assert compare(scores, means([0.0] * 20, groups), CONFIG).test == "permutation"


def test_false_findings_are_as_rare_as_stated() -> None:
    rng = np.random.default_rng(9)
    found = []
    for _ in range(200):
        difficulty = rng.random(40)
        sides = [means(difficulty + 0.3 * rng.normal(size=40)) for _ in range(2)]
        found.append(
            permutation_p(MEAN.aggregate, sides[0].statistics, sides[1].statistics, 199, 0)
        )
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_the_minimum_detectable_effect_is_detected_as_often_as_stated() -> None:
    rng = np.random.default_rng(10)
    error = 1 / math.sqrt(60)
    effect = minimum_detectable_effect(error, 0.05, 0.8)
    assert effect == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
    draws = rng.normal(effect, 1.0, (1500, 60))
    found = scipy.stats.ttest_1samp(draws, 0.0, axis=1).pvalue <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_power_and_samples_belong_together() -> None:
    error, num = 0.02, 100
    needed = required_samples(error, num, 0.03, 0.05, 0.8)
    assert needed is not None
    assert needed > num
    assert power_of(error * math.sqrt(num / needed), 0.03, 0.05) == pytest.approx(0.8, abs=0.01)
    assert required_samples(math.nan, num, 0.03, 0.05, 0.8) is None
    assert power_of(math.nan, 0.03, 0.05) == 0.0


def judged(ours: Floats, theirs: Floats, margin: float) -> Verdict:
    found = non_inferiority(means(ours), means(theirs), margin, 0.05, CONFIG)
    return found.verdict(found.p, 0.05, 0.8)


def test_verdicts() -> None:
    rng = np.random.default_rng(11)
    base = rng.random(400)
    noise = 0.1 * rng.normal(size=400)
    assert judged(base + noise, base, 0.03) is Verdict.PASS
    assert judged(base + noise - 0.1, base, 0.03) is Verdict.DROP
    assert judged(base + noise - 0.028, base, 0.03) is Verdict.UNCLEAR
    assert judged(base[:8] + noise[:8], base[:8], 0.03) is Verdict.UNDERPOWERED
    # The same answers on a few samples are no proof; on many they are.
    assert judged(base[:10], base[:10], 0.03) is Verdict.UNDERPOWERED
    assert judged(base, base, 0.03) is Verdict.PASS
    assert judged(base - 0.03125, base, 0.03125) is not Verdict.DROP


def test_a_drop_of_the_margin_passes_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(12)
    passed = 0
    for _ in range(300):
        theirs = rng.random(80)
        ours = theirs - 0.05 + 0.2 * rng.normal(size=80)
        found = non_inferiority(means(ours), means(theirs), 0.05, 0.05, CONFIG)
        passed += found.p <= 0.05
    assert passed / 300 == pytest.approx(0.05, abs=0.035)


def test_one_sided_p_inverts_the_interval() -> None:
    rng = np.random.default_rng(13)
    ours, theirs = means(rng.random(60) ** 2), means(rng.random(60))
    config = TestConfig(BootstrapConfig(num_resamples=4000, seed=1, confidence=0.9))
    low = compare(ours, theirs, config).ci_low
    drawn = pairs(ours, theirs).distribution(config.bootstrap)
    assert drawn.p_below(low) == pytest.approx(0.05, abs=0.002)
    assert drawn.p_above(low) == pytest.approx(0.95, abs=0.002)


def test_many_samples_get_the_normal_interval() -> None:
    values = np.random.default_rng(14).random(30_000)
    found = value_interval(means(values), CONFIG.bootstrap)
    assert found.method == "normal"
    assert found.high - found.low == pytest.approx(2 * 1.959964 * mean_error(values), rel=1e-6)
