"""Slots that hold the points at work while a compiled program goes through thousands of them.

A slot whose point is finished takes the next one, so no pass of a network is spent on finished points, and networks see
blocks of one fixed shape.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax.types import Array, Params

BLOCKS_AT_WORK = 4  # in slots, so that a model finds whole blocks of points that use it


class Rows(NamedTuple):
    """What a descent knows of each point [P ...]."""

    x: Array  # [P *x] start
    y: Array  # [P]
    inside: Array  # [P C] weight of each model in the loss, as one trained with the point
    outside: Array  # [P C] as one trained without it
    other: Array  # [P C] class that a model trained without the point is to answer


class _Descent(NamedTuple):
    """Points [B ...] on their way down a loss."""

    x: jax.Array  # [B *x]
    momentum: jax.Array  # [B *x]
    step: jax.Array  # [B] next one


class Program(NamedTuple):
    """What is fixed when a descent is compiled."""

    apply: Callable[..., jax.Array]
    losses: Callable[..., jax.Array]  # (options, logits [b C], y, inside, outside, other [b]) -> [b]
    move: Callable[..., tuple[jax.Array, jax.Array]]
    # (program, options, binary, x [B *x], momentum, gradient) -> (x, momentum)
    block: int
    flips: int = 0


def padded(arrays: tuple[np.ndarray, ...], size: int) -> tuple[np.ndarray, ...]:
    """Returns the arrays [P ...] with zeros up to a multiple of `size` rows."""
    missing = -len(arrays[0]) % size
    return tuple(np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in arrays)


def widened(flags: jax.Array, like: jax.Array) -> jax.Array:
    """Returns the array [B ...] with axes of size 1 added, to be broadcast against `like`."""
    return flags.reshape(*flags.shape, *[1] * (like.ndim - flags.ndim))


def work(slots: int, count: jax.Array, begin: Callable, advance: Callable, questions: jax.Array) -> jax.Array:
    """Returns questions [P ...] of the first `count` points, all of them put through `advance` until they are done.

    begin(rows [B]) -> state; advance(rows [B], busy [B], state) -> (state, done [B], questions [B ...]).
    """

    def turn(carry):
        rows, following, state, questions = carry
        busy = rows < count
        state, done, found = advance(jnp.minimum(rows, count - 1), busy, state)
        done &= busy
        questions = questions.at[jnp.where(done, rows, len(questions))].set(found, mode="drop")
        fresh = jnp.where(done, jnp.minimum(following + jnp.cumsum(done) - 1, count), rows)
        state = jax.tree.map(lambda new, old: jnp.where(widened(done, old), new, old), begin(fresh), state)
        return fresh, following + done.sum(), state, questions

    rows = jnp.minimum(jnp.arange(slots), count)
    carry = rows, jnp.int32(slots), begin(rows), questions
    return jax.lax.while_loop(lambda carry: (carry[0] < count).any(), turn, carry)[3]


def summed_gradients(block: int, losses: Callable, models, needed: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the losses [B] of rows x [B *x], summed over models, and their gradients [B *x].

    losses(model, rows [b], x [b *x]) -> [b], where models is a pytree with a leading axis C. needed [C B]: each model
    passes only over the rows that need it, in as few blocks of `block` rows as hold them; the others count 0.
    """

    def of_model(total, this):
        model, needed = this
        order = jnp.argsort(~needed, stable=True)

        def of_block(i, found):
            rows = jax.lax.dynamic_slice_in_dim(order, i * block, block)
            value, pull = jax.vjp(lambda x: losses(model, rows, x), x[rows])
            put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=i * block, axis=0)
            return put(found[0], value), put(found[1], pull(jnp.ones(block))[0])

        blocks = (needed.sum() + block - 1) // block
        found = jax.lax.fori_loop(0, blocks, of_block, (jnp.zeros(len(x)), jnp.zeros_like(x)))
        found = [jnp.where(widened(needed, part), part[jnp.argsort(order)], 0) for part in found]
        return (total[0] + found[0], total[1] + found[1]), None

    return jax.lax.scan(of_model, (jnp.zeros(len(x)), jnp.zeros_like(x)), (models, needed))[0]


@partial(jax.jit, static_argnums=0)
def descend(program: Program, params: Params, points: Rows, count, options, binary) -> jax.Array:
    """Returns where the first `count` points [P *x] stop.

    A point stops after the step from a place with a loss of at most options["stop"], and after options["steps"] steps.
    The loss is the sum of program.losses over models, plus options["near"] times the mean square of x - start.
    """

    def begin(rows):
        start = jnp.asarray(points.x)[rows]
        return _Descent(start, jnp.zeros_like(start), jnp.zeros(len(rows), jnp.int32))

    def advance(rows, busy, at: _Descent):
        here = jax.tree.map(lambda a: a[rows], points)
        models = params, here.inside.T, here.outside.T, here.other.T
        needed = busy & ((models[1] > 0) | (models[2] > 0))
        away, axes = at.x - here.x, tuple(range(1, at.x.ndim))

        def losses(model, chosen, x):
            logits, of_model = program.apply(model[0], x), (a[chosen] for a in (here.y, *model[1:]))
            return program.losses(options, logits, *of_model)

        loss, gradient = summed_gradients(program.block, losses, models, needed, at.x)
        loss = loss + options["near"] * jnp.square(away).mean(axes)
        gradient = gradient + options["near"] * 2 / away[0].size * away
        x, momentum = program.move(program, options, binary, at.x, at.momentum, gradient)
        at = _Descent(x, momentum, at.step + 1)
        return at, (loss <= options["stop"]) | (at.step >= options["steps"]), x

    at_work = program.block * BLOCKS_AT_WORK
    return work(at_work, count, begin, advance, jnp.zeros_like(points.x))
