import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats

from mi_jax import randomness

KEY = jax.random.key(3)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_bits_are_those_of_the_reference_generator(count):
    even = count + count % 2
    counters = jnp.concatenate([jnp.zeros(even // 2, jnp.uint32), jnp.arange(even // 2, dtype=jnp.uint32)])
    expected = threefry_2x32(jax.random.key_data(KEY), counters)[:count]
    np.testing.assert_array_equal(randomness.bits(KEY, count), expected)


def test_normals_pass_a_test_of_fit_and_are_symmetric():
    values = np.asarray(randomness.normal(KEY, (400, 500)))
    assert values.dtype == np.float32 and np.isfinite(values).all()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3  # a fixed key: it passes or it does not
    tails = (np.abs(values) > 3).sum()
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], values.size, 2 * stats.norm.sf(3))
    assert low <= tails <= high


def test_columns_of_normals_are_uncorrelated():
    values = np.asarray(randomness.normal(KEY, (20000, 20)))
    off = np.corrcoef(values.T)[~np.eye(20, dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(20000)  # 190 pairs: five deviations


@pytest.mark.parametrize("p", [0.0, 1 / 446, 0.3, 1.0])
def test_flips_have_their_probability(p):
    events = np.asarray(randomness.flips(KEY, jnp.float32(p), (333, 301)))
    rounded = round(p * 65536) / 65536
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], events.size, rounded)
    assert events.dtype == bool and low <= events.sum() <= high
    assert (p not in (0.0, 1.0)) or events.all() == bool(p) == events.any()


def test_two_keys_share_nothing():
    one, two = (np.asarray(randomness.bits(k, 4096)) for k in jax.random.split(KEY))
    assert not np.intersect1d(one, two).size  # 4096^2 / 2^32: a chance meeting has probability 0.4 %, this key has none


def test_a_key_of_another_generator_is_refused():
    with pytest.raises(ValueError, match="threefry"):
        randomness.bits(jax.random.key(0, impl="rbg"), 4)


def test_flips_of_one_key_are_independent_of_each_other():
    flipped = np.asarray(randomness.flips(jax.random.key(3), 0.5, (2, 5000)))
    equal = (flipped[0] == flipped[1]).sum()
    assert abs(equal - 2500) < 5 * np.sqrt(5000 / 4)  # five standard deviations
