"""Outliers are the points whose gamma-th neighbour is farthest, by cosine distance, and as many as were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper import figS11_outliers
from mi_jax import study
from mi_jax.data import outliers
from mi_jax.evaluation import precision
from mi_jax.study.config import Config


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
    prepared = study.prepare(Config(n_train=60, num_targets=1, num_shadows=1))
    alike = prepared._replace(params=jax.tree.map(jnp.zeros_like, prepared.params))  # as a strong penalty leaves them
    points, delta = figS11_outliers.find_outliers(alike, alike.split.trials[0][1], 0, 0.2, 3)
    np.testing.assert_array_equal(points.is_member, np.isin(points.rows, alike.split.members[0]))
    assert len(points.rows) == 24 and 4 <= points.is_member.sum() <= 20 and delta == pytest.approx(1)


def trial(outliers_called: int, everybody_called: int = 60) -> dict:
    """Of 40 outliers, 10 of them members, and of everybody; 10 and 30 non-members called."""

    def side(called, members, wrong, nonmembers):
        counts = {"called_members": called, "members": members, "called_nonmembers": wrong, "nonmembers": nonmembers}
        return counts | {"precision": precision.precision(counts)}

    return {"outliers": side(outliers_called, 10, 10, 30), "everybody": side(everybody_called, 100, 30, 100)}


def test_as_many_members_among_outliers_as_chance_gave_are_no_improvement():
    """6 of 10 members and 10 of 30 non-members are called, a share of 6 in 16, but rates as 2 to 1 as of everybody
    (6 to 3): only the share of members is another."""
    found = precision.compare([trial(6), trial(6)], "outliers")
    assert found["outliers"]["mean"] == pytest.approx(0.6 / (0.6 + 1 / 3))
    same = precision.compare([trial(6)], "outliers")["over_points"]
    assert same["everybody"]["mean"] == pytest.approx(2 / 3)
    assert same["improvement"]["low"] < 0 < same["improvement"]["high"] and abs(same["improvement"]["mean"]) < 0.03


def test_trials_stand_together_and_a_silent_one_leaves_nothing():
    one, two = precision.compare([trial(8)], "outliers"), precision.compare([trial(8), trial(8)], "outliers")
    assert one["improvement"]["low"] is None and one["improvement"]["mean"] == two["improvement"]["mean"]
    narrow, wide = (found["over_points"]["improvement"] for found in (two, one))
    assert narrow["mean"] == pytest.approx(wide["mean"])
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    silent = trial(8) | {"outliers": {"precision": None}}
    assert set(precision.compare([trial(8), silent], "outliers").values()) == {None}


def test_the_figure_has_the_papers_points_and_says_where_nobody_is_called():
    found = trial(8) | {"outliers_at_threshold_of_everybody": trial(6)["outliers"]}
    entry = precision.compare([found], "outliers") | {"models": {"test_accuracy": {"mean": 0.5}}, "trials": [found]}
    silent = entry | dict.fromkeys(("improvement", "over_points"))
    record = {"config": {"dataset": "cifar10", "n_train": 2500},
              "defenses": dict.fromkeys(figS11_outliers.DEFENSES, entry) | {"l2:3": silent}}  # fmt: skip
    (axes,) = figS11_outliers.draw(record).axes
    assert [text.get_text() for text in axes.texts] == ["no point called"]
    assert len(axes.patches) == 4
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["at the threshold of outliers", "at that of everybody", "the paper's"]
