"""The distance to the decision boundary as gradients find it: a baseline with more access.

Carlini and Wagner's L2 attack, every point of a block at once in one compiled program. It sees parameters, so it is
no label-only attack; it bounds from above what a boundary distance reveals (paper, 5.5).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mi_jax.types import Answers, Array, Params

BLOCK = 64  # points a program; fixed, so that a distance does not depend on the other points


class WhiteBox(NamedTuple):
    """A target whose parameters are known."""

    apply: Callable[..., jax.Array]  # (params, x [B *x]) -> logits [B C]
    params: Params


class Settings(NamedTuple):
    """Settings of the optimisation; the defaults are the paper's, which are cleverhans'."""

    learning_rate: float = 5e-3
    searches: int = 5  # of the constant that weighs misclassification against distance
    iterations: int = 1000  # at most, in each search
    check_every: int = 100  # iterations after which a point whose loss stands still is left alone
    initial_constant: float = 1e-2


class _Search(NamedTuple):
    """State of a block [B ...] within and between searches."""

    move: jax.Array  # [B *x] of the image in tanh space
    moments: optax.OptState
    checked: jax.Array  # [B] loss at the last check
    active: jax.Array  # [B]
    flipped: jax.Array  # [B] in this search
    best: jax.Array  # [B] shortest distance at which the label was another
    gradients: jax.Array  # [B] computed


def distances(target: WhiteBox, x: np.ndarray, y: np.ndarray, *, settings: Settings = Settings()) -> Answers:
    """Distances of points x [P *x] with labels y [P] as features [P 1 1]: 0, for one query, where misclassified.

    Queries are forward passes, each with its gradient. Where no search flips a point, the distance is that to the
    farthest corner of [0, 1]^d, the member side, as for `boundary`. Distances are those of points that the network
    did label differently, in float32 at the highest matmul precision.
    """
    features, queries = np.zeros((len(x), 1, 1), np.float32), np.ones(len(x), np.int64)
    correct = np.concatenate([_correct(target, *_block(x, y, np.arange(len(x))[i : i + BLOCK]))[: len(x) - i]
                            for i in range(0, len(x), BLOCK)])  # fmt: skip
    todo = np.flatnonzero(correct)
    for start in range(0, len(todo), BLOCK):
        rows = todo[start : start + BLOCK]
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
    """(distance [B], gradients [B]) of points that are labelled correctly."""
    farthest = jnp.sqrt(jnp.square(jnp.maximum(x, 1 - x)).reshape(BLOCK, -1).sum(1))
    start = jnp.arctanh((2 * x - 1) * 0.999999)
    optimizer = optax.adam(settings.learning_rate)

    def losses(move, constant):
        image = (jnp.tanh(start + move) + 1) / 2
        squared = jnp.square(image - x).reshape(BLOCK, -1).sum(1)
        with jax.default_matmul_precision("highest"):
            logits = apply(params, image)
        own = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
        other = jnp.where(jax.nn.one_hot(y, logits.shape[1]) == 1, -jnp.inf, logits).max(1)
        loss = constant * jnp.maximum(0, own - other) + squared  # [B]
        return loss.sum(), (loss, squared, logits.argmax(1) != y)

    def step(constant, i, s: _Search) -> _Search:
        (_, (loss, squared, flipped)), gradient = jax.value_and_grad(losses, has_aux=True)(s.move, constant)
        updates, moments = optimizer.update(gradient, s.moments)
        keep = partial(jnp.where, s.active.reshape(-1, *[1] * (x.ndim - 1)))
        flipped = flipped & s.active
        check = i % settings.check_every == 0
        return _Search(
            keep(s.move + updates, s.move),
            jax.tree.map(lambda new, old: keep(new, old) if new.ndim == x.ndim else new, moments, s.moments),
            jnp.where(check, loss, s.checked),
            s.active & ~(check & (loss > 0.9999 * s.checked)),
            s.flipped | flipped,
            jnp.where(flipped & (squared < s.best**2), jnp.sqrt(squared), s.best),
            s.gradients + s.active,
        )

    def search(_, carry):
        s, constant, low, high = carry
        nothing = jnp.zeros_like(x)
        s = s._replace(
            move=nothing, moments=optimizer.init(nothing), checked=jnp.full(BLOCK, jnp.inf),
            active=jnp.ones(BLOCK, bool), flipped=jnp.zeros(BLOCK, bool),
        )  # fmt: skip

        def going(loop):
            return (loop[0] < settings.iterations) & loop[1].active.any()

        _, s = jax.lax.while_loop(going, lambda loop: (loop[0] + 1, step(constant, *loop)), (0, s))
        low = jnp.where(s.flipped, low, jnp.maximum(low, constant))
        high = jnp.where(s.flipped, jnp.minimum(high, constant), high)
        constant = jnp.where(jnp.isfinite(high), (low + high) / 2, constant * 10)
        return s, constant, low, high

    zeros = jnp.zeros(BLOCK)
    begin = _Search(
        x, optimizer.init(x), zeros, zeros > 0, zeros > 0, jnp.full(BLOCK, jnp.inf), zeros.astype(jnp.int32)
    )
    first = jnp.full(BLOCK, settings.initial_constant)
    s, *_ = jax.lax.fori_loop(0, settings.searches, search, (begin, first, zeros, jnp.full(BLOCK, jnp.inf)))
    return jnp.where(jnp.isfinite(s.best), s.best, farthest), s.gradients
