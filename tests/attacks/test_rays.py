"""Shortest rays against a flat boundary, and what they may not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import attacks, audit, data, perturbations, testing
from mi_jax.attacks import boundary
from mi_jax.attacks.rays import ray_distance
from mi_jax.data import splits
from mi_jax.querying import driver, oracle
from mi_jax.types import Attack, Model

KEY = jax.random.key(4)
W = np.random.default_rng(0).normal(size=12) / np.sqrt(12)
B = -0.5 * W.sum()


def ask(measure, target, x, y, **options):
    attack = Attack("test", "label", perturbations.only_itself, measure, lambda *_: None)
    target = target if isinstance(target, oracle.Oracle) else oracle.function_oracle(target, 2)
    return driver.query(target, attack, KEY, x, y, np.arange(len(x)), **options)


def points(P):
    x = np.random.default_rng(1).uniform(0.2, 0.8, (P, 12)).astype(np.float32)
    return x, testing.linear_oracle(W, B)(x)


def test_rays_come_near_the_truth_from_above_and_the_nearer_the_more_is_asked():
    x, y = points(30)
    course = ask(ray_distance(300), testing.linear_oracle(W, B), x, y).features[:, 0]
    ratio = course / (np.abs(x @ W + B) / np.linalg.norm(W))[:, None]
    assert ratio.min() > 1 - 1e-5 and (course[:, 1:] <= course[:, :-1]).all()
    medians = np.median(ratio, axis=0)
    assert medians[299] < medians[30] < medians[5]
    assert (
        medians[299] < 1.8
    )  # the best of 250 directions in 12 dimensions has cos 0.75; coarse brackets, and the box, cost


def test_a_longer_run_begins_with_the_shorter_one():
    x, y = points(5)
    long, short = (ask(ray_distance(queries), testing.linear_oracle(W, B), x, y).features for queries in (60, 25))
    np.testing.assert_array_equal(long[..., :25], short)


def test_the_distance_read_is_that_of_a_point_asked_about_and_labelled_otherwise():
    (x, y), target, asked = points(1), testing.linear_oracle(W, B), []

    def spy(z):
        asked.append(np.array(z))
        return target(z)

    course = ask(ray_distance(50), spy, x, y).features[0, 0]
    z = np.concatenate(asked)
    assert len(z) == 51 and z.min() >= 0 and z.max() <= 1
    flipped = np.linalg.norm(z.astype(float) - x[0], axis=1)[target(z) != y[0]]
    np.testing.assert_allclose(course[-1], flipped.min(), rtol=1e-6)


def test_query_counts_misclassified_points_and_points_that_never_flip():
    x, y = points(9)
    counted, seen = testing.count_queries(testing.linear_oracle(W, B))
    wrong = np.arange(9) < 2
    answers = ask(ray_distance(20), counted, x, np.where(wrong, 1 - y, y), points_at_once=4)
    np.testing.assert_array_equal(answers.queries, np.where(wrong, 1, 21))
    assert seen["queries"] == answers.queries.sum() == sum(answers.phases.values())
    assert (answers.features[wrong] == 0).all() and answers.phases["rays"] == 140
    constant = ask(ray_distance(20), testing.constant_oracle(0), x, np.zeros(9, np.int32))
    assert (constant.features == np.inf).all() and boundary.never_flipped(constant.features).all()
    assert not boundary.never_flipped(answers.features).any()


def test_distances_are_the_same_to_the_bit_alone_permuted_and_rechunked():
    x, y = points(66)
    w = jnp.asarray(W, jnp.float32)
    model = Model(None, lambda w, x, key=None: jnp.stack([jnp.zeros(len(x)), (x * w).sum(1) + np.float32(B)], 1))
    target, measure = oracle.model_oracle(model, w, 2), ray_distance(40)
    together = ask(measure, target, x, y).features
    for chunk in (7, 64):
        np.testing.assert_array_equal(ask(measure, target, x, y, points_at_once=chunk).features, together)
    alone = ask(measure, target, x[:1], y[:1], points_at_once=1).features
    np.testing.assert_array_equal(alone[0], together[0])
    assert ray_distance(40) is measure


def test_rays_that_ask_nothing_are_refused():
    for wrong in ((0, 3), (5, 0)):
        with pytest.raises(ValueError, match="expected at least 1 query and 1 bisection"):
            ray_distance(*wrong)


def test_an_audit_of_targets_that_never_flip_is_a_tie():
    x = np.random.default_rng(1).random((40, 12), np.float32)
    dataset = data.from_arrays("never", x, np.zeros(40, np.int32), num_classes=2)
    split = splits.disjoint(0, 40, 5, num_targets=1, num_shadows=2)
    candidates = {"rays": attacks.build("rays", attacks.AttackContext((12,), 2, dataset.binary, 20))}

    def target(k, access):
        return oracle.function_oracle(testing.constant_oracle(0), 2)

    record, scores = audit.audit(KEY, dataset, split, target, candidates)
    assert (scores["attack/rays/scores"] == np.inf).all() and record["attacks"]["rays"]["auc"]["mean"] == 0.5
    assert record["attacks"]["rays"]["balanced_accuracy"]["mean"] == 0.5
