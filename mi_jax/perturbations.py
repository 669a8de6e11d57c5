"""Perturbations: the neighbours of one example that an attack queries, and noise for noisy queries.

A perturbation is a function `(key, x [*x]) -> [M *x]` (see `types.Perturbation`); a family makes one for each
strength. To add one, write a factory and add a line to PERTURBATIONS at the bottom of this module. The name in that
dict is then the name of an attack, and the contract tests run it at every strength of its grid.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage, special

from mi_jax import randomness
from mi_jax.types import Array, Perturbation


class Family(NamedTuple):
    """Perturbations of one kind, one for each strength."""

    make: Callable[[Any], Perturbation]  # strength -> perturbation; the same strength gives the same object
    grid: tuple[Any, ...]  # strengths that an attacker tries on shadow models; at least one
    default: Any  # the strength used where nothing is tuned


def only_itself(key: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the example alone, [1 *x]; of any shape."""
    del key
    return x[None]


def rotate(degrees: float) -> Perturbation:
    """Returns a perturbation x [H W C] -> [3 H W C]: x, x rotated by +degrees, x rotated by -degrees.

    Rotation is about the centre of the image by cubic splines, counter-clockwise for positive angles as in
    `jnp.rot90`; pixels from outside the image are black. Before clipping, the values are those of
    `scipy.ndimage.rotate(x, degrees, axes=(0, 1), reshape=False)` to 1e-5 in float32. The first neighbour is x
    itself to the bit, and M = 3 at every angle, 0 included. The same angle gives the same function object.

    Args:
      degrees: a finite number in [0, 180].

    Raises:
      ValueError: here, for any other angle; when traced, for an example that is not [H W C].

    Source: section 3.3 (N = 3) of the paper and, for the interpolation, the authors' code. Deviation: values are
    clipped to [0, 1], which that code does not do. Splines overshoot at edges, and no query should have pixel
    values that images cannot have.
    """
    angle = _number(degrees)
    if not 0 <= angle <= 180:
        raise ValueError(f"rotate: degrees={degrees!r}, expected a finite number in [0, 180]")
    return _rotate(angle)


@cache
def _rotate(degrees: float) -> Perturbation:
    def rotated(key: jax.Array, x: jax.Array) -> jax.Array:
        del key
        height, width, _ = _image_shape(rotated.__name__, x)
        coefficients = _spline_coefficients(x.astype(jnp.float32))
        rotations = [_sample(coefficients, *_taps(height, width, angle)) for angle in (degrees, -degrees)]
        return jnp.stack([x, *(jnp.clip(image, 0, 1).astype(x.dtype) for image in rotations)])  # [3 H W C]

    rotated.__name__ = f"rotate({degrees:g})"
    return rotated


def translate(d: float) -> Perturbation:
    """Returns a perturbation x [H W C] -> [4d+1 H W C]: x, then x shifted by every (i, j) with |i| + |j| = d.

    Shifts are by whole pixels, i rows down and j columns right, ordered by i and then j; the edge pixels are
    repeated into the gap, so every value occurs in x. d = 0 gives x alone. The same d gives the
    same function object.

    Args:
      d: a whole number, at least 0 and smaller than both sides of the image.

    Raises:
      ValueError: here, for any other d; when traced, for an example that is not [H W C] or is too small.

    Source: section 3.3 of the paper (the set of shifts); the authors' code (edge pixels repeated).
    """
    return _translate(_pixels("translate: d", d))


@cache
def _translate(d: int) -> Perturbation:
    offsets = [(i, j) for i in range(-d, d + 1) for j in sorted({abs(i) - d, d - abs(i)})]
    offsets = [(0, 0), *(offset for offset in offsets if offset != (0, 0))]

    def translated(key: jax.Array, x: jax.Array) -> jax.Array:
        del key
        height, width, _ = _image_shape(translated.__name__, x)
        if d >= min(height, width):
            raise ValueError(f"{translated.__name__}: image of {height} x {width} pixels, expected sides above {d}")
        padded = jnp.pad(x, ((d, d), (d, d), (0, 0)), mode="edge")  # [H+2d W+2d C]
        shifted = [padded[d - i : d - i + height, d - j : d - j + width] for i, j in offsets]
        return jnp.stack(shifted)  # [4d+1 H W C]

    translated.__name__ = f"translate({d})"
    return translated


def mirror_shift_cutout(pixels: float) -> Perturbation:
    """Returns a random perturbation x [H W C] -> [1 H W C]: a mirror image or not, shifted, with a grey square.

    The image is mirrored left to right with probability 1/2. The shift along each axis is uniform in -pixels..pixels,
    with the image reflected into the gap. The side of the square is half the image's height, its centre is uniform in
    the image, its value 1/2. The same number gives the same function object.

    Raises ValueError for pixels other than a whole number of at least 0; when traced, for an example that is not
    [H W C] or not larger than the shift.

    Source: the augmentations of FixMatch (arXiv 2001.07685), used for training and attack in figure 4 of the paper.
    """
    return _mirror_shift_cutout(_pixels("mirror_shift_cutout: pixels", pixels))


@cache
def _mirror_shift_cutout(pixels: int) -> Perturbation:
    def augmented(key: jax.Array, x: jax.Array) -> jax.Array:
        height, width, channels = _image_shape(augmented.__name__, x)
        if pixels >= min(height, width):
            size = f"image of {height} x {width} pixels"
            raise ValueError(f"{augmented.__name__}: {size}, expected sides above {pixels}")
        mirror_key, shift_key, square_key = jax.random.split(key, 3)
        x = jnp.where(jax.random.bernoulli(mirror_key), x[:, ::-1], x)
        padded = jnp.pad(x, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="reflect")
        i, j = jax.random.randint(shift_key, (2,), 0, 2 * pixels + 1)
        shifted = jax.lax.dynamic_slice(padded, (i, j, 0), (height, width, channels))
        centre = jax.random.randint(square_key, (2,), 0, jnp.array([height, width]))
        rows, columns = jnp.arange(height) - centre[0], jnp.arange(width) - centre[1]
        low, high = -(height // 4), height // 2 - height // 4
        inside = ((rows >= low) & (rows < high))[:, None] & ((columns >= low) & (columns < high))[None]
        return jnp.where(inside[..., None], jnp.asarray(0.5, x.dtype), shifted)[None]

    augmented.__name__ = f"mirror_shift_cutout({pixels})"
    return augmented


Noise = Callable[[Any, jax.Array, jax.Array, int], jax.Array]
"""(strength, key, x [*x], count) -> [count *x]: independent noisy copies of one example, in [0, 1]."""


def gaussian_noise(sigma: Array, key: jax.Array, x: jax.Array, count: int) -> jax.Array:
    """`count` copies x + sigma * N(0, I), clipped to [0, 1]; sigma in input units, a number or an array [*x]."""
    return jnp.clip(x + sigma * randomness.normal(key, (count, *x.shape)), 0, 1)


def bit_flips(p: Array, key: jax.Array, x: jax.Array, count: int) -> jax.Array:
    """`count` copies of a binary row x with every bit flipped with probability p."""
    return jnp.abs(x - randomness.flips(key, p, (count, *x.shape)))


def redraws(p: Array, key: jax.Array, x: jax.Array, count: int) -> jax.Array:
    """`count` copies of a row x with every value drawn anew, uniform in [0, 1], with probability p."""
    change_key, value_key = jax.random.split(key)
    shape = (count, *x.shape)
    return jnp.where(randomness.flips(change_key, p, shape), jax.random.uniform(value_key, shape), x)


def column_noise(binary: np.ndarray | None, categorical: np.ndarray | None = None) -> Noise:
    """The noise for tables: bit flips in the columns where `binary` [features] is True, Gaussian noise in the others.

    Where `categorical` [features] is True, a value is drawn anew from [0, 1] instead. `binary` None: all columns are
    real, in examples of any shape. The strength is a dict: `p`, the probability that a bit flips or a category is drawn
    anew, if there are such columns, and `sigma`, a number or [features], if there are real ones. Real values are
    clipped to [0, 1] and bits stay 0 or 1. The kinds draw from separate keys, so none changes with the strength or
    values of another. Where all columns are of one kind the copies are those of `bit_flips`, `redraws` or
    `gaussian_noise`, to the bit.

    The same masks give the same function object: compiled programs are found by its identity.
    """
    mask = None if binary is None else np.asarray(binary, bool).tobytes()
    if categorical is None or not categorical.any():
        return _column_noise(mask)
    return _mixed_noise(mask or bytes(len(categorical)), np.asarray(categorical, bool).tobytes())


@lru_cache
def _mixed_noise(binary: bytes, categorical: bytes) -> Noise:
    redrawn, flipped = (np.frombuffer(mask, bool) for mask in (categorical, binary))
    others = _column_noise(flipped[~redrawn].tobytes()) if not redrawn.all() else None
    order = np.argsort(np.concatenate([np.flatnonzero(redrawn), np.flatnonzero(~redrawn)]))

    def noise(strength, key, x, count):
        if others is None:
            return redraws(strength["p"], key, x, count)
        redrawn_key, others_key = jax.random.split(key)
        rest = strength
        if "sigma" in strength:
            rest = strength | {"sigma": jnp.broadcast_to(strength["sigma"], x.shape)[~redrawn]}
        anew = redraws(strength["p"], redrawn_key, x[redrawn], count)
        return jnp.concatenate([anew, others(rest, others_key, x[~redrawn], count)], 1)[:, order]

    return noise


@lru_cache
def _column_noise(mask: bytes | None) -> Noise:
    binary = np.zeros(1, bool) if mask is None else np.frombuffer(mask, bool)
    if not binary.any():
        return lambda strength, key, x, count: gaussian_noise(strength["sigma"], key, x, count)
    if binary.all():
        return lambda strength, key, x, count: bit_flips(strength["p"], key, x, count)
    bits, reals = np.flatnonzero(binary), np.flatnonzero(~binary)
    original_order = np.argsort(np.concatenate([bits, reals]))

    def noise(strength, key, x, count):
        bits_key, reals_key = jax.random.split(key)
        noisy_bits = bit_flips(strength["p"], bits_key, x[bits], count)
        sigma = jnp.broadcast_to(strength["sigma"], x.shape)[reals]
        noisy_reals = gaussian_noise(sigma, reals_key, x[reals], count)
        return jnp.concatenate([noisy_bits, noisy_reals], 1)[:, original_order]  # [count features]

    return noise


def _number(value: Any) -> float:
    """Returns the value as a float; NaN if it is not a number (a bool, a string, an array)."""
    if isinstance(value, bool | str | bytes | np.bool_):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(value: Any) -> int | None:
    """Returns the value as an int; None if it is not a whole number (2.0 is one, True is not)."""
    number = _number(value)
    return int(number) if math.isfinite(number) and number == int(number) else None


def _pixels(name: str, value: Any) -> int:
    distance = _whole(value)
    if distance is None or distance < 0:
        raise ValueError(f"{name}={value!r}, expected a whole number of pixels, at least 0")
    return distance


def _image_shape(name: str, x: jax.Array) -> tuple[int, int, int]:
    if x.ndim != 3:
        raise ValueError(f"{name}: example of shape {tuple(x.shape)}, expected an image [H W C]")
    height, width, channels = x.shape
    return height, width, channels


def _spline_coefficients(x: jax.Array) -> jax.Array:
    """Returns the cubic B-spline coefficients [H W C] of an image [H W C], mirrored at its edges."""
    rows, columns = (jnp.asarray(_spline_filter(size), x.dtype) for size in x.shape[:2])
    # HIGHEST: the default precision of accelerators keeps three digits of a product, too few for 1e-5.
    return jnp.einsum("ah,bw,hwc->abc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _spline_filter(size: int) -> np.ndarray:
    """Returns the matrix [size size] that takes samples along one axis to spline coefficients."""
    return ndimage.spline_filter1d(np.eye(size), order=3, axis=0, mode="mirror")


def _taps(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the 16 coefficients of each pixel of the rotated image, and their weights: both [H*W 16].

    In float64, by NumPy while tracing: in float32 a source point exactly on the edge of the image (as at 90 degrees)
    could fall outside.
    """
    cos, sin = special.cosdg(degrees), special.sindg(degrees)  # exact at multiples of 90
    row, column = (np.arange(height)[:, None] - (height - 1) / 2), (np.arange(width)[None] - (width - 1) / 2)
    row_index, row_weight = _cubic((cos * row + sin * column + (height - 1) / 2).ravel(), height)  # [H*W 4]
    column_index, column_weight = _cubic((cos * column - sin * row + (width - 1) / 2).ravel(), width)
    index = row_index[:, :, None] * width + column_index[:, None, :]  # [H*W 4 4]
    weight = row_weight[:, :, None] * column_weight[:, None, :]
    return index.reshape(-1, 16).astype(np.int32), weight.reshape(-1, 16).astype(np.float32)


def _cubic(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the four coefficients around each position on an axis, mirrored at its ends, and their weights.

    Outside of the axis the weights are 0, which gives black.
    """
    floor = np.floor(position)
    t = position - floor
    s = 1 - t
    weight = np.stack([s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3], axis=-1) / 6  # [P 4]
    weight = np.where(((position >= 0) & (position <= size - 1))[:, None], weight, 0)
    period = max(2 * (size - 1), 1)
    index = np.mod(floor[:, None].astype(int) + np.arange(-1, 3), period)
    return np.minimum(index, period - index), weight


def _sample(coefficients: jax.Array, index: np.ndarray, weight: np.ndarray) -> jax.Array:
    """Returns the image [H W C] whose pixels are weighted sums of the coefficients at the indices."""
    flat = coefficients.reshape(-1, coefficients.shape[-1])  # [H*W C]
    pixels = sum(weight[:, tap, None] * flat[index[:, tap]] for tap in range(16))
    return jnp.reshape(pixels, coefficients.shape)


# The defaults are the strengths at which the paper's attacks do best (its figure 2, CIFAR-10).
PERTURBATIONS: dict[str, Family] = {
    "rotation": Family(rotate, grid=(2, 4, 6, 8, 10, 12, 15), default=4),
    "translation": Family(translate, grid=(1, 2), default=1),
}
