"""Intervals of a TPR at a low false positive rate: they cover what they say, with ties too."""

import numpy as np
import pytest
from scipy import stats

from mi_jax.evaluation import low_rates, metrics


def draw(rng, members, others, shift=0.0, decimals=None):
    """(scores, is_member) of normal scores, those of members shifted; rounded where `decimals` is given."""
    is_member = np.arange(members + others) < members
    scores = rng.normal(size=is_member.size) + shift * is_member
    return scores if decimals is None else np.round(scores, decimals), is_member


def attainable(shift, fpr, decimals):
    """The TPR of the best threshold with a false positive rate of at most `fpr`, in closed form."""
    threshold = stats.norm.isf(fpr)
    if decimals is not None:  # rounded scores reach a threshold from half a step below it
        step = 10.0**-decimals
        threshold = np.ceil(threshold / step - 0.5) * step + step / 2
    return stats.norm.sf(threshold - shift)


@pytest.mark.parametrize(
    "members, others, fpr",
    [(200, 200, 0.01), (400, 1000, 0.01), (300, 150, 0.1), (50, 30, 0.1), (2000, 100, 0.01)],
)
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("decimals", [None, 0])
def test_an_interval_over_points_covers_the_rate_in_closed_form(members, others, fpr, shift, decimals):
    """Of 200 draws at most 16 miss: 5 % miss at the most, and 17 of 200 would have a probability below 3 %."""
    rng, truth = np.random.default_rng(0), attainable(shift, fpr, decimals)
    found = [low_rates.tpr_over_points(*draw(rng, members, others, shift, decimals), fpr) for _ in range(200)]
    assert sum(not one["low"] - 1e-12 <= truth <= one["high"] + 1e-12 for one in found) <= 16
    assert all(one["low"] <= one["mean"] <= one["high"] for one in found)


@pytest.mark.parametrize("others, fpr", [(1000, 0.01), (1000, 0.1), (5000, 0.01), (300, 0.01)])
def test_the_ends_equal_those_of_a_search_over_all_thresholds(others, fpr):
    """Of every threshold the exact chance that its rate is at most `fpr`, and a quarter of 10 % for each bound."""
    scores, is_member = draw(np.random.default_rng(3), 400, others, 1.0)
    falling, tail = np.sort(scores[~is_member])[::-1], 0.1 / 4
    rare = [k for k in range(others) if stats.beta.cdf(fpr, k + 1, others - k) >= 1 - tail]
    frequent = [k for k in range(others) if stats.beta.cdf(fpr, k + 1, others - k) <= tail]
    above = [int((scores[is_member] > falling[k]).sum()) for k in (max(rare, default=0), frequent[0])]
    low = stats.beta.ppf(tail, above[0], 401 - above[0])
    low *= 1 if rare else fpr / stats.beta.ppf(1 - tail, 1, others)
    found = low_rates.tpr_over_points(scores, is_member, fpr, 0.9)
    assert found["low"] == pytest.approx(low, rel=1e-9)  # other branches of the same special functions
    assert found["high"] == pytest.approx(stats.beta.ppf(1 - tail, above[1] + 1, 400 - above[1]), rel=1e-9)


def test_an_interval_at_a_fixed_threshold_does_not_cover_it():
    """Why this module exists: the exact interval of as many members is above the rate itself in many null draws."""
    rng, above = np.random.default_rng(0), np.zeros(2, int)
    for _ in range(200):
        scores, is_member = draw(rng, 1000, 1000)
        rate, _ = metrics.tpr_at_fpr(scores, is_member, 0.01)
        naive = metrics.clopper_pearson(round(rate * 1000), 1000)[0]
        above += [naive > 0.01, low_rates.tpr_over_points(scores, is_member, 0.01)["low"] > 0.01]
    assert above[0] > 15 and above[1] <= 5


def test_the_mean_is_the_usual_rate_and_unresolved_rates_have_none():
    scores, is_member = draw(np.random.default_rng(0), 300, 200, 2.0)
    assert low_rates.tpr_over_points(scores, is_member, 0.01)["mean"] == metrics.tpr_at_fpr(scores, is_member, 0.01)[0]
    assert low_rates.tpr_over_points(scores, is_member, 0.001) is None


def test_an_attack_with_two_scores_finds_nobody_at_a_low_rate_and_surely_few():
    is_member = np.arange(800) < 400
    found = low_rates.tpr_over_points(np.where(np.arange(800) % 10 > 0, 1.0, 0.0), is_member, 0.01)
    assert found["mean"] == found["low"] == 0 and found["high"] < 0.015


def test_infinite_scores_are_taken_as_scores():
    is_member = np.arange(2000) < 1000
    scores = np.where(is_member & (np.arange(2000) < 500), np.inf, np.random.default_rng(0).normal(size=2000))
    assert 0.4 < low_rates.tpr_over_points(scores, is_member, 0.01)["low"] <= 0.5


def test_more_points_narrow_the_interval():
    def width(number):
        found = low_rates.tpr_over_points(*draw(np.random.default_rng(0), number, number, 2.0), 0.01)
        return found["high"] - found["low"]

    assert width(200) > width(1000) > width(10_000) > 0


def test_targets_alike_do_not_exceed_the_rate():
    """The lower end is above the rate in at most 2.5 % of draws; 12 of 200 would have a probability below 1 %."""
    rng, above = np.random.default_rng(0), 0
    for _ in range(200):
        pairs = [draw(rng, 400, 400) for _ in range(8)]
        found = low_rates.tpr_over_targets([s for s, _ in pairs], [m for _, m in pairs], 0.01)
        above += found["low"] > 0.01
        assert found["low"] <= found["mean"] <= found["high"]
    assert above <= 11


def test_one_target_or_targets_that_agree_have_no_interval_over_targets():
    scores, is_member = draw(np.random.default_rng(0), 200, 200, 1.0)
    assert low_rates.tpr_over_targets([scores], [is_member], 0.1) is None
    assert low_rates.tpr_over_targets([scores] * 3, [is_member] * 3, 0.1) is None
    few = draw(np.random.default_rng(1), 200, 5)
    assert low_rates.tpr_over_targets([scores, few[0]], [is_member, few[1]], 0.1) is None
