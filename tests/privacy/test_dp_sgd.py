"""The private gradient: what is clipped, what is drawn, what noise is added, and the epsilon that may be claimed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from mi_jax import privacy, randomness
from mi_jax.privacy import dp_sgd, per_example
from mi_jax.privacy.dp_sgd import Mechanism
from tests.privacy.test_per_example import KEY, MLP, ROUNDING, a_batch, assert_close, loss_of_one, losses_of, start

MECHANISM = Mechanism(rows=1000, expected=50, steps=200, clip=1.0, noise=1.0, delta=1e-5)


@jax.jit
def noisy_mean(key, total, **strength):
    return privacy.noisy_mean(key, total, **strength)


def test_noise_has_the_deviation_of_sigma_times_clip_over_the_expected_batch():
    total = {"a": jnp.zeros((300, 400)), "b": jnp.zeros((300, 400))}
    found = noisy_mean(KEY, total, clip=0.7, noise=1.3, expected=40)
    a, b = (np.asarray(found[name], np.float64).ravel() / (1.3 * 0.7 / 40) for name in "ab")
    count = a.size + b.size
    low, high = stats.chi2.interval(1 - 1e-6, count)  # one run in a million falls outside by chance
    assert low < np.sum(a**2) + np.sum(b**2) < high
    assert abs(a.sum() + b.sum()) < 5 * np.sqrt(count)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)  # leaves of the same shape get their own noise
    assert stats.kstest(np.concatenate([a, b]), "norm").pvalue > 1e-6
    other = noisy_mean(jax.random.key(12), total, clip=0.7, noise=1.3, expected=40)
    assert not np.any(other["a"] == found["a"])


def test_noise_reaches_beyond_the_end_of_a_single_draw():
    # 2e7 normals hold 1.1 beyond 5.3 on average, and none where the draw ends there; at 4.8 the count is judged.
    draw = jax.jit(lambda key: jnp.abs(noisy_mean(key, jnp.zeros(2**22), clip=1.0, noise=1.0, expected=1)))
    values = np.concatenate([np.asarray(draw(jax.random.key(i))) for i in range(4)])
    beyond, expected = np.sum(values > 4.8), values.size * 2 * stats.norm.sf(4.8)
    assert abs(beyond - expected) < 5 * np.sqrt(expected)
    assert np.float32(np.sqrt(2)) * 5.29 > 7.4  # the end of the sum of two, one part in 10^13


def test_noise_is_added_before_the_division_by_the_expected_batch():
    total = {"w": jnp.arange(6.0)}
    alone = noisy_mean(KEY, jax.tree.map(jnp.zeros_like, total), clip=2.0, noise=0.5, expected=8)
    found = noisy_mean(KEY, total, clip=2.0, noise=0.5, expected=8)
    np.testing.assert_allclose(found["w"], alone["w"] + total["w"] / 8, rtol=1e-6)


def test_sample_has_a_static_shape_and_the_rate_it_states():
    rows, rate, size, draws = 500, 0.1, 100, 2000
    keys = jax.random.split(KEY, draws)
    indices, weight = jax.jit(jax.vmap(lambda key: privacy.poisson_sample(key, rows, rate, size)))(keys)
    assert indices.shape == weight.shape == (draws, size) and set(np.unique(weight)) == {0.0, 1.0}
    sizes = np.asarray(weight.sum(1))
    assert sizes.max() < size  # 7 deviations above the mean: nothing was cut off
    counts = np.bincount(np.asarray(indices)[np.asarray(weight) == 1], minlength=rows)
    low, high = stats.binom.interval(1 - 1e-6 / rows, draws, rate)  # each of 500 rows in its own interval
    assert low <= counts.min() and counts.max() <= high
    low, high = stats.binom.interval(1 - 1e-6, draws * rows, rate)
    assert low <= sizes.sum() <= high
    # The number of rows is binomial: rows are drawn independently of each other.
    low, high = stats.chi2.interval(1 - 1e-6, draws - 1)
    assert low < sizes.var(ddof=1) * (draws - 1) / (rows * rate * (1 - rate)) < high


def test_sample_holds_each_row_once_and_pads_behind_them():
    indices, weight = privacy.poisson_sample(KEY, 50, 0.3, 40)
    drawn = int(weight.sum())
    assert weight.tolist() == [1.0] * drawn + [0.0] * (40 - drawn)
    assert len(set(indices[:drawn].tolist())) == drawn and indices[drawn:].tolist() == [0] * (40 - drawn)


def test_sample_at_rate_one_holds_every_row_and_one_that_is_too_small_is_cut_off():
    indices, weight = privacy.poisson_sample(KEY, 50, 1.0, 50)
    assert indices.tolist() == list(range(50)) and weight.tolist() == [1.0] * 50
    indices, weight = privacy.poisson_sample(KEY, 50, 1.0, 20)
    assert indices.shape == (20,) and weight.tolist() == [1.0] * 20


@pytest.mark.parametrize("rows, expected, steps", [(100, 10, 50), (100, 2.5, 1000), (1000, 50, 200), (40, 30, 10)])
def test_batch_size_keeps_the_chance_of_a_cut_off_below_a_hundredth_of_delta(rows, expected, steps):
    mechanism = Mechanism(rows, expected, steps, delta=1e-6)
    size, rate = privacy.batch_size(mechanism), expected / rows
    # Slowly and exactly: the other rows alone fill the batch in one step.
    full = math.fsum(
        math.comb(rows - 1, k) * rate**k * (1 - rate) ** (rows - 1 - k) for k in range(min(size, rows), rows)
    )
    assert privacy.truncation_bound(mechanism) == pytest.approx(steps * full, rel=1e-6, abs=1e-30)
    assert steps * full <= 1e-8
    assert size == rows or size % 16 == 0
    needed = size - 16  # and 16 fewer would be too few
    fewer = stats.binom.sf(needed - 1, rows - 1, rate) * steps
    assert fewer > 1e-8


def independent_pld(sampling_rate, noise, steps, **options):
    from dp_accounting.pld import privacy_loss_distribution as pld

    step = pld.from_gaussian_mechanism(noise, sampling_prob=sampling_rate, **options)
    return step.self_compose(steps)


@pytest.mark.parametrize("noise, steps", [(0.7, 50), (1.0, 200), (4.0, 200)])
def test_epsilon_equals_the_composed_loss_distribution_and_lies_between_the_bounds(noise, steps):
    import dp_accounting
    from dp_accounting import rdp

    mechanism = MECHANISM._replace(noise=noise, steps=steps)
    found = privacy.epsilon(mechanism)
    # Ten times as fine, and at the whole delta: what was set aside for samples cut off is within the tolerance.
    assert found == pytest.approx(independent_pld(0.05, noise, steps).get_epsilon_for_delta(1e-5), rel=3e-3)
    options = {"pessimistic_estimate": False, "use_connect_dots": False, "value_discretization_interval": 1e-4}
    assert independent_pld(0.05, noise, steps, **options).get_epsilon_for_delta(1e-5) < found
    step = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(noise))
    renyi = rdp.RdpAccountant().compose(dp_accounting.SelfComposedDpEvent(step, steps))
    assert found < renyi.get_epsilon(1e-5)


def test_epsilon_agrees_with_the_accountant_for_truncated_samples():
    import dp_accounting
    from dp_accounting import pld

    mechanism = MECHANISM._replace(rows=2000, expected=50)
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(2000, 0.025, privacy.batch_size(mechanism), 1.0)
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    tight = accountant.compose(dp_accounting.SelfComposedDpEvent(event, 200)).get_epsilon(1e-5)
    # Ours pays the whole of P(E), at most a hundredth of delta, where theirs weighs what happens under E.
    assert tight <= privacy.epsilon(mechanism) <= 1.003 * tight


def gaussian_delta(epsilon, noise):
    """Delta of the Gaussian mechanism in closed form (Balle and Wang, arXiv 1805.06530, theorem 8)."""
    a, b = 1 / (2 * noise), epsilon * noise
    return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)


def test_epsilon_of_the_whole_set_in_every_step_is_the_closed_form_of_the_gaussian_mechanism():
    mechanism = Mechanism(rows=100, expected=100, steps=25, noise=10.0, delta=1e-5)
    assert privacy.batch_size(mechanism) == 100 and privacy.truncation_bound(mechanism) == 0
    exact = optimize.brentq(lambda epsilon: gaussian_delta(epsilon, 10 / math.sqrt(25)) - 1e-5, 0.01, 50)
    assert exact <= privacy.epsilon(mechanism) * (1 + 1e-6)
    assert privacy.epsilon(mechanism) == pytest.approx(exact, rel=1e-3)


def test_epsilon_of_one_step_equals_an_integral_over_both_neighbours():
    rate, noise, delta = 0.3, 0.8, 1e-3

    z = np.linspace(-12, 13, 200_001)
    without = stats.norm.pdf(z, 0, noise)
    mixture = (1 - rate) * without + rate * stats.norm.pdf(z, 1, noise)

    def hockey_stick(epsilon):  # the row removed, and added; the grid is fine to 1e-9
        pairs = [(mixture, without), (without, mixture)]
        return max(np.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), z) for p, q in pairs)

    exact = optimize.brentq(lambda epsilon: hockey_stick(epsilon) - delta, 0.1, 10, xtol=1e-5)
    mechanism = Mechanism(rows=100, expected=30, steps=1, noise=noise, delta=delta)
    # The hundredth of delta set aside moves epsilon by about 0.1 %.
    assert exact <= privacy.epsilon(mechanism) * (1 + 1e-5)
    assert privacy.epsilon(mechanism) == pytest.approx(exact, rel=5e-3)


def test_epsilon_rises_with_steps_and_rate_and_falls_with_noise():
    base = privacy.epsilon(MECHANISM)
    assert privacy.epsilon(MECHANISM._replace(steps=400)) > 1.2 * base
    assert privacy.epsilon(MECHANISM._replace(expected=100)) > 1.5 * base
    assert privacy.epsilon(MECHANISM._replace(noise=2.0)) < base / 1.5
    assert privacy.epsilon(MECHANISM._replace(clip=7.0)) == base  # the noise is in units of the clip
    assert privacy.epsilon(MECHANISM._replace(noise=0.0)) == math.inf
    assert privacy.epsilon(MECHANISM._replace(clip=math.inf, noise=0.0)) == math.inf
    with pytest.raises(ValueError, match="clip=inf: expected a finite clip"):
        privacy.epsilon(MECHANISM._replace(clip=math.inf))


@pytest.mark.parametrize("delta, accountant", [(1e-5, "PLD"), (1e-15, "RDP")])
def test_epsilon_is_the_smaller_of_two_bounds_and_the_statement_says_whose(delta, accountant):
    mechanism = Mechanism(rows=2000, expected=100, steps=100_000, noise=10.0, delta=delta)
    bounds = dp_sgd._bounds(0.05, 10.0, 100_000, delta - privacy.truncation_bound(mechanism))
    assert privacy.epsilon(mechanism) == min(bounds.values()) == bounds[accountant] < 20
    assert privacy.statement(mechanism).endswith(f"noise multiplier 10, {accountant} accountant)")
    solved = privacy.solve_noise(mechanism, 8.0)
    assert 0.99 * 8 <= privacy.epsilon(solved) <= 8


@pytest.mark.parametrize("noise", [0.0, 1e-200, 1e-9])
def test_noise_that_protects_nobody_has_no_epsilon(noise):
    assert privacy.epsilon(MECHANISM._replace(noise=noise)) == math.inf


def test_delta_of_one_is_refused_for_one_row_too():
    with pytest.raises(ValueError, match="delta=1.0: expected less than 1"):
        privacy.epsilon(Mechanism(1, 1, 5, delta=1.0))
    assert privacy.epsilon(Mechanism(1, 1, 5, delta=0.5)) > 0


@pytest.mark.parametrize("target", [0.5, 8.0, 50.0])
def test_solved_noise_spends_the_target_and_not_more(target):
    mechanism = privacy.solve_noise(MECHANISM._replace(noise=0.0), target)
    assert 0.99 * target <= privacy.epsilon(mechanism) <= target
    assert mechanism._replace(noise=0.0) == MECHANISM._replace(noise=0.0)


def test_statement_names_epsilon_delta_sampler_and_relation():
    line = privacy.statement(MECHANISM)
    for part in (
        f"epsilon {privacy.epsilon(MECHANISM):.4g}",
        "delta 1e-05",
        "Poisson",
        "added or removed",
        "rate 0.05",
    ):
        assert part in line
    assert "\n" not in line


STEP = Mechanism(rows=80, expected=20, steps=10, delta=1e-3)


@functools.cache
def step_of(path):
    """(key, clip, noise, params, data [80 ...]) -> what `gradient` gives for STEP with this clip and noise."""
    loss = loss_of_one(MLP) if path is per_example.clipped_sum else losses_of(MLP)

    def step(key, clip, noise, params, data):
        def sum_of(batch, weight, clip):
            return path(loss, params, batch, weight, clip)

        def batch_of(indices):
            return jax.tree.map(lambda leaf: leaf[indices], data)

        return privacy.private_gradient(key, sum_of, batch_of, STEP._replace(clip=clip, noise=noise))

    return jax.jit(step)


@pytest.mark.parametrize("path", [per_example.clipped_sum, per_example.bookkeeping_sum])
def test_members_with_their_own_seed_clip_and_noise_step_together_as_alone(path):
    data = a_batch((9,), size=80)
    keys = jax.random.split(KEY, 3)
    params = jax.vmap(MLP.init, (0, None))(keys, data[0])
    clips, noises = jnp.array([0.1, 1.0, jnp.inf]), jnp.array([1.0, 0.3, 0.0])
    together = jax.jit(jax.vmap(step_of(path), (0, 0, 0, 0, None)))(keys, clips, noises, params, data)
    for k in range(3):
        alone = step_of(path)(keys[k], clips[k], noises[k], jax.tree.map(lambda leaf, k=k: leaf[k], params), data)
        assert_close(jax.tree.map(lambda leaf, k=k: leaf[k], together[0]), alone[0], 3 * ROUNDING)
        np.testing.assert_array_equal(together[1].norm[k] > 0, alone[1].norm > 0)


def test_step_divides_the_sum_of_its_sample_by_the_expected_size():
    data = a_batch((9,), size=80)
    found, clipped = step_of(per_example.clipped_sum)(KEY, jnp.array(0.5), jnp.array(0.0), start(MLP, data), data)
    drawn = int((clipped.norm > 0).sum())
    assert drawn != 20 and clipped.norm.shape == (privacy.batch_size(STEP),)
    assert_close(found, jax.tree.map(lambda leaf: leaf / 20, clipped.total), ROUNDING)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clip": 0.0}, "clip=0.0: expected more than 0"),
        ({"clip": np.array([1.0, -1.0])}, "clip=.*expected more than 0"),
        ({"clip": math.nan}, "clip=nan"),
        ({"noise": -1.0}, "noise=-1.0: expected a finite multiplier"),
        ({"noise": math.inf}, "noise=inf"),
        ({"expected": 1001}, r"expected=1001 .* sampling rate in \(0, 1\]"),
        ({"expected": 0}, "expected=0"),
        ({"steps": 0}, "steps=0: expected at least 1"),
        ({"delta": 2e-3}, "delta=0.002: expected more than 0 and at most 1/1000; at 1/n, the paper's value,"),
        ({"delta": 0.0}, "delta=0.0"),
    ],
)
def test_mechanism_that_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        privacy.epsilon(MECHANISM._replace(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [-1.0, 0.0, math.nan, math.inf])
def test_target_that_is_no_epsilon_is_refused(target):
    with pytest.raises(ValueError, match=f"target epsilon {target}: expected more than 0 and finite"):
        privacy.solve_noise(MECHANISM, target)


def test_target_that_no_noise_within_range_reaches_is_refused():
    few = MECHANISM._replace(steps=1)
    with pytest.raises(
        ValueError,
        match=r"target epsilon 1000000.0: expected one that a noise multiplier in 0.25..1024 gives to 1 %, "
        r"within 4.961e-05 to 18.45, with 1 steps at rate 0.05 and delta 1e-05",
    ):
        privacy.solve_noise(few, 1e6)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5])
def test_sampling_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(ValueError, match="rate=.*expected more than 0 and at most 1"):
        privacy.poisson_sample(KEY, 10, rate, 10)


def test_epsilon_leaves_of_delta_what_cut_off_samples_cost():
    from dp_accounting.pld import privacy_loss_distribution as pld

    mechanism = Mechanism(rows=200, expected=20, steps=100, noise=1.0, delta=1e-3)
    left = mechanism.delta - privacy.truncation_bound(mechanism)
    assert 0.99 * mechanism.delta <= left < 0.9999 * mechanism.delta
    # The same distribution on the same grid: delta at the epsilon claimed, exactly as it was inverted.
    step = pld.from_gaussian_mechanism(1.0, sampling_prob=0.1, value_discretization_interval=1e-3)
    spent = step.self_compose(100).get_delta_for_epsilon(privacy.epsilon(mechanism))
    assert spent <= left * (1 + 1e-6)


def test_a_normal_of_the_noise_reaches_as_far_as_two_draws_together(monkeypatch):
    monkeypatch.setattr(randomness, "normal", lambda key, shape: jnp.full(shape, 5.3))  # where a single draw ends
    found = privacy.noisy_mean(KEY, {"w": jnp.zeros(3)}, clip=1.0, noise=1.0, expected=1)
    np.testing.assert_allclose(found["w"], 5.3 * np.sqrt(2), rtol=1e-6)
