"""Defenses that change the outputs of a trained model: masked confidences, and labels by a vote over noisy copies.

They do not change training, so all of them share the same trained models.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mi_jax import perturbations, randomness
from mi_jax.types import Array, Defense

_LDL_COPIES = 20  # noisy copies of a query


def memguard(strength: float) -> Defense:
    """Returns MemGuard at its strongest: 1/C + strength for the predicted class, equal values for all others.

    The label never changes, and the confidence vector reveals nothing beyond the label. The predicted class is that of
    the logits, so ties of rounded probabilities cannot change it. Raises ValueError for strengths that vanish in
    float32 and for those that could make a probability negative (for C = 2).

    Source: arXiv 2007.14321v2, section 7.1, with strength 1e-3.
    """
    if not 1e-6 <= strength <= 0.5:
        raise ValueError(f"defense memguard:{strength:g}: expected a strength in 1e-6..0.5")
    return Defense(strength=strength, output=_memguard)


def _memguard(strength, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    C = logits.shape[-1]
    predicted = jax.nn.one_hot(logits.argmax(-1), C)
    masked = 1 / C + strength * jnp.where(predicted == 1, 1.0, -1 / (C - 1))
    return jnp.where(jnp.isnan(logits).any(-1, keepdims=True), jnp.nan, masked)


def top_k(strength: float) -> Defense:
    """Returns a defense that rescales the `strength` largest probabilities to sum to 1 and sets all others to 0.

    The label never changes.
    """
    if not 1 <= strength <= 2**20 or strength != int(strength):
        raise ValueError(f"defense top_k:{strength:g}: expected a whole number of classes in 1..{2**20}")
    return Defense(strength=jnp.int32(strength), output=_top_k)


def _top_k(k, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rank = jnp.argsort(jnp.argsort(-logits, -1), -1)  # stable: the first of equal values, the label, has rank 0
    probabilities = jnp.where(rank < k, jax.nn.softmax(logits), 0)
    return _keep_label(logits, probabilities / probabilities.sum(-1, keepdims=True))


def rounding(strength: float) -> Defense:
    """Returns a defense that rounds probabilities to `strength` decimals and rescales them to sum to 1.

    The label never changes.
    """
    if strength != int(strength) or strength > 6:
        raise ValueError(f"defense rounding:{strength:g}: expected a whole number of decimals in 0..6")
    return Defense(strength=10.0**strength, output=_rounding)


def _rounding(scale, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rounded = jnp.round(jax.nn.softmax(logits) * scale) / scale
    sums = rounded.sum(-1, keepdims=True)
    uniform = jnp.full_like(rounded, 1 / rounded.shape[-1])
    probabilities = jnp.where(sums == 0, uniform, rounded / jnp.where(sums == 0, 1, sums))  # NaN stays NaN
    return _keep_label(logits, probabilities)


def _keep_label(logits: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Returns the probabilities with the predicted class raised two units in the last place above all others.

    So a tie cannot change the label.
    """
    predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    return jnp.where(predicted == 1, probabilities.max(-1, keepdims=True) * (1 + 2e-7), probabilities)


def ldl(strength: float, context: Any) -> Defense:
    """Returns LDL: the label of a query is the majority label of 20 noisy copies of it.

    Gaussian noise has the standard deviation `strength`; bits flip with that probability. The noise is a function of
    the query, so the same query always has the same answer, and repeating it reveals nothing new. A query that differs
    in any bit has new noise. Confidences are the shares of the votes.

    Source: Rajabi et al. 2023 (arXiv 2212.01688). Deviations: a majority of labels, which is what their text
    describes, where they average logits; 20 copies, not 200, as a cost that a service can afford; noise fixed by the
    query (see `ldl_fresh`).
    """
    return Defense(strength=strength, output=_voted(_ldl_noise(strength, context), False))


def ldl_fresh(strength: float, context: Any) -> Defense:
    """Returns `ldl` with fresh noise for every query, as in the authors' code: repeated queries may reveal more."""
    return ldl(strength, context)._replace(output=_voted(_ldl_noise(strength, context), True), random=True)


def _ldl_noise(strength: float, context: Any) -> Any:
    has_bits = context.binary is not None and context.binary.any()
    if has_bits and strength > 0.5:
        raise ValueError(f"defense ldl:{strength:g}: expected a flip probability of at most 1/2 for binary columns")
    return perturbations.column_noise(context.binary)


@functools.cache
def _voted(noise: Callable, fresh: bool) -> Callable:
    def output(strength, key, predict, x: Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x)) if fresh else _hash_examples(x))
        strengths = {"sigma": strength, "p": strength}
        copies = jax.vmap(lambda key, example: noise(strengths, key, example, _LDL_COPIES))(keys, x)  # [B 20 *x]
        logits = jax.lax.map(predict, jnp.moveaxis(copies, 1, 0))  # [20 B C]
        votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).mean(0)
        return jnp.where(jnp.isnan(logits).any((0, 2))[:, None], jnp.nan, votes)

    return output


def _hash_examples(x: Array) -> jax.Array:
    """Returns a hash [B] uint32 of each example, with collisions as rare as those of random numbers.

    Each float32 word is mixed with a random number for its position before the words are summed. Without mixing, a
    table of bits would have no more than 512 hashes, because 0 and 1 differ only in their high bits. The mixing is the
    finaliser of MurmurHash3 (A. Appleby, public domain).
    """
    words = jax.lax.bitcast_convert_type(x.reshape(len(x), -1).astype(jnp.float32), jnp.uint32)
    mixed = words ^ randomness.bits(jax.random.key(1), words.shape[1])
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed.sum(1, dtype=jnp.uint32)
