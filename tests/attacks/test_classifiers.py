import jax
import numpy as np
import pytest

from mi_jax.attacks import classifiers
from mi_jax.evaluation import metrics

KEY = jax.random.key(0)


def rows(count, seed=0):
    """Features of which the first tells members apart, with 20 % errors; in the two classes it points opposite ways."""
    rng = np.random.default_rng(seed)
    is_member, y = rng.random(count) < 0.5, rng.integers(0, 2, count)
    bit = is_member ^ (rng.random(count) < 0.2) ^ (y == 1)
    return np.stack([bit, rng.random(count) < 0.5], 1).astype(np.float32)[:, :, None], y, is_member


def test_a_network_per_class_learns_what_one_for_all_cannot():
    features, y, is_member = rows(800)
    fresh, fresh_y, fresh_member = rows(800, seed=1)
    for per_class, low, high in ((True, 0.75, 0.85), (False, 0.45, 0.55)):
        fitted = classifiers.network((10, 10), per_class=per_class)(KEY, features, y, is_member)
        accuracy = metrics.balanced_accuracy(fitted.score(fresh, fresh_y), fresh_member, 0.0)
        assert low < accuracy < high  # the Bayes rate is 0.8, chance 0.5; 800 rows have a deviation of 0.014-0.018


def test_held_out_scores_are_not_those_of_rows_it_was_trained_on():
    """With labels drawn at random and as many features as rows, a network knows its rows and nothing else."""
    rng = np.random.default_rng(0)
    features, is_member = rng.normal(size=(120, 60, 1)).astype(np.float32), np.arange(120) % 2 == 0
    fitted = classifiers.network((64,), per_class=False)(KEY, features, np.zeros(120, int), is_member)
    assert metrics.auc(fitted.score(features, np.zeros(120, int)), is_member) > 0.95
    assert abs(metrics.auc(fitted.held_out, is_member) - 0.5) < 3.5 * np.sqrt(121 / (12 * 60 * 60))  # null deviation


def test_folding_equal_rows_changes_nothing_but_rounding():
    features, y, is_member = rows(200)
    jittered = features + np.random.default_rng(2).normal(size=features.shape).astype(np.float32) * 1e-6
    fit = classifiers.network((10, 10), per_class=True)
    folded, apart = fit(KEY, features, y, is_member), fit(KEY, jittered, y, is_member)
    # 300 Adam steps amplify a difference of 1e-6 in the inputs; a lost or doubled row would move scores by 0.1.
    np.testing.assert_allclose(folded.held_out, apart.held_out, atol=0.02)
    np.testing.assert_allclose(folded.score(features, y), apart.score(features, y), atol=0.02)


def test_a_class_never_seen_scores_zero():
    features, y, is_member = rows(100)
    fitted = classifiers.network((10,), per_class=True)(KEY, features, y * 2, is_member)
    unseen = np.array([1, 5, -1])
    np.testing.assert_array_equal(fitted.score(features[:3], unseen), 0)


@pytest.mark.parametrize("per_class", [True, False])
def test_one_class_and_one_side_only_do_not_break_it(per_class):
    features, _, _ = rows(30)
    fitted = classifiers.network((10,), per_class=per_class)(KEY, features, np.zeros(30, int), np.ones(30, bool))
    assert np.isfinite(fitted.held_out).all()


def test_logistic_regression_finds_the_weights_of_independent_bits():
    rng = np.random.default_rng(0)
    is_member, weights = rng.random(4000) < 0.5, np.array([0.9, 0.6, 0.5])
    right = rng.random((4000, 3)) < np.where(is_member[:, None], weights, 1 - weights)
    fitted = classifiers.logistic(KEY, right[..., None].astype(np.float32), np.zeros(4000, int), is_member)
    every = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    bayes = (2 * every - 1) @ np.log(weights / (1 - weights))
    # The score of independent bits is linear, with these weights; 4,000 rows know each to about 0.1.
    np.testing.assert_allclose(fitted.score(every[..., None], np.zeros(8, int)), bayes, atol=0.4)
    assert (
        abs(metrics.auc(fitted.held_out, is_member) - metrics.auc(right @ np.log(weights / (1 - weights)), is_member))
        < 0.02
    )


def test_logistic_regression_is_held_out_and_survives_one_side_only():
    rng = np.random.default_rng(0)
    bits, is_member = (rng.random((120, 100, 1)) < 0.5).astype(np.float32), np.arange(120) % 2 == 0
    fitted = classifiers.logistic(KEY, bits, np.zeros(120, int), is_member)
    assert abs(metrics.auc(fitted.held_out, is_member) - 0.5) < 3.5 * np.sqrt(121 / (12 * 60 * 60))  # null deviation
    lone = classifiers.logistic(KEY, bits, np.zeros(120, int), np.ones(120, bool))
    assert (lone.held_out == 0).all() and (lone.score(bits, np.zeros(120, int)) == 0).all()


def test_the_learning_rate_is_that_of_the_smallest_loss_on_held_out_rows(monkeypatch):
    """Of labels drawn at random the highest rate learns its own rows best, and the lowest does least harm elsewhere."""
    rng = np.random.default_rng(0)
    features, is_member = rng.normal(size=(120, 60, 1)).astype(np.float32), np.arange(120) % 2 == 0
    fit = classifiers.network((64,), per_class=False)
    chosen = fit(KEY, features, np.zeros(120, int), is_member).held_out
    monkeypatch.setattr(classifiers, "LEARNING_RATES", (min(classifiers.LEARNING_RATES),))
    np.testing.assert_allclose(chosen, fit(KEY, features, np.zeros(120, int), is_member).held_out, atol=1e-5)


def test_the_penalty_of_logistic_regression_is_that_of_the_smallest_loss_on_held_out_rows(monkeypatch):
    rng = np.random.default_rng(0)
    bits, is_member = (rng.random((120, 100, 1)) < 0.5).astype(np.float32), np.arange(120) % 2 == 0
    chosen = classifiers.logistic(KEY, bits, np.zeros(120, int), is_member).held_out
    monkeypatch.setattr(classifiers, "PENALTIES", (min(classifiers.PENALTIES),))
    np.testing.assert_allclose(chosen, classifiers.logistic(KEY, bits, np.zeros(120, int), is_member).held_out)


@pytest.mark.parametrize("fit", [classifiers.network((10,), per_class=False), classifiers.logistic])
def test_an_infinite_feature_ranks_beyond_every_finite_one_and_all_of_them_alike(fit):
    """Members are far: the farther the distance, the higher the score, and where nothing flips it is the highest."""
    rng = np.random.default_rng(0)
    is_member = np.arange(200) % 2 == 0
    distance = rng.random(200).astype(np.float32) + is_member
    distance[is_member & (distance > 1.7)] = np.inf
    fitted = fit(KEY, distance[:, None, None], np.zeros(200, int), is_member)
    assert np.isfinite(fitted.held_out).all()
    fresh = np.float32([0.1, 1.0, 1.69, np.inf, 5.0, np.inf])[:, None, None]
    scores = fitted.score(fresh, np.zeros(6, int))
    assert (np.diff(scores[:4]) > 0).all() and (scores[3:] == scores[3]).all()
    infinite = fit(KEY, np.full((20, 1, 1), np.inf, np.float32), np.zeros(20, int), np.arange(20) < 10)
    assert np.isfinite(infinite.score(fresh, np.zeros(6, int))).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinity_that_no_shadow_row_has_is_put_beyond_all_of_them(value):
    shadow = np.float32([0.2, 0.4, 0.9])[:, None, None]
    finite = classifiers._finite_like(shadow)
    np.testing.assert_array_equal(finite(shadow), shadow)
    known, far = finite(np.float32([[[value]], [[9.0]]])).ravel()
    assert far == 9 and (known > 0.9 if value > 0 else known < 0.2) and np.isfinite(known)
