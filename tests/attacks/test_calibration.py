"""Likelihood ratios beside their closed forms, and beside slow loops over points and models."""

import numpy as np
import pytest
from scipy import stats

from mi_jax.attacks import calibration
from mi_jax.attacks.calibration import PRIOR, SHIFTS, hurdle, shrunk, side, student
from mi_jax.types import Reference

RNG = np.random.default_rng(0)


def reference_of(inside: np.ndarray, outside: np.ndarray) -> Reference:
    """A Reference with these features [P c] of models inside and [P c] of models outside."""
    features = np.concatenate([inside, outside], axis=1)[..., None].astype(float)
    is_inside = np.broadcast_to(np.arange(features.shape[1]) < inside.shape[1], features.shape[:2])
    return Reference(features, is_inside, ~is_inside)


def offline(outside: np.ndarray) -> Reference:
    return reference_of(outside[:, :0], outside)


def test_moments_are_those_of_a_loop_over_points_and_their_models():
    features, models = RNG.normal(size=(150, 9, 3)), RNG.random((150, 9)) < 0.5
    models[:3] = [[False] * 9, [True] + [False] * 8, [True] * 9]
    found = side(features, models)
    for point, used in enumerate(models):
        own = features[point][used]
        assert found.count[point, 0] == len(own)
        np.testing.assert_allclose(found.mean[point], own.mean(0) if len(own) else np.zeros(3), atol=1e-12)
        np.testing.assert_allclose(
            found.variance[point], own.var(0, ddof=1) if len(own) > 1 else np.zeros(3), atol=1e-12
        )


def test_moments_of_large_values_do_not_cancel_in_single_precision():
    features = (1e4 + RNG.normal(size=(2, 40, 1))).astype(np.float32)
    found = side(features, np.ones((2, 40), bool))
    np.testing.assert_allclose(found.variance, features.astype(float).var(1, ddof=1), rtol=1e-3)


def test_a_variance_is_shrunk_as_if_prior_more_models_had_the_pooled_one():
    one = side(RNG.normal(size=(4, 6, 2)), np.ones((4, 6), bool))
    np.testing.assert_allclose(shrunk(one, np.float64(2.5)), (6 * one.variance + PRIOR * 2.5) / (6 + PRIOR))


def test_with_many_models_the_score_is_the_log_ratio_of_two_normals():
    values, count = np.array([-2.0, -0.5, 0.0, 1.0, 3.0]), 100_000
    inside, outside = (np.broadcast_to(stats.norm.ppf((np.arange(count) + 0.5) / count), (5, count)),) * 2
    found = student(values, reference_of(1.5 + 2 * inside, outside))
    expected = stats.norm.logpdf(values, 1.5, 2) - stats.norm.logpdf(values, 0, 1)
    np.testing.assert_allclose(found.score, expected, atol=2e-3)  # Student's t of 10^5 degrees, and quantiles
    np.testing.assert_allclose(found.false_positive_rate, stats.norm.sf(values), atol=1e-3)


def test_with_few_models_the_score_is_the_log_ratio_of_two_predictive_distributions():
    inside, outside, values = RNG.normal(1, 2, (6, 3)), RNG.normal(0, 1, (6, 5)), RNG.normal(size=6)
    expected = np.zeros(6)
    for models, sign in ((inside, 1), (outside, -1)):
        count, own = models.shape[1], models.var(1, ddof=1)
        variance = (count * own + PRIOR * own.mean()) / (count + PRIOR)
        scale = np.sqrt(variance * (1 + 1 / count))
        expected += sign * stats.t.logpdf(values, count + PRIOR, models.mean(1), scale)
    np.testing.assert_allclose(student(values, reference_of(inside, outside)).score, expected)


def test_one_model_a_side_is_enough():
    reference = reference_of(np.full((3, 1), 2.0), np.zeros((3, 1)))
    found = student(np.array([0.0, 1.0, 2.0]), reference)
    np.testing.assert_allclose(found.score, [-found.score[2], 0, found.score[2]], atol=1e-12)
    assert found.score[2] > 0


@pytest.mark.parametrize("shift, scale", [(3.0, 1.0), (0.0, 0.01), (-50.0, 1.0), (2.0, 100.0)])
@pytest.mark.parametrize("online", [True, False])
def test_the_score_does_not_change_with_the_unit_and_origin_of_the_statistic(shift, scale, online):
    reference, values = reference_of(RNG.normal(1, 1, (20, 4)), RNG.normal(0, 1, (20, 4))), RNG.normal(size=20)
    reference = reference if online else reference._replace(inside=np.zeros_like(reference.inside))
    moved = reference._replace(features=shift + scale * reference.features)
    for ours, theirs in zip(student(shift + scale * values, moved), student(values, reference), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_score_does_not_depend_on_models_that_calibrate_no_point():
    reference, values = reference_of(RNG.normal(1, 1, (5, 6)), RNG.normal(0, 1, (5, 6))), RNG.normal(size=5)
    used = np.arange(12) % 3 > 0
    fewer = Reference(reference.features, reference.inside & used, reference.outside & used)
    poisoned = fewer._replace(features=np.where(used[:, None], reference.features, 1e9))
    np.testing.assert_array_equal(student(values, poisoned).score, student(values, fewer).score)


def test_without_models_inside_the_score_rises_with_the_value_however_large():
    values = np.concatenate([np.linspace(-30, 30, 400), [100, 1e3, 1e6]])
    outside = np.broadcast_to(RNG.normal(size=(1, 8)), (len(values), 8))
    found = student(values, offline(outside))
    assert (np.diff(found.score) > 0).all() and np.isfinite(found.score).all()
    assert (np.diff(found.false_positive_rate) <= 0).all()


def test_without_models_inside_the_score_tends_to_that_of_a_member_some_deviations_higher():
    values, count = np.array([-1.0, 0.0, 2.0, 4.0]), 100_000
    outside = np.broadcast_to(stats.norm.ppf((np.arange(count) + 0.5) / count), (4, count))
    likelihoods = np.mean([stats.norm.pdf(values, shift) for shift in SHIFTS], axis=0)
    expected = np.log(likelihoods / stats.norm.pdf(values))
    np.testing.assert_allclose(student(values, offline(outside)).score, expected, atol=5e-3)


def distances(points: int = 4) -> Reference:
    return reference_of(RNG.lognormal(1, 0.5, (points, 6)), RNG.lognormal(0, 0.5, (points, 6)))


@pytest.mark.parametrize("online", [True, False])
def test_a_mislabelled_point_scores_by_how_often_each_side_mislabels_it(online):
    reference = distances(1)
    features = reference.features.copy()
    features[0, [0, 6, 7, 8], 0] = 0  # one of six models inside is wrong, three of six outside
    inside = reference.inside if online else np.zeros_like(reference.inside)
    found = hurdle(np.zeros(1), Reference(features, inside, reference.outside))
    right_outside = 3.5 / 7
    right_inside = 5.5 / 7 if online else (1 + right_outside) / 2
    np.testing.assert_allclose(found.score, np.log((1 - right_inside) / (1 - right_outside)))
    assert found.false_positive_rate == 1


def test_a_correct_point_adds_the_ratio_of_being_correct_to_that_of_its_distance():
    reference, values = distances(), np.array([0.5, 1.0, 3.0, 9.0])
    found = hurdle(values, reference)
    logarithms = reference._replace(features=np.log(reference.features))
    expected = student(np.log(values), logarithms, typical=1.0)
    np.testing.assert_allclose(found.score, expected.score)  # all models are right: the first ratio is 1
    np.testing.assert_allclose(found.false_positive_rate, 6.5 / 7 * expected.false_positive_rate)


def test_a_distance_that_no_query_found_counts_as_the_largest_one_found():
    reference = distances(2)
    features = np.repeat(reference.features[:1], 2, axis=0)
    features[:, 2] = np.inf
    largest = features[np.isfinite(features)].max()
    found = hurdle(np.array([np.inf, largest]), reference._replace(features=features))
    assert found.score[0] == found.score[1] and np.isfinite(found.score).all()


def test_a_point_that_all_models_of_a_side_mislabel_has_a_finite_score():
    reference = distances(3)
    features = reference.features.copy()
    features[0, :6] = features[1, 6:] = features[2] = 0
    found = hurdle(np.array([1.0, 1.0, 1.0]), reference._replace(features=features))
    assert np.isfinite(found.score).all() and np.isfinite(found.false_positive_rate).all()
    assert found.score[1] > found.score[0]


def test_scores_of_points_do_not_change_with_the_number_of_points_held_at_once(monkeypatch):
    features, models = RNG.normal(size=(70, 8, 2)), RNG.random((70, 8)) < 0.5
    whole = side(features, models)
    monkeypatch.setattr(calibration, "_AT_ONCE", 7)
    for ours, theirs in zip(side(features, models), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
