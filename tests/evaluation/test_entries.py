"""Entries of a record: rates of all targets together, and what an attack says that judges every point by itself."""

import numpy as np
import pytest

from mi_jax.evaluation import entries, metrics
from mi_jax.types import Answers, Attack, Measure, PerExample, Pool


def by_trying_every_threshold(scores: np.ndarray, is_member: np.ndarray, fpr: float) -> float:
    """The highest TPR of a threshold whose FPR is not above `fpr`."""
    found = 0.0
    for threshold in scores:
        positive = scores >= threshold
        if positive[~is_member].mean() <= fpr:
            found = max(found, positive[is_member].mean())
    return found


@pytest.mark.parametrize("fpr", entries.FPRS)
@pytest.mark.parametrize("digits", [1, 3])
def test_a_pooled_rate_is_that_of_the_best_threshold_with_the_exact_interval_of_its_hits(fpr, digits):
    rng = np.random.default_rng(0)
    is_member = np.arange(2000) < 900
    scores = np.round(rng.normal(size=2000) + is_member, digits)
    found = entries.pooled_rate(scores, is_member, fpr)
    assert found["mean"] == by_trying_every_threshold(scores, is_member, fpr) and found["fpr"] <= fpr
    assert (found["low"], found["high"]) == metrics.clopper_pearson(round(900 * found["mean"]), 900)


@pytest.mark.parametrize("fpr, enough", [(0.1, 10), (0.01, 100), (0.001, 1000)])
def test_a_rate_needs_as_many_non_members_as_one_of_them_is_no_more_than_it(fpr, enough):
    for nonmembers in (enough - 1, enough):
        is_member = np.arange(20 + nonmembers) < 20
        found = entries.pooled_rate(is_member.astype(float), is_member, fpr)
        assert (found is None) == (nonmembers < enough)


def answers(points: int) -> Answers:
    return Answers(
        np.ones((points, 1, 1), np.float32), np.full(points, 5), np.ones(points, bool), {"questions": 5 * points}
    )


def entry_of(attack, scores: np.ndarray) -> dict:
    """The entry of an attack on targets of as many members as non-members with these scores [T 2n]."""
    is_member = np.tile(np.arange(scores.shape[1]) < scores.shape[1] // 2, (len(scores), 1))
    tuned = {"threshold": [0.5] * len(scores)}
    return entries.attack_entry(attack, [answers(scores.shape[1]) for _ in scores], scores, is_member, tuned)


PER_EXAMPLE = PerExample("mine", "label", Pool(("itself", "noise"), (lambda key, x: x,) * 2, (1, 4)), None, None,
                         lambda *_: None, online=False)  # fmt: skip
ONE_THRESHOLD = Attack("mine", "label", lambda key, x: x[None], Measure(lambda *_: None, (), lambda state: state),
                       lambda *_: None)  # fmt: skip


def test_one_threshold_stands_for_the_points_of_all_targets():
    """Each target tells its members apart, but the scores of the second are all above those of the first."""
    separated = np.concatenate([np.ones(10), np.zeros(10)])
    entry = entry_of(ONE_THRESHOLD, np.stack([separated, separated + 2]))
    assert entry["tpr_at_fpr"]["0.1"]["values"] == [1.0, 1.0]
    assert entry["pooled"]["0.1"]["mean"] == 0.5 and entry["pooled"]["0.1"]["fpr"] == 0.0


def test_points_of_all_targets_resolve_what_those_of_one_do_not_and_unfinished_ones_are_none():
    scores = np.tile(np.concatenate([np.ones(60), np.zeros(60)]), (2, 1))
    entry = entry_of(ONE_THRESHOLD, scores)
    assert entry["tpr_at_fpr"]["0.01"] is None and entry["pooled"]["0.01"]["mean"] == 1.0
    scores[:, -20:] = np.nan  # 80 non-members are left
    assert entry_of(ONE_THRESHOLD, scores)["pooled"]["0.01"] is None


def test_an_attack_on_every_point_says_so_and_what_it_asks():
    scores = np.tile(np.concatenate([np.ones(10), np.zeros(10)]), (2, 1))
    judged = entry_of(PER_EXAMPLE, scores)
    assert judged["every_point"] == {"online": False, "pool": {"kinds": ["itself", "noise"], "counts": [1, 4]}}
    assert entry_of(PER_EXAMPLE._replace(pool=None), scores)["every_point"]["pool"] is None
    assert "every_point" not in entry_of(ONE_THRESHOLD, scores)
    assert judged["queries_per_example"] == 5 and judged["phases"] == {"questions": 200}


def test_an_attack_on_every_point_has_no_setting_at_an_edge_of_its_single_candidate():
    assert entries.at_edge(PER_EXAMPLE._replace(settings={"queries": 5}), (PER_EXAMPLE,)) is None
