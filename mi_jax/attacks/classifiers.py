"""Small models that distinguish members from non-members by an attack's features; fitted on shadow models only."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import linear_model

from mi_jax.types import Array, Fitted

# The paper's grid (A.1). The paper keeps the rate that does best on the training rows; here, on held-out rows.
LEARNING_RATES = (1e-3, 5e-3, 1e-2, 5e-2)
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # inverse strengths of `logistic`
_GROUPS = 32  # more are rounded up to a multiple: how many of a hundred classes a few rows hold varies


class _Problem(NamedTuple):
    """G independent training sets, padded to one length R; equal rows are one weighted row. Some may be empty."""

    features: jax.Array  # [G R F]
    is_member: jax.Array  # [G R] int
    weight: jax.Array  # [G R] how many equal rows this one replaces; 0 on padding
    half: jax.Array  # [G R] 0 or 1: networks 0 and 1 are trained without the rows of that half


Layers = list[tuple[Array, Array]]  # kernels [in out] and biases [out]


def network(hidden: tuple[int, ...], *, per_class: bool, steps: int = 100) -> Callable[..., Fitted]:
    """A `fit` for `Attack`: LeakyReLU(0.01) layers of widths `hidden` and two outputs, trained with Adam.

    per_class: one network for each label y (all trained at once), else one for all. Features are standardised by
    the shadow rows' mean and deviation. The score is the log-odds of membership; a class without shadow rows
    scores 0. Two more networks, each trained on one half of the rows, score the other half. These held-out scores
    choose the learning rate, and a threshold may be chosen on them.

    Source: arXiv 2007.14321v2, A.1: 10-10-2 for augmentation and combined attacks, 64-2 for confidence vectors.
    Deviations: full batches and `steps` updates where the authors' code takes batches of one and a single epoch;
    members and non-members have the same total weight in every class; the learning rate is chosen on held-out rows.
    """

    def fit(key: jax.Array, features: np.ndarray, y: np.ndarray, is_member: np.ndarray) -> Fitted:
        finite = _finite_like(features)
        flat = finite(features).reshape(len(features), -1)
        mean, scale = flat.mean(0), flat.std(0) + 1e-6
        classes = np.unique(y) if per_class else np.zeros(1, y.dtype)
        groups = np.searchsorted(classes, y) if per_class else np.zeros(len(y), int)
        params, held_out = _fit_groups(key, hidden, steps, (flat - mean) / scale, groups, is_member)

        def score(features: np.ndarray, y: np.ndarray) -> np.ndarray:
            flat = (finite(features).reshape(len(features), -1) - mean) / scale
            group = np.searchsorted(classes, y) if per_class else np.zeros(len(y), int)
            group = np.clip(group, 0, len(classes) - 1)
            known = (classes[group] == y) if per_class else np.ones(len(y), bool)
            return np.where(known, _log_odds_of_rows(params, jnp.asarray(flat), jnp.asarray(group)), 0.0)

        return Fitted(score, held_out)

    return fit


def logistic(key: jax.Array, features: np.ndarray, y: np.ndarray, is_member: np.ndarray) -> Fitted:
    """A `fit` for `Attack`: logistic regression on all features; the score is the log-odds of membership.

    Features are not standardised (they are bits). Of six strengths of the L2 penalty, the one with the smallest loss
    on held-out rows is kept. Each half of the rows is scored by the regression on the other half.
    """
    finite = _finite_like(features)
    flat, member = finite(features).reshape(len(features), -1), is_member.astype(int)
    half = np.empty(len(flat), int)
    half[np.asarray(jax.random.permutation(key, len(flat)))] = np.arange(len(flat)) % 2

    def held_out(C: float) -> np.ndarray:
        scores = np.empty(len(flat))
        for side in (0, 1):
            scores[half == side] = _log_odds(C, flat[half != side], member[half != side])(flat[half == side])
        return scores

    scores = {C: held_out(C) for C in PENALTIES}
    best = min(scores, key=lambda C: np.logaddexp(0, np.where(is_member, -1, 1) * scores[C]).mean())
    log_odds = _log_odds(best, flat, member)
    return Fitted(lambda features, y: log_odds(finite(features).reshape(len(features), -1)), scores[best])


def _finite_like(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that makes features [P M F] finite, by these rows of shadow models.

    Each +inf (no query flipped the label) becomes one value, a tenth of the range above the largest of feature F, and
    each -inf (the logarithm of 0) one below the smallest. Where these rows have an infinity, finite values of other
    rows beyond that value become it too.
    """
    known = np.isfinite(features)
    high = features.max((0, 1), where=known, initial=-np.inf)
    low = features.min((0, 1), where=known, initial=np.inf)
    margin = np.where(high > low, (high - low) / 10, 1).astype(features.dtype)
    low, high = np.where(low <= high, low, 0) - margin, np.where(low <= high, high, 0) + margin
    least = np.where(np.isneginf(features).any((0, 1)), low, -np.inf)
    most = np.where(np.isposinf(features).any((0, 1)), high, np.inf)

    def finite(features: np.ndarray) -> np.ndarray:
        features = np.where(features == np.inf, high, np.where(features == -np.inf, low, features))
        return features.clip(least, most).astype(features.dtype)

    return finite


def _log_odds(C: float, rows: np.ndarray, member: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from rows [R F] to log-odds, by logistic regression; 0 where no row, or every row, is a member."""
    if len(np.unique(member)) < 2:
        return lambda rows: np.zeros(len(rows))
    regression = linear_model.LogisticRegression(C=C, class_weight="balanced", max_iter=1000)
    return regression.fit(rows, member).decision_function


def _fit_groups(key, hidden, steps, flat, groups, is_member) -> tuple[Layers, np.ndarray]:
    """(parameters [G ...] of one network per group, held-out scores of all rows), at the best learning rate.

    For each rate three networks per group are trained at once: without the first half, without the second, on all.
    """
    problem, position = _pack(key, flat, groups, is_member)
    weights = jnp.stack([problem.weight * (problem.half != half) for half in (0, 1, 2)])  # [3 G R]
    initial = _init_params(key, len(problem.weight), (flat.shape[1], *hidden, 2))
    trained = _train(steps, initial, problem, jnp.asarray(LEARNING_RATES), weights)  # [L 3 G ...]
    loss, scores = map(np.asarray, _held_out(trained, problem))  # [L], [L G R]
    best = int(np.argmin(np.where(np.isfinite(loss), loss, np.inf)))
    return jax.tree.map(lambda p: p[best, 2], trained), scores[best][groups, position].astype(np.float64)


def _pack(key, flat, groups, is_member) -> tuple[_Problem, np.ndarray]:
    """The training sets, and the position of each row in its group [s].

    Equal rows are merged into one with a weight: the bits of an augmentation attack take few values, and 832 rows of
    three bits train ten times faster as 32 distinct ones.
    """
    half = np.empty(len(flat), int)
    half[np.asarray(jax.random.permutation(key, len(flat)))] = np.arange(len(flat)) % 2
    table = np.column_stack([groups, is_member, half, flat.astype(np.float32)])
    rows, row_of, count = np.unique(table, axis=0, return_inverse=True, return_counts=True)  # sorted by group
    group = rows[:, 0].astype(int)
    start = np.searchsorted(group, np.arange(group.max() + 1))
    G = group.max() + 1
    G = G if G <= _GROUPS else -(-G // _GROUPS) * _GROUPS
    R = max(64 // G, 8, 1 << int(np.bincount(group).max() - 1).bit_length())  # few shapes, few compilations
    packed = np.zeros((G, R, rows.shape[1] + 1), np.float32)
    packed[group, np.arange(len(rows)) - start[group]] = np.column_stack([rows, count])
    member, half, features, weight = packed[..., 1], packed[..., 2], packed[..., 3:-1], packed[..., -1]
    position = row_of.ravel() - start[groups]
    return _Problem(*map(jnp.asarray, (features, member.astype(np.int32), weight, half.astype(np.int32)))), position


def _init_params(key: jax.Array, groups: int, widths: tuple[int, ...]) -> Layers:
    """Glorot-normal kernels and zero biases [G ...]; drawn by NumPy, which needs no compilation."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    pairs = zip(widths, widths[1:], strict=False)
    return [
        (
            rng.normal(scale=np.sqrt(2 / (a + b)), size=(groups, a, b)).astype(np.float32),
            np.zeros((groups, b), np.float32),
        )
        for a, b in pairs
    ]


def _logits(params: Layers, rows: jax.Array) -> jax.Array:
    """Logits [R 2] of rows [R F] by one network."""
    *inner, (kernel, bias) = params
    for w, b in inner:
        rows = jax.nn.leaky_relu(rows @ w + b, 0.01)
    return rows @ kernel + bias


@jax.jit
def _held_out(trained: Layers, problem: _Problem) -> tuple[jax.Array, jax.Array]:
    """(loss [L], scores [L G R]), every row by the network that was trained without it."""

    def at_rate(params):  # [3 G ...]
        both = jax.vmap(jax.vmap(_logits), (0, None))(params, problem.features)  # [3 G R 2]
        logits = jnp.where(problem.half[..., None] == 0, both[0], both[1])
        return _losses(logits, problem, problem.weight).sum(), logits[..., 1] - logits[..., 0]

    return jax.lax.map(at_rate, trained)


def _losses(logits: jax.Array, problem: _Problem, weight: jax.Array) -> jax.Array:
    """The weighted cross-entropy of each group [G]; members and non-members have the same total weight."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, problem.is_member)
    sides = jax.nn.one_hot(problem.is_member, 2) * weight[..., None]  # [G R 2]
    balanced = (sides / jnp.maximum(sides.sum(1, keepdims=True), 1)).sum(-1)
    return (losses * balanced).sum(1)


@partial(jax.jit, static_argnums=0)
def _train(steps: int, initial: Layers, problem: _Problem, rates: jax.Array, weights: jax.Array) -> Layers:
    """Parameters [L W G ...] after `steps` full-batch Adam updates, for L learning rates and `weights` [W G R]."""

    def train(rate, weight):
        optimizer = optax.adam(rate)

        def loss(params):
            return _losses(jax.vmap(_logits)(params, problem.features), problem, weight).sum()

        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (initial, optimizer.init(initial)))[0]

    return jax.vmap(lambda rate: jax.vmap(lambda weight: train(rate, weight))(weights))(rates)


@jax.jit
def _log_odds_of_rows(params: Layers, flat: jax.Array, group: jax.Array) -> jax.Array:
    """Log-odds of membership [P] of rows [P F], each by the network of its group [P]."""
    all_logits = jax.vmap(_logits, (0, None))(params, flat)  # [G P 2]
    logits = jnp.take_along_axis(all_logits, group[None, :, None], 0)[0]
    return logits[:, 1] - logits[:, 0]
