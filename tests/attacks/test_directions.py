"""The basis that questions are drawn from, against SciPy's Hadamard matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from mi_jax.attacks import directions


@pytest.mark.parametrize("d", [1, 2, 30, 64, 192, 446, 3072])
def test_directions_are_the_orthonormal_rows_that_the_transform_sums(d):
    m, p = directions.basis_shape(d)
    assert m * p >= d and m % 2 == 1 and m * p <= max(1.1 * d, d + 1)
    if m * p > 512:
        return
    cosines = directions.cosines(m)
    basis = np.kron(cosines, linalg.hadamard(p) / np.sqrt(p))
    np.testing.assert_allclose(basis @ basis.T, np.eye(m * p), atol=1e-5)
    answers = np.random.default_rng(0).normal(size=m * p).astype(np.float32)
    np.testing.assert_allclose(directions.transform(jnp.asarray(answers), cosines), basis @ answers, atol=1e-5)
    np.testing.assert_allclose(directions.transform(jnp.asarray(answers), cosines.T), basis.T @ answers, atol=1e-5)
    rows = np.array([0, m * p - 1, m * p // 2])
    np.testing.assert_allclose(directions.rows(jnp.asarray(rows), m, p), basis[rows], atol=1e-6)


def test_signs_are_fair_coins():
    signs = np.asarray(directions.signs(jax.random.key(0), 10001))
    assert signs.shape == (10001,) and set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.sum()) < 4 * np.sqrt(10001)  # four standard deviations
