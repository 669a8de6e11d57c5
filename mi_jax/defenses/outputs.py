"""Defenses that change what a trained model answers: masked confidences, and labels by a vote over noisy copies.

None of them changes training, so all of them share models trained once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mi_jax import perturbations, randomness
from mi_jax.types import Array, Defense

_LDL_COPIES = 20


def memguard(strength: float) -> Defense:
    """MemGuard at its strongest: 1/C + strength on the predicted class, the rest shared; the label never changes.

    Source: arXiv 2007.14321v2, section 7.1, with strength 1e-3. The confidence vector then says nothing beyond the
    label. The predicted class is taken from the logits, so that no tie of rounded probabilities can move it.
    Strengths that float32 would lose, and those that could make a probability negative (C = 2), are refused.
    """
    if not 1e-6 <= strength <= 0.5:
        raise ValueError(f"defense memguard:{strength:g}: expected a strength in 1e-6..0.5")
    return Defense(strength=strength, output=_memguard)


def _memguard(strength, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    C = logits.shape[-1]
    predicted = jax.nn.one_hot(logits.argmax(-1), C)
    shown = 1 / C + strength * jnp.where(predicted == 1, 1.0, -1 / (C - 1))
    return jnp.where(jnp.isnan(logits).any(-1, keepdims=True), jnp.nan, shown)


def top_k(strength: float) -> Defense:
    """The `strength` largest probabilities, the others shown as 0 and the rest rescaled; the label never changes."""
    if not 1 <= strength <= 2**20 or strength != int(strength):
        raise ValueError(f"defense top_k:{strength:g}: expected a whole number of classes in 1..{2**20}")
    return Defense(strength=jnp.int32(strength), output=_top_k)


def _top_k(k, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rank = jnp.argsort(jnp.argsort(-logits, -1), -1)  # both stable: among equals the first, which is the label, leads
    probabilities = jnp.where(rank < k, jax.nn.softmax(logits), 0)
    return _keep_label(logits, probabilities / probabilities.sum(-1, keepdims=True))


def rounding(strength: float) -> Defense:
    """Probabilities to `strength` decimals, rescaled to sum to 1; the label never changes."""
    if strength != int(strength) or strength > 6:
        raise ValueError(f"defense rounding:{strength:g}: expected a whole number of decimals in 0..6")
    return Defense(strength=10.0**strength, output=_rounding)


def _rounding(scale, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rounded = jnp.round(jax.nn.softmax(logits) * scale) / scale
    sums = rounded.sum(-1, keepdims=True)
    even = jnp.full_like(rounded, 1 / rounded.shape[-1])
    shown = jnp.where(sums == 0, even, rounded / jnp.where(sums == 0, 1, sums))  # NaN stays NaN
    return _keep_label(logits, shown)


def _keep_label(logits: jax.Array, shown: jax.Array) -> jax.Array:
    """`shown` with the predicted class lifted by two units in the last place, so that no tie moves the label."""
    predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    return jnp.where(predicted == 1, shown.max(-1, keepdims=True) * (1 + 2e-7), shown)


def ldl(strength: float, context: Any) -> Defense:
    """The label that most of 20 noisy copies of the query get, their noise fixed by the query itself.

    Images get Gaussian noise of deviation `strength`, bits flip with that probability. The same query always gets
    the same answer, so repeating it reveals nothing new; a query that differs in any bit draws anew. Where
    confidences are shown they are the shares of the votes. Source: Rajabi et al. 2023 (arXiv 2212.01688), who average
    logits of 200 copies with fresh noise; a majority of labels is what their text describes, and 20 copies are what a
    service may afford.
    """
    return Defense(strength=strength, output=_voted(_ldl_noise(strength, context), False))


def ldl_fresh(strength: float, context: Any) -> Defense:
    """The same with fresh noise for every query, as the authors' code has it: repeating a query may reveal more."""
    return ldl(strength, context)._replace(output=_voted(_ldl_noise(strength, context), True), random=True)


def _ldl_noise(strength: float, context: Any) -> Any:
    bits = context.binary is not None and context.binary.any()
    if bits and strength > 0.5:
        raise ValueError(f"defense ldl:{strength:g}: expected a probability of at most 1/2, with which bits flip")
    return perturbations.column_noise(context.binary)


@functools.cache
def _voted(noise: Callable, fresh: bool) -> Callable:
    def output(strength, key, predict, x: Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x)) if fresh else _digest(x))
        both = {"sigma": strength, "p": strength}
        copies = jax.vmap(lambda key, one: noise(both, key, one, _LDL_COPIES))(keys, x)  # [B 20 *x]
        logits = jax.lax.map(predict, jnp.moveaxis(copies, 1, 0))  # [20 B C]
        votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).mean(0)
        return jnp.where(jnp.isnan(logits).any((0, 2))[:, None], jnp.nan, votes)

    return output


def _digest(x: Array) -> jax.Array:
    """A number [B] uint32 of each example: two that differ share one as rarely as two random numbers would.

    Each word is mixed, with a number of its place, before they are summed: the bits of 0 and 1 differ in their high
    end alone, where sums of products would leave a table of bits no more than 512 numbers. The mixing is the end of
    MurmurHash3 (A. Appleby, public domain).
    """
    words = jax.lax.bitcast_convert_type(x.reshape(len(x), -1).astype(jnp.float32), jnp.uint32)
    mixed = words ^ randomness.bits(jax.random.key(1), words.shape[1])
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed.sum(1, dtype=jnp.uint32)
