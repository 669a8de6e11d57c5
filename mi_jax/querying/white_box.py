"""The distance to the decision boundary by gradients: a baseline with more access.

Carlini and Wagner's L2 attack, all points of a block at once in one compiled program. It uses parameters, so it is
not a label-only attack; it bounds from above what a boundary distance reveals (paper, 5.5).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mi_jax.types import Answers, Array, Params

BLOCK = 64  # points per program; fixed, so that a distance does not depend on the other points


class WhiteBox(NamedTuple):
    """A target whose parameters are known."""

    apply: Callable[..., jax.Array]  # (params, x [B *x]) -> logits [B C]
    params: Params


class Settings(NamedTuple):
    """Settings of the optimisation; the defaults are the paper's, which are those of cleverhans."""

    learning_rate: float = 5e-3
    searches: int = 5  # values tried of the constant that weighs misclassification against distance
    iterations: int = 1000  # at most, in each search
    check_every: int = 100  # iterations after which a point stops if its loss no longer falls
    initial_constant: float = 1e-2


class _Search(NamedTuple):
    """State of a block [B ...] within and between searches."""

    offset: jax.Array  # [B *x] of the image in tanh space
    moments: optax.OptState
    checked_loss: jax.Array  # [B] at the last check
    active: jax.Array  # [B]
    flipped: jax.Array  # [B] in this search
    best: jax.Array  # [B] shortest distance with another label
    gradients: jax.Array  # [B] number computed


def distances(target: WhiteBox, x: np.ndarray, y: np.ndarray, *, settings: Settings = Settings()) -> Answers:
    """Distances of points x [P *x] with labels y [P] as features [P 1 1]: 0, for one query, where misclassified.

    Queries are forward passes, each with its gradient. Where no search flips a point, the distance is
    +inf, as for `boundary`. Distances are those of points that the network does label differently, in float32 at the
    highest matmul precision.
    """
    features, queries = np.zeros((len(x), 1, 1), np.float32), np.ones(len(x), np.int64)
    correct = np.concatenate([_correct(target, *_block(x, y, np.arange(len(x))[i : i + BLOCK]))[: len(x) - i]
                            for i in range(0, len(x), BLOCK)])  # fmt: skip
    correct_rows = np.flatnonzero(correct)
    for start in range(0, len(correct_rows), BLOCK):
        rows = correct_rows[start : start + BLOCK]
        distance, gradients = _distances(target.apply, settings, target.params, *_block(x, y, rows))
        features[rows, 0, 0] = np.asarray(distance)[: len(rows)]
        queries[rows] += np.asarray(gradients)[: len(rows)]
    return Answers(features, queries, np.ones(len(x), bool), {"gate": len(x), "gradient": int(queries.sum()) - len(x)})


def _block(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> tuple[Array, Array]:
    padded = np.resize(rows, BLOCK)
    return jnp.asarray(x[padded]), jnp.asarray(y[padded])


def _correct(target: WhiteBox, x: Array, y: Array) -> np.ndarray:
    return np.asarray(_labels(target.apply, target.params, x) == y)


@partial(jax.jit, static_argnums=0)
def _labels(apply, params, x):
    return apply(params, x).argmax(-1)


@partial(jax.jit, static_argnums=(0, 1))
def _distances(apply, settings: Settings, params, x, y):
    """(distance [B], number of gradients [B]) of correctly labelled points."""
    losses = partial(_losses, apply, params, x, y, jnp.arctanh((2 * x - 1) * 0.999999))
    optimizer = optax.adam(settings.learning_rate)

    def search(_, carry):
        state, constant, low, high = carry
        state = _run_search(losses, optimizer, settings, state, constant)
        low = jnp.where(state.flipped, low, jnp.maximum(low, constant))
        high = jnp.where(state.flipped, jnp.minimum(high, constant), high)
        constant = jnp.where(jnp.isfinite(high), (low + high) / 2, constant * 10)
        return state, constant, low, high

    zeros = jnp.zeros(BLOCK)
    initial = _Search(
        x, optimizer.init(x), zeros, zeros > 0, zeros > 0, jnp.full(BLOCK, jnp.inf), zeros.astype(jnp.int32)
    )
    constant = jnp.full(BLOCK, settings.initial_constant)
    state, *_ = jax.lax.fori_loop(
        0, settings.searches, search, (initial, constant, zeros, jnp.full(BLOCK, jnp.inf))
    )  # fmt: skip
    return state.best, state.gradients


def _losses(apply, params, x, y, start, offset, constant):
    """(summed loss, (loss, squared distance, flipped) [B]) of the images at `start + offset` in tanh space."""
    image = (jnp.tanh(start + offset) + 1) / 2
    squared = jnp.square(image - x).reshape(BLOCK, -1).sum(1)
    with jax.default_matmul_precision("highest"):
        logits = apply(params, image)
    true_logit = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
    other_logit = jnp.where(jax.nn.one_hot(y, logits.shape[1]) == 1, -jnp.inf, logits).max(1)
    loss = constant * jnp.maximum(0, true_logit - other_logit) + squared  # [B]
    return loss.sum(), (loss, squared, logits.argmax(1) != y)


def _run_search(losses, optimizer, settings: Settings, state: _Search, constant) -> _Search:
    """The state after one optimisation from the original images, at one constant per point."""
    zeros = jnp.zeros_like(state.offset)
    state = state._replace(
        offset=zeros, moments=optimizer.init(zeros), checked_loss=jnp.full(BLOCK, jnp.inf),
        active=jnp.ones(BLOCK, bool), flipped=jnp.zeros(BLOCK, bool),
    )  # fmt: skip

    def any_active(carry):
        i, state = carry
        return (i < settings.iterations) & state.active.any()

    def step(carry):
        i, state = carry
        return i + 1, _step(losses, optimizer, settings, constant, i, state)

    return jax.lax.while_loop(any_active, step, (0, state))[1]


def _step(losses, optimizer, settings: Settings, constant, i, state: _Search) -> _Search:
    """The state after one Adam update of the active points."""
    (_, (loss, squared, flipped)), gradient = jax.value_and_grad(losses, has_aux=True)(state.offset, constant)
    updates, moments = optimizer.update(gradient, state.moments)
    ndim = state.offset.ndim
    if_active = partial(jnp.where, state.active.reshape(-1, *[1] * (ndim - 1)))
    flipped = flipped & state.active
    check = i % settings.check_every == 0
    return _Search(
        if_active(state.offset + updates, state.offset),
        jax.tree.map(lambda new, old: if_active(new, old) if new.ndim == ndim else new, moments, state.moments),
        jnp.where(check, loss, state.checked_loss),
        state.active & ~(check & (loss > 0.9999 * state.checked_loss)),
        state.flipped | flipped,
        jnp.where(flipped & (squared < state.best**2), jnp.sqrt(squared), state.best),
        state.gradients + state.active,
    )
