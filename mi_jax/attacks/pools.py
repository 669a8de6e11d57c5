"""Pools of candidate questions about one example: the example itself, its neighbours, and noisy copies of it.

The questions of an example are the same for every model: their keys depend on the kind of question alone. So shadow
models and the target can be compared question by question.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import perturbations
from mi_jax.attacks.context import AttackContext, noise_in_units
from mi_jax.types import Pool

COPIES = 160  # noisy copies of each strength, or as many as are put to a target if these are more
# Three strengths of noise: shadow models show which suits a point. Bits: the expected number of flips in a row.
POOL_FLIPS = (3, 10, 20)
POOL_SIGMAS = {"range": (0.05, 0.1, 0.2), "standard deviation": (0.25, 0.5, 1.0)}
_SHARED_KEY = 0


def pool_of(
    context: AttackContext, families: tuple[str, ...] | None = None, *, budget: int = 1, copies: int | None = None
) -> Pool:
    """Returns the pool: the example itself, then the neighbours of `families` of PERTURBATIONS, then noisy copies.

    `families` None: those of a single key that suit examples of this shape, each at its default strength, and noise of
    three strengths. Named families come at every strength of their grid, and without noise. There are at least COPIES
    of each strength of noise, or more where a third of `budget` is; `copies` is another number, for named families too.
    """
    kinds, make, counts = ["itself"], [perturbations.only_itself], [1]
    for name in perturbations.PERTURBATIONS if families is None else families:
        family = perturbations.PERTURBATIONS[name]
        for strength in (family.default,) if families is None else family.grid:
            function = _first_left_out(family.make(strength))
            if number := _number_of(function, context, optional=families is None):
                kinds, make, counts = [*kinds, f"{name} {strength}"], [*make, function], [*counts, number]
    if families is None or copies:
        copies = copies or max(COPIES, -(-budget // 3))
        for kind, function in _noises(context, copies):
            kinds, make, counts = [*kinds, kind], [*make, function], [*counts, copies]
    return Pool(tuple(kinds), tuple(make), tuple(counts))


def line(context: AttackContext, number: int) -> Pool:
    """Returns the pool of `number` points from x, which is the first, towards the highest value of all columns."""
    high = np.broadcast_to(np.asarray(context.high, np.float32), context.example_shape)
    return Pool(("line",), (_line(high.tobytes(), context.example_shape, number),), (number,))


@lru_cache
def _line(high: bytes, shape: tuple[int, ...], number: int):
    end = np.frombuffer(high, np.float32).reshape(shape)
    share = (np.arange(number, dtype=np.float32) / number).reshape(-1, *[1] * len(shape))
    return lambda key, x: jnp.clip(x + share * (end - x), 0, 1)


def questions(pool: Pool, x: jax.Array) -> jax.Array:
    """Returns all questions [Q *x] about one example x [*x]."""
    keys = [jax.random.fold_in(jax.random.key(_SHARED_KEY), kind) for kind in range(len(pool.make))]
    return jnp.concatenate([make(key, x) for make, key in zip(pool.make, keys, strict=True)])


def kinds_named(pool: Pool, name: str) -> tuple[int, ...]:
    """Returns the numbers of the kinds of a pool whose name begins with this word."""
    return tuple(i for i, kind in enumerate(pool.kinds) if kind.split()[0] == name)


@lru_cache
def _first_left_out(perturbation):
    """The neighbours without the first, which is the example itself; one object for one perturbation."""
    return lambda key, x: perturbation(key, x)[1:]


def _number_of(function, context: AttackContext, *, optional: bool) -> int:
    """How many questions a kind has; 0 where it is optional and does not suit examples of this shape."""
    try:
        example = jax.ShapeDtypeStruct(context.example_shape, jnp.float32)
        return jax.eval_shape(function, jax.random.key(0), example).shape[0]
    except Exception:
        if optional:
            return 0
        raise


def _noises(context: AttackContext, copies: int):
    """(kind, function) of each strength of noise: every one with every one where a table has bits and real columns."""
    bits, reals = context.num_discrete, context.num_real
    unit = "standard deviation" if np.ndim(context.spread) else "range"
    flips = [{"p": min(count / bits, 0.5)} for count in POOL_FLIPS] if bits else [{}] * len(POOL_FLIPS)
    sigmas = [{"sigma": sigma} for sigma in POOL_SIGMAS[unit]] if reals else [{}] * len(POOL_FLIPS)
    for bit, real in zip(flips, sigmas, strict=True):
        settings = bit | real
        kind = "noise " + ", ".join(f"{name} {value:.3g}" for name, value in settings.items())
        yield kind, _noise(_Hashable(context), copies, tuple(settings.items()))


class _Hashable:
    """An AttackContext that is equal to another with the same values, so that `_noise` gives the same object."""

    def __init__(self, context: AttackContext):
        self.context = context
        parts = (context.binary, context.categorical, context.spread, context.low, context.high)
        self.key = (context.example_shape, *(None if part is None else np.asarray(part).tobytes() for part in parts))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.key == other.key


@lru_cache
def _noise(context: _Hashable, copies: int, settings: tuple):
    return partial(_noisy_copies, noise_in_units(context.context, dict(settings)), copies)


def _noisy_copies(noise, copies: int, key: jax.Array, x: jax.Array) -> jax.Array:
    return noise(key, x, copies)
