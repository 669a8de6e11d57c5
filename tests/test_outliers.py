"""Outliers are the points whose gamma-th neighbour is farthest, by cosine distance, and as many as were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, figS11_outliers, study
from mi_jax import outliers


def test_the_distance_to_a_neighbour_is_that_of_a_search_over_all_pairs():
    features = np.random.default_rng(0).normal(size=(50, 7))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    every = np.sort(1 - unit @ unit.T + np.diag(np.full(50, -np.inf)), 1)
    for gamma in (1, 5, 49):
        np.testing.assert_allclose(outliers.distance_to_neighbour(features, gamma), every[:, gamma], atol=1e-9)


def test_planted_points_are_the_outliers_and_as_many_as_asked_for():
    random = np.random.default_rng(0)
    crowd = np.eye(20)[0] + 0.01 * random.normal(size=(95, 20))
    features = np.concatenate([crowd, random.normal(size=(5, 20))])
    chosen, delta = outliers.outliers(features, gamma=10, beta=0.05)
    assert np.flatnonzero(chosen).tolist() == [95, 96, 97, 98, 99] and 0 < delta < 0.01
    # The definition: fewer than gamma others within delta.
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = (1 - unit @ unit.T <= delta + 1e-12).sum(1) - 1
    np.testing.assert_array_equal(chosen, near < 10)


def test_ties_do_not_change_how_many_are_chosen():
    features = np.tile(np.eye(4), (10, 1))  # every point has nine others on it
    chosen, delta = outliers.outliers(features, gamma=3, beta=0.1)
    assert chosen.sum() == 4 and abs(delta) < 1e-12


@pytest.mark.parametrize("options, named", [({"gamma": 50}, "gamma=50"), ({"gamma": 0}, "gamma=0"),
                                            ({"beta": 0}, "beta=0"), ({"beta": 1.0}, "beta=1.0")])  # fmt: skip
def test_impossible_settings_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        outliers.outliers(np.random.default_rng(0).normal(size=(50, 3)), **options)


def test_membership_does_not_choose_among_points_that_are_equally_alone():
    prepared = study.prepare(common.Config(n_train=60, num_targets=1, num_shadows=1))
    alike = prepared._replace(params=jax.tree.map(jnp.zeros_like, prepared.params))  # as a strong penalty leaves them
    points = figS11_outliers.alone(alike, alike.split.trials[0], 0, 0.2, 3)
    np.testing.assert_array_equal(points.is_member, np.isin(points.rows, alike.split.members[0]))
    assert len(points.rows) == 24 and 4 <= points.is_member.sum() <= 20
