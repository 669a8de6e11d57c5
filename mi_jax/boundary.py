"""draft"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import randomness
from mi_jax.types import Measure, Repeat, Round


class Schedule(NamedTuple):
    iterations: int
    gradient: int
    points: int
    bisections: int
    starts: int
    rule: str = "grid"


PAPER = Schedule(10, 200, 20, 18, 11)
ASKED_AT_ONCE = 25
REACH = 0.04
BASELINE = 1


def cost(s):
    return s.starts + s.bisections + s.iterations * (s.gradient + s.points + s.bisections)


def checkpoints(s):
    return s.starts + s.bisections + np.arange(s.iterations + 1) * (s.gradient + s.points + s.bisections)


@lru_cache
def boundary_distance(s: Schedule) -> Measure:
    def init(strength, key, x, y):
        farthest = (x < 0.5).astype(x.dtype)
        basis = _basis(x.size)
        m, p = basis
        best = farthest
        return {
            "key": jax.random.key_data(key),
            "x": x,
            "y": y,
            "best": best,
            "distance": _norm(best - x),
            "course": jnp.zeros(s.iterations + 1),
            "t": jnp.int32(0),
            "probe": x,
            "anchor": x,
            "tangent": jnp.zeros_like(x),
            "lo": jnp.float32(0),
            "hi": jnp.float32(0),
            "at": jnp.float32(0),
            "guess": jnp.float32(np.pi / 4),
            "sums": jnp.zeros_like(x),
            "phi": jnp.zeros(m * p),
            "weights": jnp.zeros(m * p),
            "flips": _flips(key, 0, m * p),
            "block": jnp.int32(0),
            "row": jnp.int32(0),
            "back": jnp.float32(1),
            "move": jnp.float32(0),
            "last": jnp.float32(0),
        }

    def ask_starts(key, st):
        return _starts(st["key"], st["x"], s.starts)

    def tell_starts(st, labels):
        z = _starts(st["key"], st["x"], s.starts)
        far = jax.vmap(_norm)(z - st["x"])
        far = jnp.where(labels != st["y"], far, jnp.inf)
        i = far.argmin()
        st = _keep(st, z[i], far[i])
        return _aim(
            st | {"anchor": st["best"], "tangent": jnp.zeros_like(st["x"]), "lo": jnp.float32(0), "hi": jnp.float32(1)},
            jnp.float32(0.5),
        )

    def tell_bisect(st, labels):
        adv = labels[0] != st["y"]
        st = _keep(st, st["probe"], jnp.where(adv, _norm(st["probe"] - st["x"]), jnp.inf))
        st = st | {"lo": jnp.where(adv, st["at"], st["lo"]), "hi": jnp.where(adv, st["hi"], st["at"])}
        return _aim(st, (st["lo"] + st["hi"]) / 2)

    def probe(key, st):
        return st["probe"][None]

    blocks, sizes = _blocks(s.gradient, _basis_size)

    raise NotImplementedError
