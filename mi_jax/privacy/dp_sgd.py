"""DP-SGD: the Poisson sampler, the Gaussian noise, and epsilon, all computed from one `Mechanism`.

A step draws a Poisson sample of the rows and sums their gradients, each scaled down to L2 norm C over all parameters
together. It adds Gaussian noise of standard deviation noise * C to every coordinate and divides by the EXPECTED sample
size. It never divides by the realised size, which depends on the data.

The guarantee holds for two training sets that differ by ONE ROW ADDED OR REMOVED; the larger set has `rows` rows. It
covers the released parameters only. Losses, norms and counts of a step are not private.

Shapes are static, so a sample is truncated to `batch_size` rows. Let E be the event that in some step the rows that
both sets share fill the batch. E does not depend on the row that differs and has the same probability for both sets.
Without E nothing is truncated, and every step is the Poisson-sampled Gaussian mechanism. By joint convexity of the
hockey-stick divergence, delta is at most the delta of that mechanism plus P(E), without a factor e^epsilon, whichever
rows are truncated. `batch_size` keeps P(E) below a hundredth of delta.

Not covered: leakage through floating-point rounding, and an attacker who guesses the generator's key. Models of one
grid of strengths share their key, and so initial weights, samples and normals. Epsilon is that of publishing one of
them; with two of them the noise could be cancelled. Records hold the seed: they are for research, not for release.

**Source**: arXiv 1607.00133 (the algorithm), 1906.03049 (the accountant).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from mi_jax import randomness
from mi_jax.privacy.per_example import Batch, ClippedSum
from mi_jax.types import Array, Params

_TRUNCATION_SHARE = 0.01  # of delta, reserved for truncated samples
_INTERVALS = (1e-4, 1e-3)  # bounds of the discretisation of the privacy loss; any value gives an upper bound
_GRID_POINTS = 1e6  # of a discretised privacy loss, about: a smaller noise has a coarser grid
_LEAST_NOISE = 1e-3  # below it epsilon is given as inf; it exceeds 10^5 in any case
# Renyi orders: all integers, since other orders have no closed form. The large ones are for small deltas.
_ORDERS = (*range(2, 64), *(2**power for power in range(6, 13)))
_NOISE_POWERS = (-2, 10)  # powers of 2 between which `solve_noise` searches


class Mechanism(NamedTuple):
    """Everything that epsilon depends on, and everything that a step needs.

    `clip` and `noise` may be arrays, traced or vmapped over members; all other fields are static. A Mechanism is a
    pytree. Under jit, close over it and `_replace(clip=..., noise=...)`; as an argument its fields would be traced.
    """

    rows: int  # n, of the training set
    expected: float  # expected sample size; the sampling rate is expected / rows
    steps: int
    clip: float | Array = 1.0  # C, the largest L2 norm of one example's gradient; inf clips nothing
    noise: float | Array = 1.0  # the noise multiplier sigma: the standard deviation in units of the clip
    delta: float = 1e-5


def sampling_rate(mechanism: Mechanism) -> float:
    """Returns the probability with which each row enters a sample, independently of all others."""
    return mechanism.expected / mechanism.rows


def batch_size(mechanism: Mechanism) -> int:
    """Returns the static size of a sample: a multiple of 16 with P(E) <= delta / 100, at most the number of rows."""
    _check_sampling(mechanism)
    rows, steps = mechanism.rows, mechanism.steps
    size = 1 + int(stats.binom.isf(_TRUNCATION_SHARE * mechanism.delta / steps, rows - 1, sampling_rate(mechanism)))
    return min(-(-size // 16) * 16, rows)  # multiples of 16 are faster on CPU


def truncation_bound(mechanism: Mechanism) -> float:
    """Returns a bound on P(E), that any step is truncated: steps * P(Binomial(rows - 1, rate) >= batch_size)."""
    size = batch_size(mechanism)
    # Exactly 0 if the size is the number of rows, which the other rows alone cannot fill.
    return float(mechanism.steps * stats.binom.sf(size - 1, mechanism.rows - 1, sampling_rate(mechanism)))


def epsilon(mechanism: Mechanism) -> float:
    """Returns epsilon at the mechanism's delta, for one row added or removed; inf for a noise below 0.001.

    This is the smaller of two upper bounds for the Poisson-sampled Gaussian mechanism, composed `steps` times, at
    delta minus `truncation_bound`. One is from its privacy loss distribution (PLD), the other from its Renyi
    divergences (RDP). PLD is the smaller one unless delta is tiny: its discretised tails add up over the steps, to more
    than a tiny delta. `clip` and `noise` must be numbers. Raises ValueError as `check_mechanism` does.
    """
    return _smaller_bound(mechanism)[0]


def _smaller_bound(mechanism: Mechanism) -> tuple[float, str]:
    """Returns (epsilon, the accountant that gave it)."""
    check_mechanism(mechanism)
    if mechanism.noise < _LEAST_NOISE:
        return math.inf, "PLD"
    delta = mechanism.delta - truncation_bound(mechanism)
    bounds = _bounds(sampling_rate(mechanism), float(mechanism.noise), mechanism.steps, delta)
    return min((value, name) for name, value in bounds.items())


@functools.lru_cache(maxsize=1024)
def _bounds(rate: float, noise: float, steps: int, delta: float) -> dict[str, float]:
    """Returns accountant -> its upper bound on epsilon."""
    import dp_accounting  # takes two seconds, and only private training needs it
    from dp_accounting import pld, rdp

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    interval = float(np.clip(0.05 * rate / noise, *_INTERVALS))  # a step's privacy loss is of order rate / noise
    interval = max(interval, (1 + steps * rate) / (2 * noise**2) / _GRID_POINTS)  # the largest loss, and the mean sum
    accountants = {
        "PLD": pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=interval),
        "RDP": rdp.RdpAccountant(_ORDERS, relation),
    }
    composed = dp_accounting.SelfComposedDpEvent(step, steps)
    return {name: float(one.compose(composed).get_epsilon(delta)) for name, one in accountants.items()}


def solve_noise(mechanism: Mechanism, target_epsilon: float) -> Mechanism:
    """Returns the mechanism with a noise whose epsilon is at most `target_epsilon`, and at least 0.99 of it.

    Raises ValueError if no noise multiplier between 1/4 and 1024 has such an epsilon.
    """
    check_mechanism(mechanism._replace(noise=1.0))
    if not 0 < target_epsilon < math.inf:
        raise ValueError(f"target epsilon {target_epsilon}: expected more than 0 and finite")
    (low, high), value_at_high = _NOISE_POWERS, 0.0  # bisection over powers of 2; epsilon falls as the power rises
    while high - low > 1e-3 and value_at_high < 0.995 * target_epsilon:
        middle = (low + high) / 2
        value = epsilon(mechanism._replace(noise=2.0**middle))
        low, high, value_at_high = (low, middle, value) if value <= target_epsilon else (middle, high, value_at_high)
    if value_at_high < 0.99 * target_epsilon:
        setting = f"{mechanism.steps} steps at rate {sampling_rate(mechanism):.4g} and delta {mechanism.delta:g}"
        least, most = (2.0**power for power in _NOISE_POWERS)
        given = "{:.4g} to {:.4g}".format(*(epsilon(mechanism._replace(noise=noise)) for noise in (most, least)))
        expected = f"expected one that a noise multiplier in {least:g}..{most:g} gives to 1 %, within {given}"
        raise ValueError(f"target epsilon {target_epsilon}: {expected}, with {setting}")
    return mechanism._replace(noise=2.0**high)


def statement(mechanism: Mechanism) -> str:
    """Returns one line with epsilon and everything it depends on, to be printed wherever epsilon is printed."""
    value, accountant = _smaller_bound(mechanism)
    guarantee = f"epsilon {value:.4g} at delta {mechanism.delta:.3g} for one row added or removed"
    rate = f"{sampling_rate(mechanism):.4g}"
    sampler = f"{mechanism.steps} steps, Poisson samples at rate {rate} of {mechanism.rows} rows"
    noise = f"clip {mechanism.clip:.4g}, noise multiplier {mechanism.noise:.4g}"
    return f"{guarantee} ({sampler}, {noise}, {accountant} accountant)"


def check_mechanism(mechanism: Mechanism) -> None:
    """Raises ValueError, naming the value, for an invalid mechanism; clip and noise may be arrays."""
    _check_sampling(mechanism)
    with np.errstate(over="ignore"):  # checked in float32, the precision of training
        clip, noise = np.float32(mechanism.clip), np.float32(mechanism.noise)
    if not np.all(clip > 0):
        raise ValueError(f"clip={mechanism.clip}: expected more than 0")
    if not np.all((noise >= 0) & np.isfinite(noise)):
        raise ValueError(f"noise={mechanism.noise}: expected a finite multiplier of at least 0")
    if np.any((noise > 0) & np.isinf(clip)):
        expected = f"expected a finite clip where noise={mechanism.noise} is not 0"
        raise ValueError(f"clip={mechanism.clip}: {expected}")


def _check_sampling(mechanism: Mechanism) -> None:
    rows, expected, steps, _, _, delta = mechanism
    if rows < 1 or steps < 1:
        raise ValueError(f"rows={rows}, steps={steps}: expected at least 1 of each")
    if not 0 < expected <= rows:
        raise ValueError(f"expected={expected} rows in a sample of {rows}: expected a sampling rate in (0, 1]")
    if not 0 < delta <= 1 / rows:
        reason = "at 1/n, the paper's value, publishing one random row already counts as private"
        raise ValueError(f"delta={delta}: expected more than 0 and at most 1/{rows}; {reason}")
    if delta == 1:
        raise ValueError(f"delta={delta}: expected less than 1, so with rows={rows} less than 1/rows")


def poisson_sample(key: jax.Array, rows: int, rate: float, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns row numbers [size] of a Poisson sample of 0..rows-1, and weights [size]: 1, or 0 for padding.

    Each row is drawn with probability `rate`, rounded down to a multiple of 2^-32, independently of all others. The
    sampled rows come first, in ascending order. Padding has row number 0. A sample of more than `size` rows is
    truncated.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate}: expected more than 0 and at most 1")
    largest = max(int(rate * 2**32), 1) - 1
    drawn = randomness.bits(key, rows) <= np.uint32(largest)  # [rows]
    indices = jnp.nonzero(drawn, size=size, fill_value=0)[0]
    return indices, (jnp.arange(size) < jnp.sum(drawn)).astype(jnp.float32)


def noisy_mean(key: jax.Array, total: Params, *, clip: float | Array, noise: float | Array,
               expected: float) -> Params:  # fmt: skip
    """Returns (total + noise * clip * standard normals) / expected, with an independent normal for each coordinate.

    Each normal is the sum of two draws, because a single float32 draw ends at 5.3 standard deviations. That would
    omit a tail of probability 1e-7, which is not negligible compared with delta.
    """
    flat, unravel = ravel_pytree(total)
    normals = randomness.normal(key, (2, flat.size)).sum(0) * np.float32(np.sqrt(0.5))
    deviation = jnp.where(jnp.asarray(noise) > 0, noise * clip, 0.0)  # 0 * inf must be no noise, not NaN
    return unravel((flat + deviation * normals) / expected)


def private_gradient(key: jax.Array, clipped_sum: Callable[[Batch, jax.Array, Any], ClippedSum],
                     gather: Callable[[jax.Array], Batch],
                     mechanism: Mechanism) -> tuple[Params, ClippedSum]:  # fmt: skip
    """Returns the private estimate of the mean gradient for one step, and the clipped sum, which is not private.

    `gather(row numbers [B])` returns those rows of the training set, numbered 0..rows-1. `clipped_sum(batch, weight,
    clip)` is `per_example.clipped_sum` or `bookkeeping_sum` for a loss and parameters. Each of the `mechanism.steps`
    steps needs a fresh key.
    """
    sample_key, noise_key = jax.random.split(key)
    size = batch_size(mechanism)
    indices, weight = poisson_sample(sample_key, mechanism.rows, sampling_rate(mechanism), size)
    batch = gather(indices)
    chex.assert_tree_shape_prefix((batch, weight), (size,))
    total = clipped_sum(batch, weight, mechanism.clip)
    _, expected, _, clip, noise, _ = mechanism
    return noisy_mean(noise_key, total.total, clip=clip, noise=noise, expected=expected), total
