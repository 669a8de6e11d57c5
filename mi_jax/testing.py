"""Targets with known decision boundaries, a query counter, and checks of what users give: perturbations, counts."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mi_jax.types import Perturbation

Oracle = Callable[[np.ndarray], np.ndarray]
"""x [B *x] -> labels [B] int32, in plain NumPy: a target that an attack can only query."""

# The same arithmetic compiled in two ways differs in its last bits (6e-8 each); a wrong value differs by far more.
_TOLERANCE = 1e-5


def linear_oracle(w: np.ndarray, b: float) -> Oracle:
    """Returns x [B *x] -> 1 where <w, x> + b > 0, else 0.

    The L2 distance of x to the boundary is |<w, x> + b| / ||w||. Of copies x + sigma * N(0, I), a fraction
    Phi(|<w, x> + b| / (sigma * ||w||)) keeps the label of x. Both hold as long as nothing is clipped to [0, 1].

    Args:
      w: [*x], not all zero.
      b: a number.
    """
    w = np.asarray(w, dtype=np.float64)
    if not np.isfinite(w).all() or not w.any() or not np.isfinite(b):
        raise ValueError(f"linear_oracle: w with norm {np.linalg.norm(w)} and b={b}, expected finite and w not 0")
    return lambda x: (_flat(x) @ w.ravel() + b > 0).astype(np.int32)


def sphere_oracle(center: np.ndarray, radius: float) -> Oracle:
    """Returns x [B *x] -> 1 inside the sphere, else 0.

    The L2 distance of x to the boundary is |radius - ||x - center|||.

    Args:
      center: [*x].
      radius: above 0.
    """
    center = np.asarray(center, dtype=np.float64)
    if not np.isfinite(center).all() or not 0 < radius < np.inf:
        raise ValueError(f"sphere_oracle: radius={radius}, expected a finite number above 0 and a finite center")
    return lambda x: (np.linalg.norm(_flat(x) - center.ravel(), axis=1) < radius).astype(np.int32)


def constant_oracle(label: int) -> Oracle:
    """Returns x [B *x] -> always `label`: there is no boundary."""
    return lambda x: np.full(len(x), label, dtype=np.int32)


def count_queries(f: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], dict[str, int]]:
    """Returns (f with a counter, {"queries": rows so far, "calls": calls so far}).

    Rows are counted before f answers, so a call that fails counts too.
    """
    counter = {"queries": 0, "calls": 0}

    def counted(x: Any) -> Any:
        counter["queries"] += len(x)
        counter["calls"] += 1
        return f(x)

    return counted, counter


def check_perturbation(perturbation: Perturbation, example_shape: tuple[int, ...]) -> None:
    """Returns None if the perturbation keeps the contract of `types.Perturbation` for examples of that shape.

    The contract, checked on noise, on black and white noise, on all 0 and on all 1: `(key, x [*x]) -> [M *x]` with
    M >= 1 the same throughout, float32 in and out, finite, in [0, 1], x first if it is among them; the same key gives
    the same bits; under `jit` and under `vmap` the values are the same to 1e-5.

    Raises:
      ValueError: one line naming the perturbation, what it returned and what was expected.
    """
    name = getattr(perturbation, "__name__", repr(perturbation))
    x = _examples(tuple(example_shape))  # [4 *x]
    keys, plain = check_neighbours(name, perturbation, x)
    again = _call(name, "called again", perturbation, keys[0], x[0])
    if not np.array_equal(again, plain[0]):
        raise ValueError(f"{name}: returned other values when called again with the same key, expected the same")
    _check_same(name, "inside jit", _call(name, "inside jit", jax.jit(perturbation), keys[0], x[0]), plain[0])
    _check_same(name, "under vmap", _call(name, "under vmap", jax.vmap(perturbation), keys, x), plain)


def check_neighbours(name: str, perturbation: Perturbation, x: ArrayLike) -> tuple[jax.Array, np.ndarray]:
    """Returns (keys [P], neighbours [P M *x]) of the examples x [P *x], after the checks that need no compilation.

    Raises a one-line ValueError that begins with `name` for neighbours of another shape than [M *x] or dtype than
    float32, not in [0, 1], or with the examples themselves in another place than the first.
    """
    x = jnp.asarray(x, jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    plain = [_call(name, "called", perturbation, key, example) for key, example in zip(keys, x, strict=True)]
    count = plain[0].shape[0] if plain[0].ndim else 0
    for neighbours in plain:
        _check_values(name, neighbours, (count, *x.shape[1:]))
    plain = np.stack(plain)
    same = np.isclose(plain, np.asarray(x)[:, None], rtol=0, atol=_TOLERANCE)
    places = np.flatnonzero(same.all((0, *range(2, plain.ndim))))  # of the example, among its M neighbours
    if len(places) and places[0] > 0:
        raise ValueError(f"{name}: returned the example as number {places[0] + 1} of {count}, expected it first")
    return keys, plain


def as_whole(value: Any) -> int | None:
    """The value as an int; None if it is no whole number, as 2.0, True and "2" are none."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64).reshape(len(x), -1)  # [B D]


def _examples(shape: tuple[int, ...]) -> jax.Array:
    noise = np.random.default_rng(0).random(shape)
    return jnp.asarray(np.stack([noise, noise > 0.5, np.zeros(shape), np.ones(shape)]), jnp.float32)


def _call(name: str, how: str, f: Callable[..., Any], *arguments: jax.Array) -> np.ndarray:
    """Returns f(*arguments) as an array; any exception becomes a ValueError of one line that names f."""
    try:
        result = f(*arguments)
    except Exception as error:  # a plugged-in function may raise anything
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name}: failed when {how}: {type(error).__name__}: {first_line}") from error
    if not isinstance(result, jax.Array | np.ndarray):
        raise ValueError(f"{name}: returned a {type(result).__name__} when {how}, expected one array [M *x]")
    return np.asarray(result)


def _check_values(name: str, neighbours: np.ndarray, expected: tuple[int, ...]) -> None:
    if neighbours.shape != expected or expected[0] < 1:
        example = ", ".join(str(size) for size in expected[1:])
        raise ValueError(f"{name}: returned shape {neighbours.shape}, expected (M, {example}) with one M >= 1")
    if neighbours.dtype != np.float32:
        raise ValueError(f"{name}: returned {neighbours.dtype} for a float32 example, expected float32")
    if not np.isfinite(neighbours).all():
        raise ValueError(f"{name}: returned NaN or infinite values, expected finite values")
    low, high = float(neighbours.min()), float(neighbours.max())
    if low < 0 or high > 1:
        raise ValueError(f"{name}: returned values in [{low:.6g}, {high:.6g}], expected values in [0, 1]")


def _check_same(name: str, how: str, other: np.ndarray, plain: np.ndarray) -> None:
    if other.shape != plain.shape or not np.allclose(other, plain, rtol=0, atol=_TOLERANCE):
        raise ValueError(f"{name}: returned other values {how} than when called plainly, expected the same")
