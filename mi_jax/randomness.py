"""Random bits and normals for noisy queries, at a small part of the cost of the forward passes that use them.

`jax.random` compiles Threefry to a rolled loop on CPU, which passes over memory twenty times: noise for one CIFAR
query then costs 92 us, where a forward pass of the paper's CNN costs about 190. Here the rounds are unrolled, so XLA
fuses them into one pass: 24 us in the same run. The generator and the independence of keys are the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax.types import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def bits(key: jax.Array, count: int) -> jax.Array:
    """`count` random 32-bit words [count], uint32: Threefry-2x32 with 20 rounds and a counter from 0.

    Equal, word for word, to `jax.extend.random.threefry_2x32` (tested). Raises ValueError for a key of another
    generator. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    data = jax.random.key_data(key)
    if data.shape != (2,):
        raise ValueError(f"key of shape {data.shape} (words), expected one threefry2x32 key of 2 words")
    counter = jax.lax.iota(jnp.uint32, (count + 1) // 2)
    return jnp.concatenate(_threefry(data[0], data[1], jnp.zeros_like(counter), counter))[:count]


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent standard normals, float32, by the inverse of the distribution function at 2^23 midpoints.

    The largest possible magnitude is 5.3; a true normal exceeds it with probability 1e-7.
    """
    words = bits(key, int(np.prod(shape)))
    uniform = ((words >> 9).astype(jnp.float32) + 0.5) * (2 / 2**23) - 1  # (-1, 1), symmetric about 0
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform).reshape(shape)


def flips(key: jax.Array, p: Array | float, shape: tuple[int, ...]) -> jax.Array:
    """Independent events of probability p, bool; p is rounded to a multiple of 2^-16, two events per word.

    The smallest p of the paper's grids, 1/6170, is off by less than 5 %.
    """
    count = int(np.prod(shape))
    words = bits(key, (count + 1) // 2)
    halves = jnp.concatenate([words >> 16, words & 0xFFFF])[:count]
    return (halves < jnp.round(p * 65536).astype(jnp.uint32)).reshape(shape)


def _threefry(key0, key1, count0, count1):
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(_PARITY))
    a, b = count0 + keys[0], count1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << rotation) | (b >> (32 - rotation)))
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b
