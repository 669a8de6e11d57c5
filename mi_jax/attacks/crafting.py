"""Questions crafted with gradients of the attacker's own models, for thousands of points in one compiled program.

`oslo` and `yoqo` are two published attacks that ask the target for one label a point; `craft` makes candidates for
chosen queries. All three see networks as `apply` (params, x [B *x]) -> logits [B C] and stacked parameters, a pytree
with a leading axis of models, and never the target.

A fixed number of slots holds the points at work. A slot whose point is finished takes the next one, so that no pass is
spent on finished points; networks see blocks of one fixed shape and rows do not mix. A question is therefore the same
to the bit whatever the number of points, their order and the block. Models run one after the other: on a CPU a
convolution vmapped over weights is grouped, and four models side by side take 1.8 to 2.3 times as long.

`apply` is differentiated for x. The inference pooling of our CNN has a slow gradient on a CPU; pass one that pools as
in training, e.g. lambda params, x: model.apply(params, x, jax.random.key(0)), and keep it: every new function compiles.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax.attacks import slots
from mi_jax.types import Array, Params

Apply = Callable[..., jax.Array]

BLOCK = 64  # rows of one forward and backward pass
VARIANTS = {"plain": (0.0, False), "momentum": (1.0, False), "smooth": (0.0, True), "smooth_momentum": (1.0, True)}
SPREAD = 0.25  # standard deviation of a CIFAR-10 channel: YOQO's inputs are divided by it, ours are not
CARRIED = 0.7  # of the momentum of `craft` from one step to the next
_TINY = 1e-30


class _Path(NamedTuple):
    """Points [B ...] on their way to confidences below every threshold."""

    offset: jax.Array  # [B *x] of the query
    interval: jax.Array  # [B] next one
    fallen: jax.Array  # [B T] thresholds below which the confidence has been
    questions: jax.Array  # [B T *x]


def oslo(apply: Apply, source_params: Params, validation_params: Params, x: Array, y: Array, *,
         thresholds: Sequence[float] = (0.3, 0.1, 0.01, 0.001, 0.0001), max_epsilon: float = 80 / 255,
         intervals: int = 80, steps: int = 5, variant: str = "momentum", binary: np.ndarray | None = None,
         block: int = BLOCK) -> np.ndarray:  # fmt: skip
    """Questions [P T *x] in [0, 1]: for each point the first with a mean validation confidence below each threshold.

    x [P *x] in [0, 1] with labels y [P]; source_params [S ...], validation_params [V ...]; confidence is the softmax of
    mean logits at y. In interval k of `intervals` a point takes `steps` steps of 1.25 epsilon / steps along the sign of
    the gradient of the source models, within L-inf distance epsilon = k max_epsilon / intervals; then the confidence is
    read. All T questions of a point lie on one path, so `oslo_score` of their labels is ordinal. What a point never
    reaches is its last question. A variant, one of VARIANTS, carries momentum or smooths gradients of images over 5x5
    pixels. Columns with binary[j] are rounded in every question, the confidence being that of the rounded one; they
    first move when epsilon exceeds 1/2.
    Memory: activations of all S source models for one block. Raises ValueError for thresholds that do not descend
    within (0, 1], shapes that do not fit, and settings out of range.
    Source: Peng et al., NeurIPS 2024, arXiv 2405.16978, as two public implementations have it; defaults are LeakPro's,
    its threshold 1 replaced. Deviations: the offset is projected so that a query stays in [0, 1], since the gradient
    of a clipped query is 0 at 0 and 1, where bits and black pixels start; the loss is the margin
    logsumexp(other logits) - logit y, whose gradient has the direction of the cross-entropy's and does not underflow
    for confident models; no variant with random resizing. LeakPro takes raw-gradient steps of SGD in an L2 ball
    without clipping and keeps the last threshold's answer alone; mia_bench divides its epsilon by 255 twice.
    """
    bounds = np.asarray(thresholds, np.float64)
    if bounds.size == 0 or not (bounds[-1] > 0 and bounds[0] <= 1 and (np.diff(bounds) < 0).all()):
        raise ValueError(f"thresholds={thresholds}: expected descending confidences in (0, 1]")
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r}: expected one of {', '.join(VARIANTS)}")
    if VARIANTS[variant][1] and np.ndim(x) != 4:
        raise ValueError(f"variant={variant!r}: expected images [P height width channels], got x {np.shape(x)}")
    _check(x, y, binary, block, intervals=intervals, steps=steps, max_epsilon=max_epsilon)
    with np.errstate(divide="ignore"):
        margins = np.log(bounds) - np.log1p(-bounds)  # confidence < T is margin < log(T / (1 - T)); +inf for T = 1
    points = slots.padded((np.asarray(x, np.float32), np.asarray(y, np.int32)), block)
    carried, smooth = VARIANTS[variant]
    numbers = max_epsilon, jnp.asarray(margins, jnp.float32), intervals, steps, carried
    static = (apply, smooth, block)
    return np.asarray(_oslo(static, source_params, validation_params, points, len(x), numbers, _mask(binary)))[: len(x)]


def oslo_score(is_label: np.ndarray) -> np.ndarray:
    """Scores [P] in 0..T, rising with membership: at how many thresholds the target still answered y.

    is_label [P T] bool. Every threshold is a one-query attack and the score is their vote: an answer out of order,
    y again after another label, moves it by one. Where answers are in order it is the first threshold that flips.
    """
    return np.asarray(is_label, bool).sum(1)


def yoqo(apply: Apply, params: Params, is_inside: Array, use: Array, x: Array, y: Array, *, online: bool,
         alpha: float | None = None, rate: float | None = None, steps: int = 50, stop: float = 1 / 12,
         binary: np.ndarray | None = None, block: int = BLOCK) -> np.ndarray:  # fmt: skip
    """Questions [P *x] in [0, 1] that models trained with a point label y [P] and those trained without it do not.

    params [C ...]; is_inside [P C] bool: model c was trained with point p; use [P C] bool: it may be used for p. The
    caller chooses as many inside as outside. From x [P *x] each point takes at most `steps` steps of -rate gradient and
    stops after the first from a place where its loss is at most `stop`. With means over models:

    online:  (mean_in CE(y) + alpha mean_out CE(t)) / (1 + alpha), alpha 2, rate .48 SPREAD^2
    offline: (mean_out CE(t) + alpha mean ((x' - x) / SPREAD)^2) / (1 + alpha), alpha 5, rate .96 SPREAD^2

    with t the class, other than y, that the model itself prefers at x. Models that a point does not use cost nothing.
    Columns with binary[j] are rounded to 0 or 1 at the end. Raises ValueError for a point without models on a side
    that is needed, shapes that do not fit, and settings out of range.
    Source: Wu et al., ICLR 2024, and its public code, whose sums over 16 models of 3 (online) or 6 (offline) times the
    loss, steps of .01 and stop at 4 or 8 are these means, rates and stop. Deviations: inputs are in [0, 1] and queries
    stay there, where theirs are standardised and never clipped; SPREAD converts; 50 steps, where their code takes 51.
    Its default stop offline is 6 (here 1/16), its README's 8. mia_bench scores by a logit of the target, which is no
    label; LeakPro's default is one step with two models.
    """
    is_inside, use = (np.asarray(array, bool) for array in (is_inside, use))
    alpha = (2.0 if online else 5.0) if alpha is None else alpha
    rate = (0.48 if online else 0.96) * SPREAD**2 if rate is None else rate
    _check(x, y, binary, block, steps=steps, rate=rate)
    sides = _sides(is_inside, use, len(x), online)
    weights = (sides[0] / (1 + alpha) if online else 0 * sides[0], sides[1] * ((alpha if online else 1) / (1 + alpha)))
    points = slots.padded((np.asarray(x, np.float32), np.asarray(y, np.int32), *weights), block * slots.BLOCKS_AT_WORK)
    rows = slots.Rows(points[0], points[1], points[2], points[3], _other_classes(apply, block, params, *points[:2]))
    near = 0.0 if online else alpha / (1 + alpha) / SPREAD**2
    options = {"rate": rate, "stop": stop, "near": near, "steps": steps}
    static = slots.Program(apply, _cross_entropies, _plain_step, block)
    questions = slots.descend(static, params, rows, len(x), options, None)
    return np.asarray(_rounded(questions, _mask(binary)))[: len(x)]


def craft(apply: Apply, params: Params, is_inside: Array, use: Array, start: Array, y: Array, *, steps: int = 4,
          rate: float = 0.05, scale: float = 2.0, flips: int = 2, binary: np.ndarray | None = None,
          block: int = BLOCK) -> np.ndarray:  # fmt: skip
    """Candidate questions [P R *x] in [0, 1]: R starts of each point, moved a few steps towards telling models apart.

    start [P R *x] in [0, 1], y [P]; params [C ...], is_inside and use [P C] as for `yoqo`. A step of length about
    `rate` follows -momentum, where momentum = CARRIED momentum + gradient of unit L2 norm, down
    mean_in softplus(-z / scale) + mean_out softplus(z / scale), z = logit y - largest other logit. Of the columns with
    binary[j], which start at 0 or 1, each step inverts at most `flips`: those that lower the loss most to first order.
    Few steps are right: from noise of sigma .05 to .2 on digits 4 steps of .05 beat plain noise at one query, while
    30 fit the attacker's models and no others. Errors as `yoqo`. Source: ours.
    """
    start = np.asarray(start, np.float32)
    if start.ndim < 3 or len(start) != len(y):
        raise ValueError(f"start {start.shape}, y {np.shape(y)}: expected [P R *x] and [P]")
    repeated = partial(np.repeat, repeats=start.shape[1], axis=0)
    flat = start.reshape(-1, *start.shape[2:])
    _check(flat, repeated(y), binary, block, steps=steps, rate=rate, scale=scale, flips=flips)
    inside, outside = _sides(np.asarray(is_inside, bool), np.asarray(use, bool), len(start), True)
    data = flat, repeated(np.asarray(y, np.int32)), repeated(inside), repeated(outside)
    points = slots.padded(data, block * slots.BLOCKS_AT_WORK)
    rows = slots.Rows(points[0], points[1], points[2], points[3], np.zeros(points[2].shape, np.int32))
    options = {"rate": rate, "stop": -np.inf, "near": 0.0, "scale": scale, "steps": steps}
    static = slots.Program(apply, _margin_losses, _momentum_step, block, flips)
    moved = slots.descend(static, params, rows, len(flat), options, _mask(binary))
    return np.asarray(moved)[: len(flat)].reshape(start.shape)


def _check(x: Array, y: Array, binary: np.ndarray | None, block: int, **positive: float) -> None:
    if np.ndim(x) < 2 or np.shape(y) != np.shape(x)[:1] or not len(x):
        raise ValueError(f"x {np.shape(x)}, y {np.shape(y)}: expected [P *x] and [P], at least one point")
    if binary is not None and np.shape(binary) != np.shape(x)[1:]:
        raise ValueError(f"binary {np.shape(binary)}: expected a flag for each column of x {np.shape(x)}")
    if np.min(x) < 0 or np.max(x) > 1:
        raise ValueError(f"x from {np.min(x)} to {np.max(x)}: expected values in [0, 1]")
    for name, value in {"block": block, **positive}.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name}={value}: expected a positive number")


def _sides(is_inside: np.ndarray, use: np.ndarray, num_points: int, needs_inside: bool) -> tuple[np.ndarray, ...]:
    """The weights [P C] of means over the models used of each side."""
    if is_inside.shape != use.shape or is_inside.ndim != 2 or len(use) != num_points:
        raise ValueError(f"is_inside {is_inside.shape}, use {use.shape}: expected [{num_points} C] both")
    weights = []
    for side, name in ((is_inside & use, "with"), (~is_inside & use, "without")):
        counts = side.sum(1, keepdims=True)
        if (missing := np.flatnonzero(counts == 0)).size and (needs_inside or name == "without"):
            raise ValueError(f"point {missing[0]}: expected a model in use that was trained {name} it")
        weights.append((side / np.maximum(counts, 1)).astype(np.float32))
    return tuple(weights)


def _mask(binary: np.ndarray | None) -> np.ndarray | None:
    return None if binary is None or not np.any(binary) else np.asarray(binary, bool)


def _rounded(x: jax.Array, binary: Array | None) -> jax.Array:
    return x if binary is None else jnp.where(binary, jnp.floor(x + 0.5), x)


def _margin(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The log-odds [B] of class y: its logit less the logsumexp of the others."""
    is_y = jnp.arange(logits.shape[1]) == y[:, None]
    rest = jax.nn.logsumexp(jnp.where(is_y, -jnp.inf, logits), axis=1)
    return jnp.where(is_y, logits, 0).sum(1) - rest


@partial(jax.jit, static_argnums=0)
def _oslo(static, source_params, validation_params, points, count, numbers, binary):
    (apply, smooth, block), (x, y) = static, points
    max_epsilon, margins, intervals, steps, carried = numbers

    def mean_margin(params, queries, y):
        return _margin(jax.lax.map(lambda p: apply(p, queries), params).mean(0), y)

    def begin(rows):
        shape = (block, len(margins), *x.shape[1:])
        fallen, questions = jnp.zeros(shape[:2], bool), jnp.zeros(shape)
        return _Path(jnp.zeros((block, *x.shape[1:])), jnp.zeros(block, jnp.int32), fallen, questions)

    def advance(rows, busy, path: _Path):
        here, label = x[rows], y[rows]
        epsilon = slots.widened((path.interval + 1) * max_epsilon / intervals, here)

        def step(_, carry):
            offset, momentum = carry
            gradient = jax.grad(lambda q: mean_margin(source_params, q, label).sum())(here + offset)
            gradient = _smoothed(gradient) if smooth else gradient
            size = jnp.abs(gradient).mean(tuple(range(1, x.ndim)), keepdims=True)
            momentum = carried * momentum + gradient / jnp.maximum(size, _TINY)
            offset = jnp.clip(offset - 1.25 * epsilon / steps * jnp.sign(momentum), -epsilon, epsilon)
            return jnp.clip(here + offset, 0, 1) - here, momentum

        offset, _ = jax.lax.fori_loop(0, steps, step, (path.offset, jnp.zeros_like(here)))
        question = _rounded(jnp.clip(here + offset, 0, 1), binary)
        margin = mean_margin(validation_params, question, label)
        questions = jnp.where(slots.widened(path.fallen, path.questions), path.questions, question[:, None])
        fallen = path.fallen | (margin[:, None] < margins)
        path = _Path(offset, path.interval + 1, fallen, questions)
        return path, fallen.all(1) | (path.interval >= intervals), questions

    return slots.work(block, count, begin, advance, jnp.zeros((len(x), len(margins), *x.shape[1:])))


def _smoothed(images: jax.Array) -> jax.Array:
    """Images [B H W C] convolved with a normal density at -3, -1.5, 0, 1.5, 3 along both axes, of sum 1."""
    kernel = np.exp(-(np.linspace(-3, 3, 5) ** 2) / 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        wide = jnp.pad(images, [(2, 2) if i == axis else (0, 0) for i in range(4)])
        size = images.shape[axis]
        shifted = [jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(5)]
        images = jnp.tensordot(kernel.astype(np.float32), jnp.stack(shifted), 1)
    return images


def _cross_entropies(options, logits, y, inside, outside, other):
    return inside * jax.nn.softplus(-_margin(logits, y)) + outside * jax.nn.softplus(-_margin(logits, other))


def _margin_losses(options, logits, y, inside, outside, other):
    is_y = jnp.arange(logits.shape[1]) == y[:, None]
    z = jnp.where(is_y, logits, 0).sum(1) - jnp.where(is_y, -jnp.inf, logits).max(1)
    return inside * jax.nn.softplus(-z / options["scale"]) + outside * jax.nn.softplus(z / options["scale"])


def _plain_step(program, options, binary, x, momentum, gradient):
    return jnp.clip(x - options["rate"] * gradient, 0, 1), momentum


def _momentum_step(program: slots.Program, options, binary, x, momentum, gradient):
    real = gradient if binary is None else jnp.where(binary, 0, gradient)
    size = jnp.sqrt(jnp.square(real).sum(tuple(range(1, x.ndim)), keepdims=True))
    momentum = CARRIED * momentum + real / jnp.maximum(size, _TINY)
    moved = jnp.clip(x - options["rate"] * momentum, 0, 1)
    if binary is None:
        return moved, momentum
    lowered = jnp.where(binary, -gradient * (1 - 2 * x), -jnp.inf)  # the loss, to first order, if a bit is inverted
    flat = lowered.reshape(len(x), -1)
    best = jax.lax.top_k(flat, min(program.flips, flat.shape[1]))[1]
    chosen = (jnp.arange(flat.shape[1]) == best[..., None]).any(1).reshape(x.shape)
    return jnp.where(chosen & (lowered > 0), 1 - x, moved), momentum


@partial(jax.jit, static_argnums=(0, 1))
def _other_classes(apply: Apply, block: int, params, x, y) -> jax.Array:
    """The class [P C] that each model prefers at x [P *x] among those that are not y."""

    def of_block(points):
        logits = jax.lax.map(lambda p: apply(p, points[0]), params)  # [C block K]
        return jnp.where(jnp.arange(logits.shape[2]) == points[1][:, None], -jnp.inf, logits).argmax(2).T

    parts = [a.reshape(-1, block, *a.shape[1:]) for a in (x, y)]
    return jax.lax.map(of_block, tuple(parts)).reshape(len(x), -1)
