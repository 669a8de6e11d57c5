"""DP-SGD: the sampler, the clipping, the noise and the epsilon that follows from them, all read off one `Mechanism`.

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

Not defended against: what floating-point numbers reveal beyond real ones, and a guess of the generator's key.

**Source**: arXiv 1607.00133 (the algorithm), 1906.03049 (the accountant), 2210.00038 (book-keeping).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy import stats

from mi_jax import models, randomness
from mi_jax.types import Array, Params

_TRUNCATION_SHARE = 0.01  # of delta, spent on samples that are cut off
_INTERVALS = (1e-4, 1e-3)  # of the discretised privacy loss; an upper bound whatever it is
_NOISES = (-2, 10)  # powers of 2 between which `solve` looks
_EXACT = lax.Precision.HIGHEST  # an accelerator's 10-bit products would let a clipped norm exceed the clip

Batch = Any  # a pytree of arrays [B ...], one entry per example


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


class Clipped(NamedTuple):
    """A sum of clipped gradients. Only `total`, once `noisy`, may be published."""

    total: Params  # as the parameters
    norm: jax.Array  # [B] before clipping, 0 where the weight is 0, not finite where the example was dropped
    loss: jax.Array  # [B] 0 where the weight is 0
    dropped: jax.Array  # [] int32, examples of positive weight whose gradient is not finite


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
    """Epsilon at the mechanism's delta, for one row added or removed; inf without noise or without a clip.

    An upper bound by the privacy loss distribution of the Poisson-sampled Gaussian mechanism, composed `steps` times,
    at delta less `truncation`. Takes a Mechanism of numbers. ValueError for settings that make no sense.
    """
    check(mechanism)
    if mechanism.noise == 0 or np.any(np.isinf(mechanism.clip)):
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


def solve(mechanism: Mechanism, target_epsilon: float) -> Mechanism:
    """The mechanism with the noise whose epsilon is at most `target_epsilon`, and at least 0.99 of it.

    ValueError where no noise multiplier between 1/4 and 1024 does that.
    """
    check(mechanism._replace(noise=1.0))
    if not 0 < target_epsilon < math.inf or np.any(np.isinf(mechanism.clip)):
        raise ValueError(f"target epsilon {target_epsilon}, clip {mechanism.clip}: expected both above 0 and finite")
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


def check(mechanism: Mechanism) -> None:
    """Raises ValueError, naming the value, for a mechanism that makes no sense; clip and noise may be arrays."""
    _check_sampling(mechanism)
    if not np.all(np.asarray(mechanism.clip) > 0):
        raise ValueError(f"clip={mechanism.clip}: expected more than 0")
    if not np.all((np.asarray(mechanism.noise) >= 0) & np.isfinite(mechanism.noise)):
        raise ValueError(f"noise={mechanism.noise}: expected a finite multiplier of at least 0")


def _check_sampling(mechanism: Mechanism) -> None:
    rows, expected, steps, _, _, delta = mechanism
    if rows < 1 or steps < 1:
        raise ValueError(f"rows={rows}, steps={steps}: expected at least 1 of each")
    if not 0 < expected <= rows:
        raise ValueError(f"expected={expected} rows in a sample of {rows}: expected a sampling rate in (0, 1]")
    if not 0 < delta <= 1 / rows:
        reason = "above 1/n, publishing one row of the training set would count as private"
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


def clipped_sum(loss_of_one: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                clip: float | jax.Array, *, microbatch: int = 16) -> Clipped:  # fmt: skip
    """The sum over the batch of weight * (the example's gradient, scaled down to L2 norm `clip` where it is longer).

    `loss_of_one(params, example)` -> scalar, `example` being one entry of `batch`, without its first axis; `weight`
    [B] is 0 or 1. The norm is over all parameters together. An example of weight 0 contributes exactly 0 whatever
    it holds; one whose gradient is not finite is dropped and counted. The gradients of `microbatch` examples exist
    at a time, and microbatches behind the last positive weight are not computed. This is the reference: any model,
    one gradient per example, about 5 times slower than `book_kept_sum`.
    """

    def part_of(part: Batch, weight: jax.Array) -> Clipped:
        losses, grads = jax.vmap(jax.value_and_grad(loss_of_one), (None, 0))(params, part)
        scale, clipped = _scale(sum(_squares(leaf) for leaf in jax.tree.leaves(grads)), losses, weight, clip)
        return clipped._replace(total=jax.tree.map(functools.partial(_weighted, scale), grads))

    return _in_parts(part_of, params, batch, weight, microbatch)


def book_kept_sum(losses_of: Callable[[Params, Batch], jax.Array], params: Params, batch: Batch, weight: jax.Array,
                  clip: float | jax.Array, *, microbatch: int = 16) -> Clipped:  # fmt: skip
    """What `clipped_sum` gives, to rounding, from one backward pass of the whole microbatch.

    `losses_of(params, batch)` -> [B], one loss for each example, of a linen model whose rows do not see each other
    and whose parameters are kernel and bias of `nn.Dense` layers on rows [B I] and of the 3x3 convolutions of
    `models.py`, each used once. ValueError naming what is outside of that. `params` is the linen dictionary.

    The pass gives the gradient g of the loss at each layer's output. A dense layer with input a has the gradient
    a g^T, of norm |a| |g|, and the weighted sum is one product; a convolution takes nine small ones an example.
    """

    def part_of(part: Batch, weight: jax.Array) -> Clipped:
        _, inputs, outputs = jax.eval_shape(functools.partial(_taped, losses_of), params, part, {})
        _check_layers(params, inputs)
        zeros = {path: jnp.zeros(output.shape, output.dtype) for path, output in outputs.items()}

        def summed(offsets):
            losses, inputs, _ = _taped(losses_of, params, part, offsets)
            return jnp.sum(losses), (losses, inputs)

        grads, (losses, inputs) = jax.grad(summed, has_aux=True)(zeros)  # grads: path -> [B ...]
        layers = {path: (_dense if g.ndim == 2 else _conv)(inputs[path], g) for path, g in grads.items()}
        scale, clipped = _scale(sum(squares for squares, _ in layers.values()), losses, weight, clip)
        sums = {(*path, k): leaf for path, (_, sums_of) in layers.items() for k, leaf in sums_of(scale).items()}
        return clipped._replace(total=traverse_util.unflatten_dict(sums))

    return _in_parts(part_of, params, batch, weight, microbatch)


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


def _in_parts(part_of: Callable[[Batch, jax.Array], Clipped], params: Params, batch: Batch, weight: jax.Array,
              microbatch: int) -> Clipped:  # fmt: skip
    """The Clipped of a batch from those of its microbatches, up to the last one that holds a positive weight."""
    B = len(weight)
    size = min(microbatch, B)
    whole = -(-B // size) * size
    if whole != B:  # fill the last microbatch with copies of the last row, of weight 0
        batch = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(whole), B - 1)], batch)
    weight = jnp.pad(weight, (0, whole - B))
    parts = (jnp.max(jnp.where(weight > 0, jnp.arange(whole), -1)) + size) // size

    def step(i, done: Clipped) -> Clipped:
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, i * size, size), (batch, weight))
        new = part_of(*part)
        return Clipped(
            total=jax.tree.map(jnp.add, done.total, new.total),
            norm=lax.dynamic_update_slice_in_dim(done.norm, new.norm, i * size, 0),
            loss=lax.dynamic_update_slice_in_dim(done.loss, new.loss, i * size, 0),
            dropped=done.dropped + new.dropped,
        )

    start = Clipped(jax.tree.map(jnp.zeros_like, params), jnp.zeros(whole), jnp.zeros(whole), jnp.array(0, jnp.int32))
    done = lax.fori_loop(0, parts, step, start)
    return done._replace(norm=done.norm[:B], loss=done.loss[:B])


def _scale(squares: jax.Array, losses: jax.Array, weight: jax.Array, clip) -> tuple[jax.Array, Clipped]:
    """What each example's gradient is multiplied by [B], from its squared norm [B], and the record without a sum."""
    norm = jnp.sqrt(squares)
    here, dropped = weight > 0, (weight > 0) & ~jnp.isfinite(norm)
    scale = jnp.where(here & ~dropped, weight * jnp.minimum(1.0, clip / norm), 0.0)
    count = jnp.sum(dropped, dtype=jnp.int32)
    return scale, Clipped(None, jnp.where(here, norm, 0.0), jnp.where(here, losses, 0.0), count)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)  # rows with such entries are multiplied by 0


def _squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.reshape(len(x), -1)), 1)  # [B]


def _weighted(scale: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tensordot(scale, _finite(x), 1, precision=_EXACT)


def _dense(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Squared norms [B] of the gradients (a g^T, g), a [B I], g [B O], and scale [B] -> their weighted sums."""

    def sums_of(scale: jax.Array) -> dict[str, jax.Array]:
        return {"kernel": jnp.dot(_finite(a).T * scale, _finite(g), precision=_EXACT), "bias": _weighted(scale, g)}

    return (_squares(a) + 1) * _squares(g), sums_of


def _conv(a: jax.Array, g: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """The same of a 3x3 convolution: a [B H+2 W+2 I] with its border, g [B H W O]."""
    H, W = g.shape[1:3]
    corners = [a[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    kernels = [jnp.einsum("bhwi,bhwo->bio", corner, g, precision=_EXACT) for corner in corners]
    bias = jnp.sum(g, (1, 2))

    def sums_of(scale: jax.Array) -> dict[str, jax.Array]:
        kernel = jnp.stack([_weighted(scale, kernel) for kernel in kernels])  # [9 I O]
        return {"kernel": kernel.reshape(3, 3, *kernel.shape[1:]), "bias": _weighted(scale, bias)}

    return sum(_squares(kernel) for kernel in kernels) + _squares(bias), sums_of


def _taped(losses_of, params: Params, batch: Batch, offsets: dict) -> tuple[jax.Array, dict, dict]:
    """The losses [B], and path -> input and path -> output of every layer that `book_kept_sum` knows.

    `offsets` path -> [B ...] is added to the outputs: the gradient for it is the gradient at the output.
    """
    inputs, outputs = {}, {}

    def tap(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module, path, conv = context.module, context.module.path, isinstance(context.module, models._Conv3x3)
        if not conv and not (isinstance(module, nn.Dense) and args[0].ndim == 2):
            return output
        if path in inputs:
            raise ValueError(f"layer {'/'.join(path)} is used twice: expected once, or take clipped_sum")
        border = [(0, 0)] + 2 * [(module.padding,) * 2] + [(0, 0)] if conv else 0
        inputs[path] = jnp.pad(args[0], border)
        outputs[path] = output + offsets[path] if offsets else output
        return outputs[path]

    with nn.intercept_methods(tap):
        return losses_of(params, batch), inputs, outputs


def _check_layers(params: Params, inputs: dict) -> None:
    known = {(*path, name) for path in inputs for name in ("kernel", "bias")}
    other = ["/".join(path) for path in known ^ set(traverse_util.flatten_dict(params))]
    if other:
        expected = "expected kernel and bias of dense layers and 3x3 convolutions of models.py, or take clipped_sum"
        raise ValueError(f"parameters {', '.join(sorted(other))}: {expected}")
