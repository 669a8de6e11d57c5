"""Crafted attacks: which models craft, what is asked, and how answers become scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import attacks
from mi_jax.attacks import crafted
from mi_jax.types import AnswerRates, Crafters

RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 6)).astype(np.float32), np.arange(12) % 3
REAL = attacks.AttackContext((6,), 3, np.zeros(6, bool), 5, spread=np.full(6, 0.3))


def apply(params, x):
    return x @ params


def crafters(surrogates: bool = True) -> Crafters:
    params = jnp.asarray(RNG.normal(size=(8, 6, 3)), jnp.float32)
    inside = np.tile(np.arange(8) % 2 == 0, (12, 1))
    return Crafters(apply, params, inside, ~inside, jnp.asarray(RNG.normal(size=(10, 6, 3))) if surrogates else None)


@pytest.mark.parametrize("name, number", [("yoqo", 1), ("yoqo_offline", 1), ("calibrated_yoqo", 1), ("oslo", 5)])
def test_crafted_questions_are_in_range_and_as_many_as_the_record_says(name, number):
    (attack,) = attacks.build(name, REAL)
    questions = attack.craft(crafters(), X, Y)
    assert questions.shape == (12, number, 6) and attack.settings["queries"] == number
    assert questions.min() >= 0 and questions.max() <= 1


def test_oslo_needs_surrogates_and_says_so_in_one_line():
    (attack,) = attacks.build("oslo", REAL)
    with pytest.raises(ValueError, match=r"^attack oslo: no models[^\n]*expected 10[^\n]*$"):
        attack.craft(crafters(surrogates=False), X, Y)


def test_votes_are_a_score_and_their_rate_is_that_of_the_last_one():
    (attack,) = attacks.build("oslo", REAL)
    outside = np.log(np.array([[0.9, 0.5, 0.3, 0.2, 0.1]] * 3))
    rates = AnswerRates(outside, outside, outside, outside)
    answers = np.array([[True] * 5, [True, True, False, False, False], [False] * 5])
    scored = attack.score(answers, np.tile(np.arange(5), (3, 1)), None, rates)
    np.testing.assert_array_equal(scored.score, [5, 2, 0])
    np.testing.assert_allclose(scored.false_positive_rate, [0.1, 0.5, 1.0])


def test_points_between_lie_on_the_way_to_the_nearest_row_of_another_class():
    x = np.array([[0.0, 0.0], [0.4, 0.0], [1.0, 0.0], [0.05, 0.0]], np.float32)
    y = np.array([0, 1, 1, 0])
    made = crafted.between(x, y, None)
    assert made.shape == (4, crafted.NEIGHBOURS * len(crafted.SHARES), 2)
    np.testing.assert_allclose(made[0, 0], [0.4 * crafted.SHARES[0], 0], atol=1e-6)  # the nearest first
    np.testing.assert_allclose(made[0, 1], [1.0 * crafted.SHARES[0], 0], atol=1e-6)


def test_bits_between_are_bits_of_either_row():
    x = (RNG.random((10, 20)) < 0.5).astype(np.float32)
    made = crafted.between(x, np.arange(10) % 2, np.ones(20, bool))
    assert set(np.unique(made)) <= {0.0, 1.0}
    changed = np.abs(made - x[:, None]).sum(2).reshape(10, len(crafted.SHARES), -1).mean((0, 2))
    assert (np.diff(changed) >= 0).all()  # a larger share changes more


def test_where_all_rows_have_one_label_there_is_nothing_between():
    made = crafted.between(X, np.zeros(12, int), None)
    np.testing.assert_allclose(made, np.broadcast_to(X[:, None], made.shape))


def test_crafted_candidates_follow_the_pool_and_keep_their_number():
    (attack,) = attacks.build("chosen_crafted:2", REAL)
    made = attack.craft(crafters(), X, Y)
    assert made.shape[1] == attack.settings["crafted"]
    assert attack.settings["of"] == sum(attack.pool.counts) + made.shape[1]
    assert np.isfinite(made).all() and jax.numpy.asarray(made).dtype == np.float32


@pytest.mark.parametrize("name", ["yoqo", "chosen_crafted:2"])
def test_a_point_with_all_models_on_one_side_is_not_moved_and_the_others_are(name):
    (attack,) = attacks.build(name, REAL)
    models = crafters()
    inside, outside = models.inside.copy(), models.outside.copy()
    inside[0] = outside[0] = False
    made, all_made = attack.craft(models._replace(inside=inside, outside=outside), X, Y), attack.craft(models, X, Y)
    np.testing.assert_array_equal(made[1:], all_made[1:])
    if name == "yoqo":
        np.testing.assert_array_equal(made[0, 0], X[0])
