"""An orthonormal basis of any dimension whose rows cost an operation a coordinate, and a fast transform into it.

The basis is a discrete cosine transform [m m], m odd and small, times (Kronecker) a Hadamard matrix [p p]. With
random signs on the coordinates every row is a random direction, and any two are orthogonal.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import randomness


def basis(d: int) -> tuple[int, int]:
    """(m odd, p a power of two) with m * p >= d as small as can be, m <= 31."""
    sizes = [(m, 1 << max(0, int(np.ceil(np.log2(d / m))))) for m in range(1, 33, 2)]
    return min(sizes, key=lambda size: (size[0] * size[1], size[0]))


def cosines(m: int) -> np.ndarray:
    """An orthonormal basis [m m] with entries of similar size: the discrete cosine transform."""
    i, j = np.arange(m)[:, None], np.arange(m)
    basis = np.cos(np.pi * (2 * j + 1) * i / (2 * m)) * np.sqrt(np.where(i == 0, 1, 2) / m)
    return basis.astype(np.float32)


def rows(indices: jax.Array, m: int, p: int) -> jax.Array:
    """Rows [Q D] of the basis, D = m * p, without the signs."""
    parity = jax.lax.population_count((indices % p)[:, None] & jnp.arange(p)) & 1  # [Q p]
    hadamard = (1 - 2 * parity) * np.float32(p**-0.5)
    return (jnp.asarray(cosines(m))[indices // p][:, :, None] * hadamard[:, None]).reshape(len(indices), m * p)


def transform(x: jax.Array, cosines: np.ndarray) -> jax.Array:
    """`cosines` [m m] times, as Kronecker product, the orthonormal Hadamard matrix [p p], applied to x [m p].

    In three small factors. Sums are not left to a matrix product, whose order may change with the batch.
    """
    m, p = len(cosines), len(x) // len(cosines)
    a = 1 << (p.bit_length() // 2)
    x = (cosines[:, :, None] * x.reshape(m, p)).sum(1).reshape(m, a, p // a)
    x = (_hadamard(a)[:, :, None] * x[:, None]).sum(2)
    return (x[:, :, None] * _hadamard(p // a)).sum(3).reshape(-1)


def _hadamard(p: int) -> np.ndarray:
    """The orthonormal Hadamard matrix [p p], Sylvester's order."""
    parity = np.bitwise_count(np.arange(p)[:, None] & np.arange(p)) & 1
    return ((1 - 2.0 * parity) * p**-0.5).astype(np.float32)


def signs(key: jax.Array, count: int) -> jax.Array:
    """Independent random signs [count], +1 or -1, one random bit each."""
    bits = randomness.bits(key, -(-count // 32))[:, None] >> jnp.arange(32, dtype=jnp.uint32)
    return 1 - 2 * (bits & 1).reshape(-1)[:count].astype(jnp.float32)
