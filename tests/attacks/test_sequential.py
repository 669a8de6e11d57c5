"""Sequential tests beside Wald's bounds, a slow loop, and coins whose errors are known."""

import numpy as np
import pytest

from mi_jax.attacks import sequential
from mi_jax.types import AnswerRates

RNG = np.random.default_rng(0)
LOW, HIGH = sequential.bounds()


def rates_of(inside, outside) -> AnswerRates:
    """Rates with these probabilities [P Q] of y inside and outside."""
    inside, outside = np.asarray(inside, float), np.asarray(outside, float)
    return AnswerRates(np.log(inside), np.log1p(-inside), np.log(outside), np.log1p(-outside))


def slow_ratios(answers, order, inside, outside) -> list[float]:
    """The log likelihood ratio of one point after each of its answers."""
    total, found = 0.0, []
    for answer, question in zip(answers, order, strict=True):
        p, q = inside[question], outside[question]
        total += np.log(p / q) if answer else np.log((1 - p) / (1 - q))
        found.append(total)
    return found


def case(points: int = 60, questions: int = 12):
    inside, outside = RNG.uniform(0.3, 0.98, (points, questions)), RNG.uniform(0.02, 0.7, (points, questions))
    order = np.argsort(RNG.random((points, questions)))
    answers = RNG.random((points, questions)) < 0.5
    return answers, order, inside, outside


def test_bounds_are_walds():
    assert sequential.bounds(0.01, 0.2) == pytest.approx((np.log(0.2 / 0.99), np.log(0.8 / 0.01)))
    assert LOW < 0 < HIGH


@pytest.mark.parametrize("errors", [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.1), (0.9, 0.2)])
def test_errors_that_no_test_has_are_refused(errors):
    with pytest.raises(ValueError, match="expected both above 0, and a sum below 1"):
        sequential.bounds(*errors)


def test_ratios_are_those_of_a_loop_over_the_answers_so_far():
    answers, order, inside, outside = case()
    for so_far in (1, 5, 12):
        found = sequential.log_ratios(answers[:, :so_far], order, rates_of(inside, outside))
        expected = [slow_ratios(answers[p, :so_far], order[p, :so_far], inside[p], outside[p]) for p in range(60)]
        np.testing.assert_allclose(found, expected)


def test_a_point_is_decided_at_its_first_ratio_out_of_bounds_and_answers_after_it_do_not_count():
    answers, order, inside, outside = case()
    rates = rates_of(inside, outside)
    ratios = np.array([slow_ratios(answers[p], order[p], inside[p], outside[p]) for p in range(60)])
    out = (ratios <= LOW) | (ratios >= HIGH)
    assert out.any(1).any() and not out.any(1).all()
    last = [np.argmax(own) if own.any() else 11 for own in out]
    expected = ratios[np.arange(60), last]
    for later in (answers, np.where(np.arange(12) > np.array(last)[:, None], ~answers, answers)):
        found = sequential.score_until_decided(later, order, None, rates)
        np.testing.assert_allclose(found.score, expected)
        np.testing.assert_allclose(found.false_positive_rate, np.minimum(1, np.exp(-expected)))
    for so_far in range(1, 13):
        decided = sequential.decided(answers[:, :so_far], order, rates)
        np.testing.assert_array_equal(decided, out[:, :so_far].any(1))


@pytest.mark.parametrize("member", [True, False])
def test_independent_answers_keep_the_nominal_errors(member):
    points, p, q = 20_000, 0.8, 0.3
    answers = RNG.random((points, 60)) < (p if member else q)
    order = np.tile(np.arange(60), (points, 1))
    rates = rates_of(np.full((points, 60), p), np.full((points, 60), q))
    score = sequential.score_until_decided(answers, order, None, rates).score
    wrong = np.mean(score <= LOW) if member else np.mean(score >= HIGH)
    a, b = sequential.FALSE_POSITIVE, sequential.FALSE_NEGATIVE
    limit = b / (1 - a) if member else a / (1 - b)  # Wald's, for each error alone
    assert wrong <= limit + 3.3 * np.sqrt(limit / points)
    assert np.mean((score > LOW) & (score < HIGH)) < 0.01  # sixty answers decide
