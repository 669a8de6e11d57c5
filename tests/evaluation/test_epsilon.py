"""The lower bound of epsilon: its threshold is chosen on other models than its rates are counted on."""

import numpy as np

from mi_jax.evaluation import epsilon, metrics

DELTA, LEVEL = 1e-5, 0.95


def test_perfect_scores_prove_all_that_half_of_the_models_can():
    is_member = np.arange(200) % 2 == 0
    bound = epsilon.lower_bound(is_member * 1.0, is_member, DELTA, LEVEL)
    assert bound == {"threshold": 1.0, "epsilon": metrics.epsilon_lower_bound(50, 50, 0, 50, DELTA, LEVEL),
                     "true": 50, "members": 50, "false": 0, "nonmembers": 50}  # fmt: skip


def test_scores_that_are_perfect_on_the_first_half_alone_prove_nothing():
    is_member = np.arange(200) % 2 == 0
    scores = np.where(np.arange(200) < 100, is_member, ~is_member) * 1.0
    bound = epsilon.lower_bound(scores, is_member, DELTA, LEVEL)
    assert (bound["threshold"], bound["true"], bound["false"], bound["epsilon"]) == (1.0, 0, 50, 0.0)


def test_the_best_threshold_is_that_of_a_search_over_all_scores():
    random = np.random.default_rng(0)
    is_member = np.arange(60) % 2 == 0
    scores = np.append((random.normal(size=59) + 2 * is_member[:59]).round(1), np.inf)
    bounds = {s: epsilon.bound_at(s, scores, is_member, DELTA, LEVEL)["epsilon"] for s in scores[:59]}
    best = epsilon.best_bound_threshold(scores, is_member, DELTA, LEVEL)
    assert bounds[best] == max(bounds.values()) > 0


def test_scores_may_be_infinite():
    """Distances of canaries that no query flipped: they tell members as well as any other value."""
    is_member = np.arange(200) % 2 == 0
    finite = epsilon.lower_bound(is_member * 1.0, is_member, DELTA, LEVEL)
    infinite = epsilon.lower_bound(np.where(is_member, np.inf, 0.0), is_member, DELTA, LEVEL)
    assert infinite == finite | {"threshold": np.inf}
    assert epsilon.lower_bound(np.full(200, np.inf), is_member, DELTA, LEVEL)["epsilon"] == 0
