"""What attacks are worth on points, and one less another on the points they share."""

import numpy as np
import pytest

from mi_jax.evaluation import metrics, paired

MEMBERS = np.array([True] * 4 + [False] * 4)


def hits(rows, right) -> paired.Hits:
    return paired.Hits([np.array(rows)], [MEMBERS[: len(rows)]], [np.array(right, bool)])


def test_of_unlike_sizes_only_the_common_points_are_compared_in_any_order():
    many = paired.Hits([np.arange(8)], [MEMBERS], [np.array([1, 1, 1, 0, 0, 0, 1, 1], bool)])
    few = paired.Hits([np.array([5, 0, 4, 1])], [MEMBERS[[5, 0, 4, 1]]], [np.array([1, 0, 1, 1], bool)])
    found = paired.difference(few, many)
    expected = metrics.paired_difference(
        np.array([0, 1, 1, 1], bool), np.array([1, 1, 0, 0], bool), np.array([1, 1, 0, 0], bool)
    )
    assert found == pytest.approx(expected | {"points": 4, "trials": 1})
    turned = paired.difference(many, few)
    assert (turned["mean"], turned["low"], turned["high"]) == pytest.approx(
        (-found["mean"], -found["high"], -found["low"])
    )


def test_an_accuracy_over_points_is_balanced_and_has_the_interval_of_its_counts():
    rng, members = np.random.default_rng(0), np.arange(300) < 100
    right = rng.random(300) < np.where(members, 0.9, 0.6)
    found = paired.accuracies({"a": paired.Hits([np.arange(300)], [members], [right])})["a"]
    assert found["mean"] == pytest.approx(np.mean([right[side].mean() for side in (members, ~members)]))
    called = (right == members).astype(float)
    assert found == metrics.accuracy_over_points([(called, members, 0.5)]) | {"points": 300, "trials": 1}


def test_a_difference_is_that_of_all_points_of_the_trials_both_were_put_to():
    rng = np.random.default_rng(0)
    rows, right = [rng.permutation(8) for _ in range(3)], [rng.random(8) < 0.5 for _ in range(3)]
    a = paired.Hits(rows, [MEMBERS[r] for r in rows], right)
    b = paired.Hits(rows[:2], [MEMBERS[r] for r in rows[:2]], [~r for r in right[:2]])
    found, together = paired.difference(a, b), np.concatenate(right[:2])
    expected = metrics.paired_difference(together, ~together, np.concatenate(b.is_member))
    assert found == pytest.approx(expected | {"points": 16, "trials": 2})
    each = [metrics.paired_difference(right[t], ~right[t], MEMBERS[rows[t]])["mean"] for t in range(2)]
    assert found["mean"] == pytest.approx(np.mean(each))


def test_hits_are_those_of_the_threshold_without_what_a_cap_left():
    record = {"attacks": {"noise": {"tuned": {"threshold": [0.5]}}}}
    scores = {"attack/noise/scores": np.array([[0.5, 0.1, np.nan, np.inf, 0.6]]), "rows": np.arange(5)[None],
              "is_member": np.array([[True, True, True, False, False]])}  # fmt: skip
    found = paired.hits("noise", record, scores)
    assert found.rows[0].tolist() == [0, 1, 3, 4] and found.correct[0].tolist() == [True, False, False, False]


def test_every_two_attacks_are_compared_once_the_later_first():
    a, b, c = hits(range(8), [1] * 8), hits(range(8), [1, 0] * 4), hits(range(8), [0] * 8)
    found = paired.differences({"gap": a, "noise": b, "boundary": c})
    assert list(found) == ["noise - gap", "boundary - gap", "boundary - noise"]
    assert [found[name]["mean"] for name in found] == [-0.5, -1.0, -0.5]
