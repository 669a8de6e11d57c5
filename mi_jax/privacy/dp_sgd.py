"""DP-SGD: the sampler, the noise and the epsilon that follows from them and the clip, all read off one `Mechanism`.

A step draws a Poisson sample of the rows, sums the gradients of its examples, each scaled down to L2 norm C over
all parameters together, adds Gaussian noise of standard deviation noise * C to every coordinate and divides by the
EXPECTED size of the sample. The realised size is itself about the data and is divided by nowhere.

The guarantee is for two training sets that differ by ONE ROW ADDED OR REMOVED, the larger of `rows` rows, and for
the released parameters only: losses, norms and counts of a step are for the owner of the data.

Shapes are static, so a sample is cut off at `batch_size` rows. Let E be the event that in some step the rows that
both sets share fill the batch by themselves. E does not depend on the row in dispute and has the same probability
under either set; without it nothing is cut off and every step is the Poisson-sampled Gaussian mechanism. By joint
convexity of the hockey-stick divergence, delta is at most that mechanism's plus P(E), without a factor e^epsilon,
whichever rows are cut off. `batch_size` keeps P(E) below a hundredth of delta.

Not defended against: what floating-point numbers reveal beyond real ones, and a guess of the generator's key. Models
of one grid of strengths share their key, that is first weights, samples and normals: epsilon is that of publishing
one of them, and of two the noise could be cancelled. Records hold the seed: they are for research, not for release.

**Source**: arXiv 1607.00133 (the algorithm), 1906.03049 (the accountant). The clipped sums are in `per_example.py`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from mi_jax import randomness
from mi_jax.privacy.per_example import Batch, Clipped
from mi_jax.types import Array, Params

_TRUNCATION_SHARE = 0.01  # of delta, spent on samples that are cut off
_INTERVALS = (1e-4, 1e-3)  # of the discretised privacy loss; an upper bound whatever it is
_NOISES = (-2, 10)  # powers of 2 between which `solve_noise` looks


class Mechanism(NamedTuple):
    """Everything that epsilon depends on, and everything that a step needs.

    `clip` and `noise` may be arrays, traced or vmapped over members; the rest is static. A Mechanism is a pytree:
    close over it and `_replace(clip=..., noise=...)` under jit, rather than passing it through as an argument.
    """

    rows: int  # n, of the training set
    expected: float  # rows in a sample on average; the sampling rate is expected / rows
    steps: int
    clip: float | Array = 1.0  # C, the largest L2 norm of one example's gradient; inf clips nothing
    noise: float | Array = 1.0  # the noise multiplier sigma: the standard deviation in units of the clip
    delta: float = 1e-5


def rate(mechanism: Mechanism) -> float:
    """The probability with which each row enters a sample, independently of all others."""
    return mechanism.expected / mechanism.rows


def batch_size(mechanism: Mechanism) -> int:
    """The static size of a sample: a multiple of 16 which P(E) <= delta / 100 allows, at most the number of rows."""
    _check_sampling(mechanism)
    rows, steps = mechanism.rows, mechanism.steps
    size = 1 + int(stats.binom.isf(_TRUNCATION_SHARE * mechanism.delta / steps, rows - 1, rate(mechanism)))
    return min(-(-size // 16) * 16, rows)  # such batches are the faster ones on CPU


def truncation(mechanism: Mechanism) -> float:
    """A bound on P(E), that any of the steps is cut off: steps * P(Binomial(rows - 1, rate) >= batch_size)."""
    size = batch_size(mechanism)
    # Exactly 0 where the size is the number of rows: the others alone cannot fill it.
    return float(mechanism.steps * stats.binom.sf(size - 1, mechanism.rows - 1, rate(mechanism)))


def epsilon(mechanism: Mechanism) -> float:
    """Epsilon at the mechanism's delta, for one row added or removed; inf without noise.

    An upper bound by the privacy loss distribution of the Poisson-sampled Gaussian mechanism, composed `steps` times,
    at delta less `truncation`. Takes a Mechanism of numbers. ValueError for settings that make no sense.
    """
    check_mechanism(mechanism)
    if mechanism.noise == 0:
        return math.inf
    return _epsilon(rate(mechanism), float(mechanism.noise), mechanism.steps, mechanism.delta - truncation(mechanism))


@functools.lru_cache(maxsize=1024)
def _epsilon(sampling_rate: float, noise: float, steps: int, delta: float) -> float:
    import dp_accounting  # here, because it takes two seconds that whoever trains without noise need not wait
    from dp_accounting import pld

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    step = dp_accounting.PoissonSampledDpEvent(sampling_rate, dp_accounting.GaussianDpEvent(noise))
    interval = float(np.clip(0.05 * sampling_rate / noise, *_INTERVALS))  # a step's loss is of order rate / noise
    accountant = pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=interval)
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))


def solve_noise(mechanism: Mechanism, target_epsilon: float) -> Mechanism:
    """The mechanism with the noise whose epsilon is at most `target_epsilon`, and at least 0.99 of it.

    ValueError where no noise multiplier between 1/4 and 1024 does that.
    """
    check_mechanism(mechanism._replace(noise=1.0))
    if not 0 < target_epsilon < math.inf:
        raise ValueError(f"target epsilon {target_epsilon}: expected more than 0 and finite")
    (low, high), reached = _NOISES, 0.0  # powers of 2; `reached` is the epsilon at `high`, and falls as that rises
    while high - low > 1e-3 and reached < 0.995 * target_epsilon:
        middle = (low + high) / 2
        value = epsilon(mechanism._replace(noise=2.0**middle))
        low, high, reached = (low, middle, value) if value <= target_epsilon else (middle, high, reached)
    if reached < 0.99 * target_epsilon:
        setting = f"{mechanism.steps} steps at rate {rate(mechanism):.4g} and delta {mechanism.delta:g}"
        reachable = f"expected one that a noise multiplier in {2.0 ** _NOISES[0]:g}..{2.0 ** _NOISES[1]:g} gives"
        raise ValueError(f"target epsilon {target_epsilon}: {reachable} with {setting}")
    return mechanism._replace(noise=2.0**high)


def statement(mechanism: Mechanism) -> str:
    """One line with epsilon and all that it depends on, to stand wherever an epsilon is printed."""
    guarantee = f"epsilon {epsilon(mechanism):.4g} at delta {mechanism.delta:.3g} for one row added or removed"
    sampler = f"{mechanism.steps} steps, Poisson samples at rate {rate(mechanism):.4g} of {mechanism.rows} rows"
    return f"{guarantee} ({sampler}, clip {mechanism.clip:.4g}, noise multiplier {mechanism.noise:.4g}, PLD accountant)"


def check_mechanism(mechanism: Mechanism) -> None:
    """Raises ValueError, naming the value, for a mechanism that makes no sense; clip and noise may be arrays."""
    _check_sampling(mechanism)
    with np.errstate(over="ignore"):  # in the precision of training
        clip, noise = np.float32(mechanism.clip), np.float32(mechanism.noise)
    if not np.all(clip > 0):
        raise ValueError(f"clip={mechanism.clip}: expected more than 0")
    if not np.all((noise >= 0) & np.isfinite(noise)):
        raise ValueError(f"noise={mechanism.noise}: expected a finite multiplier of at least 0")
    if np.any((noise > 0) & np.isinf(clip)):
        raise ValueError(
            f"clip={mechanism.clip}: expected a finite one where there is noise, {mechanism.noise} times it"
        )


def _check_sampling(mechanism: Mechanism) -> None:
    rows, expected, steps, _, _, delta = mechanism
    if rows < 1 or steps < 1:
        raise ValueError(f"rows={rows}, steps={steps}: expected at least 1 of each")
    if not 0 < expected <= rows:
        raise ValueError(f"expected={expected} rows in a sample of {rows}: expected a sampling rate in (0, 1]")
    if not 0 < delta <= 1 / rows:
        reason = "at 1/n, the paper's, publishing one row at random counts as private already"
        raise ValueError(f"delta={delta}: expected more than 0 and at most 1/{rows}; {reason}")


def sample(key: jax.Array, rows: int, rate: float, size: int) -> tuple[jax.Array, jax.Array]:
    """Row numbers [size] of a Poisson sample of 0..rows-1, and their weights [size]: 1, or 0 for what pads it.

    Each row is drawn with probability `rate`, rounded down to a multiple of 2^-32, independently of all others. The
    sampled rows come first, in rising order; what pads them is row 0; rows beyond `size` are cut off.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate}: expected more than 0 and at most 1")
    largest = max(int(rate * 2**32), 1) - 1
    drawn = randomness.bits(key, rows) <= np.uint32(largest)  # [rows]
    indices = jnp.nonzero(drawn, size=size, fill_value=0)[0]
    return indices, (jnp.arange(size) < jnp.sum(drawn)).astype(jnp.float32)


def noisy(key: jax.Array, total: Params, *, clip: float | jax.Array, noise: float | jax.Array,
          expected: float) -> Params:  # fmt: skip
    """(total + noise * clip * standard normals) / expected, every coordinate of every leaf drawn independently.

    Each normal is made of two draws, because a single one ends at 5.3: it would leave out one part in ten million,
    which is not small beside delta.
    """
    flat, unravel = ravel_pytree(total)
    normals = randomness.normal(key, (2, flat.size)).sum(0) * np.float32(np.sqrt(0.5))
    deviation = jnp.where(jnp.asarray(noise) > 0, noise * clip, 0.0)  # 0 * inf is no noise, not NaN
    return unravel((flat + deviation * normals) / expected)


def gradient(key: jax.Array, sum_of: Callable[[Batch, jax.Array, Any], Clipped],
             batch_of: Callable[[jax.Array], Batch], mechanism: Mechanism) -> tuple[Params, Clipped]:  # fmt: skip
    """The private estimate of the mean gradient for one step, and the sum it was made from, which is not private.

    `batch_of(row numbers [B])` gathers rows 0..rows-1 of the training set; `sum_of(batch, weight, clip)` is
    `clipped_sum` or `book_kept_sum` with a loss and parameters. One fresh key a step, `mechanism.steps` steps.
    """
    sample_key, noise_key = jax.random.split(key)
    indices, weight = sample(sample_key, mechanism.rows, rate(mechanism), batch_size(mechanism))
    clipped = sum_of(batch_of(indices), weight, mechanism.clip)
    _, expected, _, clip, noise, _ = mechanism
    return noisy(noise_key, clipped.total, clip=clip, noise=noise, expected=expected), clipped
