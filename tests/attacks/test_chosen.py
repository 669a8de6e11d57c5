"""Chosen queries beside closed forms: what answers are worth, which questions are taken, what their answers score."""

import numpy as np
import pytest
from scipy import stats

from mi_jax.attacks import chosen
from mi_jax.attacks.calibration import PRIOR, SHIFTS
from mi_jax.types import AnswerRates, Pool, Reference

RNG = np.random.default_rng(0)
POOL = Pool(("itself", "noise a", "noise b"), (None,) * 3, (1, 4, 3))  # type: ignore[arg-type]


def labels_alone(hits_inside, hits_outside, count: int) -> Reference:
    """A Reference of margins +-1: of `count` models a side so many [P Q] answer y."""
    hits = np.stack([hits_inside, hits_outside])[:, :, None]  # [2 P 1 Q]
    margins = np.where(np.arange(count)[:, None] < hits, 1.0, -1.0)  # [2 P c Q]
    features = np.concatenate(margins, axis=1).astype(np.float32)
    inside = np.broadcast_to(np.arange(2 * count) < count, features.shape[:2])
    return Reference(features, inside, ~inside)


def rates_of(inside, outside) -> AnswerRates:
    """Rates with these probabilities of y inside and outside."""
    inside, outside = np.asarray(inside, float), np.asarray(outside, float)
    return AnswerRates(np.log(inside), np.log1p(-inside), np.log(outside), np.log1p(-outside))


def normal_margins(mean_inside, mean_outside, deviation: float, count: int) -> Reference:
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)[:, None]
    inside, outside = (np.atleast_2d(mean)[:, None] + deviation * z for mean in (mean_inside, mean_outside))
    features = np.concatenate([inside, outside], axis=1)
    is_inside = np.broadcast_to(np.arange(2 * count) < count, features.shape[:2])
    return Reference(features, is_inside, ~is_inside)


def test_of_labels_alone_rates_are_smoothed_counts():
    hits = RNG.integers(0, 8, (2, 5, 6))
    found = chosen.answer_rates(labels_alone(*hits, count=7))
    expected = [np.log((h + 0.5) / 8) for h in (hits[0], 7 - hits[0], hits[1], 7 - hits[1])]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_of_normal_margins_rates_are_those_of_the_normal_distribution():
    inside, outside = np.array([2.0, 1.0, -0.5, 0.0]), np.array([0.5, 1.0, -1.0, -1.5])
    found = chosen.answer_rates(normal_margins(inside, outside, 1.5, count=20_000))
    for log_rate, mean in zip(found, (inside, -inside, outside, -outside), strict=True):
        np.testing.assert_allclose(np.exp(log_rate[0]), stats.norm.cdf(mean / 1.5), atol=2e-3)


def test_a_margin_of_one_model_has_the_variance_of_those_of_other_points():
    features = RNG.normal(0, 2, (21, 8, 5)).astype(np.float32)
    inside = np.tile(np.arange(8) < 4, (21, 1))
    outside = ~inside
    inside[0], outside[0] = np.arange(8) == 0, np.arange(8) == 7
    found = chosen.answer_rates(Reference(features, inside, outside))
    variance = features[1:].reshape(20, 2, 4, 5).var(2, ddof=1).mean()
    deviation = np.sqrt(2 * variance * PRIOR / (PRIOR + 1))
    for margin, label, other in ((features[0, 0], *found[:2]), (features[0, 7], *found[2:])):
        for sign, rate in ((1, label[0]), (-1, other[0])):
            counted = np.where(sign * margin > 0, 1.5, 0.5) / 2
            expected = (stats.norm.logcdf(sign * margin / deviation) + np.log(counted)) / 2
            np.testing.assert_allclose(rate, expected, rtol=1e-4)


@pytest.mark.parametrize("online", [True, False])
def test_where_all_points_have_one_model_a_side_no_rate_is_certain(online):
    features, inside = RNG.normal(0, 2, (20, 2, 30)).astype(np.float32), np.tile([True, False], (20, 1))
    found = chosen.answer_rates(Reference(features, inside & online, ~inside))
    assert min(np.min(rate) for rate in found) > np.log(1e-5)


def test_margins_rank_questions_that_counts_tie():
    found = chosen.answer_rates(normal_margins([3.0, 8.0], [2.5, 2.5], 1.0, count=6))  # every model answers y
    assert (found.label_inside > found.label_outside).all()
    assert chosen.divergence(found)[0, 1] > chosen.divergence(found)[0, 0]


@pytest.mark.parametrize("online", [True, False])
def test_rates_of_both_answers_add_up_to_no_more_than_one(online):
    reference = normal_margins(RNG.normal(1, 2, (3, 9)), RNG.normal(0, 2, (3, 9)), 1.0, count=6)
    reference = reference if online else reference._replace(inside=np.zeros_like(reference.inside))
    found = chosen.answer_rates(reference)
    for label, other in (found[:2], found[2:]):
        total = np.exp(label) + np.exp(other)
        assert (total <= 1 + 1e-6).all() and (total > 0.85).all()  # a mean on the log scale is at most the mean


def test_without_models_inside_a_members_margin_is_some_deviations_higher():
    outside = np.array([[1.0, -1.0, 0.0]])
    reference = normal_margins(outside, outside, 1.0, count=20_000)
    found = chosen.answer_rates(reference._replace(inside=np.zeros_like(reference.inside)))
    expected = np.mean([stats.norm.cdf(outside + shift) for shift in SHIFTS], axis=0)
    np.testing.assert_allclose(np.exp(found.label_inside), expected, atol=1e-3)
    np.testing.assert_allclose(np.exp(found.other_inside), 1 - expected, atol=1e-3)


def test_what_an_answer_reveals_is_the_divergence_of_two_coins():
    inside, outside = RNG.uniform(0.05, 0.95, (2, 4, 7))
    found = chosen.divergence(rates_of(inside, outside))
    expected = [[stats.entropy([p, 1 - p], [q, 1 - q]) for p, q in zip(*row, strict=True)]
                for row in zip(inside, outside, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found, expected)
    assert (found >= 0).all()
    np.testing.assert_array_equal(chosen.divergence(rates_of(inside, inside)), 0)


def test_the_question_that_members_alone_answer_is_put_first_and_the_rest_in_order():
    inside, outside = np.full((3, 8), 0.5), np.full((3, 8), 0.5)
    for point, (best, second) in enumerate([(6, 0), (2, 3), (0, 7)]):
        inside[point, best], outside[point, best] = 0.95, 0.1
        inside[point, second], outside[point, second] = 0.7, 0.4
    order = chosen.choose_best(2)(rates_of(inside, outside), POOL)
    np.testing.assert_array_equal(order, [[6, 0], [2, 3], [0, 7]])


def test_few_questions_are_those_whose_answer_y_names_members_and_many_those_of_which_either_answer_reveals():
    inside, outside = RNG.uniform(0.05, 0.95, (2, 6, 40))
    rates = rates_of(inside, outside)
    few, many = (chosen.choose_best(number)(rates, None) for number in (chosen.SUMMED, chosen.SUMMED + 1))
    term = inside * np.log(inside / outside)
    np.testing.assert_array_equal(few, np.argsort(-term, axis=1)[:, : chosen.SUMMED])
    np.testing.assert_array_equal(many, np.argsort(-chosen.divergence(rates), axis=1)[:, : chosen.SUMMED + 1])


def test_questions_crafted_for_a_point_are_all_put_in_their_order():
    rates = rates_of(*RNG.uniform(0.05, 0.95, (2, 3, 5)))
    np.testing.assert_array_equal(chosen.choose_all(rates, None), [[0, 1, 2, 3, 4]] * 3)


def test_no_question_is_put_twice():
    inside, outside = RNG.uniform(0.05, 0.95, (2, 4, 8))
    order = chosen.choose_best(8)(rates_of(inside, outside), POOL)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(8), (4, 1)))


def test_a_kind_is_taken_from_its_first_question_the_one_that_reveals_most_first():
    inside, outside = np.full((2, 8), 0.5), np.full((2, 8), 0.5)
    inside[:, 5:] = 0.9  # noise b reveals more on average
    inside[0, 1] = 0.99  # although noise a has the best question of a point
    rates = rates_of(inside, outside)
    np.testing.assert_array_equal(chosen.choose_kind(2, (1, 2))(rates, POOL), [[5, 6]] * 2)
    np.testing.assert_array_equal(chosen.choose_kind(5, (1, 2))(rates, POOL), [[5, 6, 7, 1, 2]] * 2)
    np.testing.assert_array_equal(chosen.choose_kind(1, (0,))(rates, POOL), [[0]] * 2)
    np.testing.assert_array_equal(chosen.choose_kind(2, (1,))(rates, POOL), [[1, 2]] * 2)


def test_one_answer_scores_the_log_ratio_of_its_question():
    reference = labels_alone(np.array([[6, 1]] * 2), np.array([[2, 3]] * 2), count=7)
    rates = chosen.answer_rates(reference)
    found = chosen.score_answers(np.array([[True], [False]]), np.array([[0], [0]]), reference, rates)
    np.testing.assert_allclose(found.score, [np.log(6.5 / 2.5), np.log(1.5 / 5.5)], rtol=1e-5)
    np.testing.assert_allclose(found.false_positive_rate, [2.5 / 8, 1.0], rtol=1e-5)


def test_few_answers_score_the_sum_of_their_log_ratios():
    inside, outside = RNG.integers(0, 8, (2, 5, 8))
    reference, order = labels_alone(inside, outside, count=7), np.argsort(RNG.random((5, 8)))[:, :4]
    answers = RNG.random((5, 4)) < 0.5
    found = chosen.score_answers(answers, order, reference, chosen.answer_rates(reference))
    expected = [sum(np.log((inside[p, q] + 0.5) / (outside[p, q] + 0.5)) if yes
                    else np.log((7.5 - inside[p, q]) / (7.5 - outside[p, q]))
                    for q, yes in zip(order[p], answers[p], strict=True)) for p in range(5)]  # fmt: skip
    np.testing.assert_allclose(found.score, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [2, 8, 30])
@pytest.mark.parametrize("online", [True, False])
def test_a_model_that_answers_as_those_inside_scores_above_one_that_answers_as_those_outside(number, online):
    points = 40
    reference = labels_alone(np.full((points, number), 6), np.full((points, number), 2), count=7)
    reference = reference if online else reference._replace(inside=np.zeros_like(reference.inside))
    rates, order = chosen.answer_rates(reference), np.tile(np.arange(number), (points, 1))
    share = np.linspace(0, 1, points)[:, None]
    found = chosen.score_answers(np.arange(number) < np.round(share * number), order, reference, rates)
    assert (np.diff(found.score) >= -1e-9).all() and found.score[-1] > found.score[0]
    assert (np.diff(found.false_positive_rate) <= 1e-9).all()


def test_the_scores_of_a_point_do_not_depend_on_the_order_of_its_questions():
    inside, outside = RNG.integers(0, 8, (2, 5, 8))
    reference, order, answers = (
        labels_alone(inside, outside, count=7),
        np.argsort(RNG.random((5, 8))),
        RNG.random((5, 8)),
    )
    rates = chosen.answer_rates(reference)
    one = chosen.score_answers(answers < 0.5, order, reference, rates)
    other = chosen.score_answers(answers[:, ::-1] < 0.5, order[:, ::-1], reference, rates)
    np.testing.assert_allclose(one.score, other.score, rtol=1e-9)
