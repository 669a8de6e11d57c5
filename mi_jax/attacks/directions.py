"""Random orthonormal directions in any dimension, cheap to make one by one, with a fast transform.

The basis is the Kronecker product of a discrete cosine transform [m m], m odd and small, and a Hadamard matrix [p p].
A row costs one operation per coordinate. With random signs on the coordinates every row is a random direction, and
any two rows are orthogonal.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import randomness
from mi_jax.types import Array


def basis_shape(d: int) -> tuple[int, int]:
    """(m, p): m odd and at most 31, p a power of two, with the smallest m * p >= d."""
    sizes = [(m, 1 << max(0, int(np.ceil(np.log2(d / m))))) for m in range(1, 33, 2)]
    return min(sizes, key=lambda size: (size[0] * size[1], size[0]))


def cosines(m: int) -> np.ndarray:
    """The discrete cosine transform [m m]: an orthonormal basis with entries of similar size."""
    i, j = np.arange(m)[:, None], np.arange(m)
    basis = np.cos(np.pi * (2 * j + 1) * i / (2 * m)) * np.sqrt(np.where(i == 0, 1, 2) / m)
    return basis.astype(np.float32)


def rows(indices: jax.Array, m: int, p: int) -> jax.Array:
    """Rows [Q D] of the basis, D = m * p, without the random signs."""
    parity = jax.lax.population_count((indices % p)[:, None] & jnp.arange(p)) & 1  # [Q p]
    hadamard = (1 - 2 * parity) * np.float32(p**-0.5)
    return (jnp.asarray(cosines(m))[indices // p][:, :, None] * hadamard[:, None]).reshape(len(indices), m * p)


def transform(x: jax.Array, cosines: np.ndarray) -> jax.Array:
    """The coefficients [m * p] of x [m * p] in the basis of `cosines` [m m]; with `cosines.T`, the inverse."""
    m, p = len(cosines), len(x) // len(cosines)
    x = x.reshape(m, p)
    for half in (1 << i for i in range(p.bit_length() - 1)):
        pairs = x.reshape(m, -1, 2, half)
        x = jnp.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(m, p)
    products = jnp.asarray(cosines * np.float32(p**-0.5))[:, :, None] * x  # [m m p]
    return pairwise_sum(products.swapaxes(0, 1)).reshape(-1)


def pairwise_sum(x: jax.Array) -> jax.Array:
    """The sum of x over its first axis, by halves: XLA's own sums change order, and last bits, with the batch."""
    size = 1 << max(0, len(x) - 1).bit_length()
    x = jnp.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))
    while size > 1:
        size //= 2
        x = x[:size] + x[size:]
    return x[0]


def norm(x: jax.Array) -> jax.Array:
    """The L2 norm of an array, the same to the bit in every batch."""
    return jnp.sqrt(pairwise_sum((x * x).ravel()))


def signs(key: jax.Array, count: int) -> jax.Array:
    """Independent random signs [count], +1 or -1, one random bit each."""
    bits = randomness.bits(key, -(-count // 32))[:, None] >> jnp.arange(32, dtype=jnp.uint32)
    return 1 - 2 * (bits & 1).reshape(-1)[:count].astype(jnp.float32)


def farthest_corner(x: Array) -> jax.Array:
    """The corner of [0, 1]^d farthest from x, in the shape of x."""
    return (jnp.asarray(x) < 0.5).astype(jnp.float32)
