"""What an epoch goes over: all rows in a random order or, where a defense asks for augmented data, all pairs of a row
and one of its neighbours, in batches of one size."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mi_jax.types import Array, Perturbation


class Epoch(NamedTuple):
    """The sizes of an epoch; all of them known when it is compiled."""

    copies: int  # M, neighbours of a row
    pairs: int  # n M
    size: int  # pairs of a batch
    steps: int  # batches


def plan_epoch(n: int, batch_size: int, augmentation: Perturbation | None, x_pool: Array) -> Epoch:
    """The Epoch of a member with n rows. The last batch may hold fewer pairs, and is filled with some twice."""
    copies = 1 if augmentation is None else neighbours_shape(augmentation, x_pool.shape[1:])[0]
    size = min(batch_size, n * copies)
    return Epoch(copies, n * copies, size, -(-n * copies // size))


def shuffled(key: jax.Array, epoch: Epoch) -> tuple[jax.Array, jax.Array]:
    """(pairs, weights), both [steps size]: pair p is neighbour p % M of row p // M, of weight 1.

    The last batch is filled up with rows of the same member, of weight 0.
    """
    pairs = jnp.resize(jax.random.permutation(key, epoch.pairs), (epoch.steps, epoch.size))
    weights = (jnp.arange(pairs.size) < epoch.pairs).astype(jnp.float32).reshape(pairs.shape)
    return pairs, weights


def reader(key: jax.Array, rows: jax.Array, x_pool: jax.Array, y_pool: jax.Array, augmentation: Perturbation | None,
           copies: int) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:  # fmt: skip
    """Pairs [B] -> (x [B *x], y [B]) of a member's rows; random neighbours have the key's and the pair's randomness."""

    def one(pair: jax.Array, x: jax.Array) -> jax.Array:
        return augmentation(jax.random.fold_in(key, pair), x)[pair % copies]

    def read(pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = rows[pairs // copies]
        x = x_pool[batch]
        return x if augmentation is None else jax.vmap(one)(pairs, x), y_pool[batch]

    return read


def reference_rows(key: jax.Array, reference: jax.Array, epoch: Epoch) -> jax.Array:
    """Rows [steps size] of the reference set [m], in random order and as often as needed."""
    return jnp.resize(jax.random.permutation(key, reference), (epoch.steps, epoch.size))


def neighbours_shape(augmentation: Perturbation, example_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(M, *x): the shape of what an augmentation makes of an example."""
    example = jax.ShapeDtypeStruct(example_shape, jnp.float32)
    return jax.eval_shape(augmentation, jax.random.key(0), example).shape
