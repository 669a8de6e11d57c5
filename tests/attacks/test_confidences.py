"""Scores from log-probabilities: precise near 1, infinite where a probability is 0 or 1, and never NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mi_jax import attacks, defenses
from mi_jax.attacks import confidence
from mi_jax.evaluation import metrics
from mi_jax.querying import driver, oracle
from mi_jax.types import Model

KEY, C, P = jax.random.key(0), 4, 60
CONTEXT = attacks.AttackContext((C,), C, None, budget=1)
LOGITS = Model(None, lambda scale, x, key=None: scale * x, "logits")  # an example is its own logits
X = np.random.default_rng(0).random((P, C), np.float32)
Y = X.argmax(1).astype(np.int32)
IS_MEMBER = np.arange(P) % 2 == 0


def features(target, x=X):
    attack = attacks.build("confidence_threshold", CONTEXT)[0]
    return driver.query(target, attack, KEY, x, Y, np.arange(len(x)), points_at_once=P).features


def scores(found):
    fits = [attack.fit for name in ("confidence_threshold", "confidence_network")
            for attack in attacks.build(name, CONTEXT)]  # fmt: skip
    return [fit(KEY, found, Y, IS_MEMBER).held_out for fit in fits]


def test_confident_points_are_told_apart_where_their_probabilities_are_all_one():
    target = oracle.model_oracle(LOGITS, jnp.float32(1024), C, access="confidence")
    found = features(target)
    assert len(np.unique(np.exp(found[:, 0].max(1)))) < P / 2  # what a threshold on probabilities would see
    true, largest, network = scores(found)
    assert len(np.unique(true)) == len(np.unique(largest)) == P
    z = 1024.0 * X.astype(float)
    others = special.logsumexp(np.where(np.eye(C, dtype=bool)[Y], -np.inf, z), axis=1)
    np.testing.assert_allclose(true, z.max(1) - others, rtol=1e-5, atol=1e-4)
    assert np.isfinite(network).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.floats(0.01, 200), st.integers(0, 2**16))
def test_the_logit_is_that_of_the_softmax_and_does_not_depend_on_the_order_of_classes(classes, scale, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(5, classes)) * scale, rng.integers(0, classes, 5)
    log = np.float32(special.log_softmax(z, axis=1))
    others = special.logsumexp(np.where(np.arange(classes) == y[:, None], -np.inf, z), axis=1)
    ours = confidence.logits_of(log, y)
    np.testing.assert_allclose(ours, z[np.arange(5), y] - others, rtol=1e-5, atol=1e-5)
    order = rng.permutation(classes)
    np.testing.assert_array_equal(confidence.logits_of(log[:, order], order.argsort()[y]), ours)


def test_probabilities_of_zero_and_one_give_infinite_scores_and_no_nan():
    one_hot = np.eye(C, dtype=np.float32)
    target = oracle.function_oracle(lambda x: one_hot[(x.argmax(1) + (x[:, 0] > 0.5)) % C], C, access="confidence")
    found = features(target)
    assert set(np.unique(found)) == {-np.inf, 0}
    true, largest, network = scores(found)
    assert set(true) == {-np.inf, np.inf} and (largest == np.inf).all() and np.isfinite(network).all()
    assert metrics.auc(largest, IS_MEMBER) == 0.5 and 0 <= metrics.auc(true, IS_MEMBER) <= 1


@pytest.mark.parametrize("text", ["memguard:0.001", "memguard:1e-6", "top_k:1", "top_k:3", "rounding:0", "rounding:1"])
def test_logarithms_of_masked_confidences_keep_the_label(text):
    x = np.random.default_rng(1).integers(0, 4, (P, C)).astype(np.float32) / 3  # many ties; the first is the label
    target = oracle.model_oracle(LOGITS, jnp.float32(1), C, access="confidence", defense=defenses.build(text))
    found = features(target, x)[:, 0]
    np.testing.assert_array_equal(found.argmax(1), x.argmax(1))
    assert not np.isnan(found).any() and found.max() <= 1e-6
    if text.startswith("memguard"):
        assert len(np.unique(found)) == 2


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_the_largest_of_close_probabilities_stays_the_largest(classes):
    close = np.full((classes, classes), 1 / classes, np.float32)
    np.fill_diagonal(close, close[0, 0] * np.float32(1 + 2e-7))
    for array in (close, jnp.asarray(close)):
        np.testing.assert_array_equal(np.asarray(oracle._log(array)).argmax(1), np.arange(classes))
