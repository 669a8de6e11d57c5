"""All trials of an audit: attacks on one pool run together, and what is planned is what is asked."""

import jax
import numpy as np
import pytest

from mi_jax import attacks, trials
from mi_jax.attacks import pools
from mi_jax.data import splits
from mi_jax.querying import oracle
from mi_jax.querying.collect import select_points
from mi_jax.types import Dataset

KEY, C, F, N, K, T = jax.random.key(0), 3, 6, 30, 8, 3
RNG = np.random.default_rng(0)
DATASET = Dataset(
    "table", RNG.random((100, F), np.float32), RNG.integers(0, C, 100).astype(np.int32), C, np.zeros(F, bool)
)
SPLIT = splits.balanced(0, 100, N, num_targets=T, num_shadows=K - 1)
PLAN = trials.Plan(DATASET, SPLIT, [select_points(SPLIT, k, None) for k in range(K)])
CONTEXT = attacks.context_of(DATASET, 12)


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    monkeypatch.setattr(pools, "COPIES", 4)


def built(*names: str):
    return {name: attacks.build(name, CONTEXT) for name in names}


def models(asked: dict):
    """Linear models that count what they are asked."""

    def target(k, access):
        weights = np.random.default_rng(k).normal(size=(F, C))

        def answer(x, live):
            asked[k] = asked.get(k, 0) + live
            logits = np.asarray(x).reshape(len(x), F) @ weights
            return logits.argmax(1) if access == "label" else logits - np.log(np.exp(logits).sum(1, keepdims=True))

        return oracle.Oracle(answer, access, C, f"{k}")

    return target


def run(group, plan=PLAN):
    """(trials by name, queries to shadow models, queries that models were asked, queries reported)."""
    asked, reported = {}, []
    found, shadow = trials.run_group(KEY, plan, group, models(asked), lambda name, compute: compute(), reported.append)
    return found, shadow, asked, sum(reported)


def test_attacks_on_the_same_questions_run_together_and_all_others_alone():
    names = ("gap", "chosen:1", "lira", "chosen_offline:5", "dhattack:5", "noise", "calibrated_noise:2", "dhattack:6")
    assert trials.group_attacks(built(*names)) == [
        ["gap"], ["chosen:1", "chosen_offline:5", "calibrated_noise:2"], ["lira"], ["dhattack:5"], ["noise"],
        ["dhattack:6"]]  # fmt: skip


@pytest.mark.parametrize(
    "names", [("chosen:1",), ("chosen:5", "calibrated_noise:3", "chosen_offline:2"), ("dhattack:7",)]
)
def test_a_pool_is_answered_by_every_shadow_model_once_and_targets_answer_what_was_chosen(names):
    group = built(*names)
    found, shadow, asked, reported = run(group)
    pool, points = group[names[0]][0].pool, 2 * N
    chosen = sum(attack.settings["queries"] for (attack,) in group.values())
    assert shadow == K * points * sum(pool.counts)
    to_targets = sum(int(trial.answers.queries.sum()) for of_attack in found.values() for trial in of_attack)
    assert to_targets == T * points * chosen
    assert sum(asked.values()) == shadow + to_targets == reported == trials.planned_queries(PLAN, group)
    for k, count in asked.items():
        assert count == points * (sum(pool.counts) + (chosen if k < T else 0))


@pytest.mark.parametrize("name", ["lira", "rmia", "calibrated_rays:5"])
def test_a_statistic_is_asked_of_every_model_once(name):
    found, shadow, asked, reported = run(built(name))
    in_all = sum(int(trial.answers.queries.sum()) for trial in found[name])
    assert sum(asked.values()) == shadow + in_all
    assert reported == trials.planned_queries(PLAN, built(name))
    if name != "calibrated_rays:5":
        assert asked == {k: 2 * N for k in range(K)}


def test_several_attacks_plan_the_sum_of_what_they_plan_alone_but_a_shared_pool_once():
    names = ("gap", "noise", "lira", "chosen:1", "chosen:5", "dhattack:5")
    alone = sum(trials.planned_queries(PLAN, built(name)) for name in names)
    pool = sum(built("chosen:1")["chosen:1"][0].pool.counts) * K * 2 * N
    assert trials.planned_queries(PLAN, built(*names)) == alone - pool


def test_attacks_with_one_threshold_are_tuned_on_the_first_shadow_models_alone():
    plan = PLAN._replace(tuning_shadows=2)
    assert plan.tuning_trials().tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    found, shadow, asked, reported = run(built("gap"), plan)
    assert set(asked) == {0, 1, 2} and sum(asked.values()) == 3 * 2 * N == shadow + 3 * 2 * N
    assert reported == trials.planned_queries(plan, built("gap"))
    assert len(found["gap"]) == T and all(len(trial.shadow_scores) == 2 * 2 * N for trial in found["gap"])


def test_every_trial_is_that_of_its_own_target():
    found, *_ = run(built("chosen:2"))
    alone = [run(built("chosen:2"), PLAN._replace(split=SPLIT._replace(trials=SPLIT.trials[t : t + 1])))[0]
             for t in range(T)]  # fmt: skip
    for t in range(T):
        (expected,) = alone[t]["chosen:2"]
        np.testing.assert_array_equal(found["chosen:2"][t].scores, expected.scores)
        np.testing.assert_array_equal(found["chosen:2"][t].false_positive_rate, expected.false_positive_rate)


def test_the_random_key_of_an_attack_is_that_of_its_name():
    together, *_ = run(built("calibrated_rays:5"))
    group, asked = built("calibrated_rays:5"), models({})
    other, _ = trials.run_group(jax.random.key(1), PLAN, group, asked, lambda name, compute: compute(), lambda q: None)
    again, *_ = run(built("calibrated_rays:5"))
    for one, same, different in zip(*(found["calibrated_rays:5"] for found in (together, again, other)), strict=True):
        np.testing.assert_array_equal(one.scores, same.scores)
        assert not np.array_equal(one.scores, different.scores)
