"""Small networks that tell members from non-members by an attack's features; fitted on shadow models only."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mi_jax.types import Score

# The paper's grid (A.1). It keeps the rate that does best on the rows it trains on; here a quarter is held out.
LEARNING_RATES = (1e-3, 5e-3, 1e-2, 5e-2)
_HELD_OUT = 4


class _Problem(NamedTuple):
    """G independent training sets, padded to one length R; `weight` is 0 on padding and on held-out rows."""

    features: jax.Array  # [G R F]
    is_member: jax.Array  # [G R] int
    weight: jax.Array  # [G R]


class _Network(nn.Module):
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, features):
        for width in self.hidden:
            features = nn.leaky_relu(nn.Dense(width, kernel_init=nn.initializers.glorot_normal())(features), 0.01)
        return nn.Dense(2, kernel_init=nn.initializers.glorot_normal())(features)


def network(hidden: tuple[int, ...], *, per_class: bool, steps: int = 300) -> Callable[..., Score]:
    """A `fit` for `Attack`: LeakyReLU(0.01) layers of widths `hidden` and two outputs, trained with Adam.

    per_class: one network for each label y (all trained at once), else one for all. Features are standardised by
    the shadow rows' mean and deviation. The score is the log-odds of membership. A class without shadow rows of
    both kinds scores 0.

    Source: arXiv 2007.14321v2, A.1: 10-10-2 for augmentation and combined attacks, 64-2 for confidence vectors.
    Deviations: full batches and `steps` updates where the authors' code takes batches of one and a single epoch;
    the learning rate is chosen on held-out rows, not on those trained on.
    """

    def fit(key: jax.Array, features: np.ndarray, y: np.ndarray, is_member: np.ndarray) -> Score:
        flat = features.reshape(len(features), -1)
        mean, scale = flat.mean(0), flat.std(0) + 1e-6
        classes = np.unique(y) if per_class else np.zeros(1, y.dtype)
        groups = np.searchsorted(classes, y) if per_class else np.zeros(len(y), int)
        params = _fit_groups(key, _Network(hidden), (flat - mean) / scale, groups, len(classes), is_member, steps)

        def score(features: np.ndarray, y: np.ndarray) -> np.ndarray:
            flat = (features.reshape(len(features), -1) - mean) / scale
            group = np.searchsorted(classes, y) if per_class else np.zeros(len(y), int)
            group = np.clip(group, 0, len(classes) - 1)
            known = (classes[group] == y) if per_class else np.ones(len(y), bool)
            return np.where(
                known, _apply_rows(_Network(hidden), params, jnp.asarray(flat), jnp.asarray(group)), 0.0
            )

        return score

    return fit


def _fit_groups(key, net, flat, groups, num_groups, is_member, steps):
    """Parameters [G ...] of one network a group, each at the learning rate that did best on held-out rows."""
    problem = _packed(key, flat, groups, num_groups, is_member)
    held_out = (jnp.arange(problem.weight.shape[1]) % _HELD_OUT == 0) * problem.weight
    rates = jnp.asarray(LEARNING_RATES)
    trained = _train(net, steps, key, problem._replace(weight=problem.weight - held_out), rates)  # [L G ...]
    loss = jax.vmap(_losses, (None, 0, None))(net, trained, problem._replace(weight=held_out)).sum(1)  # [L]
    best = jnp.argmin(jnp.where(jnp.isfinite(loss), loss, jnp.inf))
    return jax.tree.map(lambda p: p[best], _train(net, steps, key, problem, rates))


def _packed(key, flat, groups, num_groups, is_member) -> _Problem:
    order = np.asarray(jax.random.permutation(key, len(flat)))  # so that every fourth row is a fair sample
    rows = [order[groups[order] == g] for g in range(num_groups)]
    R = 64 * -(-max(map(len, rows)) // 64)  # few shapes, few compilations
    index = np.stack([np.pad(r, (0, R - len(r))) for r in rows])  # [G R]
    weight = np.stack([np.arange(R) < len(r) for r in rows]).astype(np.float32)
    return _Problem(*map(jnp.asarray, (flat[index].astype(np.float32), is_member[index].astype(np.int32), weight)))


def _losses(net, params, problem: _Problem) -> jax.Array:
    """Weighted sum of cross-entropies of every group [G], members and non-members at equal weight in each."""
    logits = jax.vmap(net.apply)(params, problem.features)  # [G R 2]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, problem.is_member)
    sides = jax.nn.one_hot(problem.is_member, 2) * problem.weight[..., None]  # [G R 2]
    balanced = (sides / jnp.maximum(sides.sum(1, keepdims=True), 1)).sum(-1)
    return (losses * balanced).sum(1)


@partial(jax.jit, static_argnums=(0, 1))
def _train(net, steps: int, key, problem: _Problem, rates):
    """Parameters [L G ...] after `steps` full-batch Adam updates at each of L learning rates."""
    start = jax.vmap(lambda k: net.init(k, problem.features[0, :1]))(jax.random.split(key, len(problem.features)))

    def train(rate):
        optimizer = optax.adam(rate)

        def step(_, carry):
            params, state = carry
            grads = jax.grad(lambda p: _losses(net, p, problem).sum())(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0]

    return jax.vmap(train)(rates)


@partial(jax.jit, static_argnums=0)
def _apply_rows(net, params, flat, group):
    """Log-odds of membership [P] of rows [P F], each by the network of its group [P]."""
    logits = jax.vmap(lambda row, g: net.apply(jax.tree.map(lambda p: p[g], params), row))(flat, group)
    return logits[:, 1] - logits[:, 0]
