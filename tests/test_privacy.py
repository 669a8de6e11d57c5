"""The private gradient: what is clipped, what is drawn, what noise is added, and the epsilon that may be claimed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import optimize, stats

from mi_jax import models, per_example, privacy
from mi_jax.privacy import Mechanism

KEY = jax.random.key(11)
MLP = models.build("mlp:12", (9,), 4)


class SmallCnn(nn.Module):
    """Both kinds of convolution, a pooling and a dense layer; compiles in a fraction of the time of the whole cnn."""

    @nn.compact
    def __call__(self, x, training):
        x = nn.relu(models._Conv3x3(3, padding=1)(x))
        x = models.max_pool(nn.relu(models._Conv3x3(4, padding=0)(x)), training)
        return nn.Dense(4)(x.reshape(len(x), -1))


SMALL_CNN = models._as_model(SmallCnn(), "small cnn")
WHOLE_CNN = pytest.param(models.build("cnn", (10, 10, 2), 4), (10, 10, 2), marks=pytest.mark.slow)
MECHANISM = Mechanism(rows=1000, expected=50, steps=200, clip=1.0, noise=1.0, delta=1e-5)
# Two float32 sums of the same few dozen terms, relative to the largest entry of the leaf.
ROUNDING = 1e-6


@jax.jit
def noisy(key, total, **strength):
    return privacy.noisy(key, total, **strength)


def losses_of(model):
    def losses(params, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x, KEY), y)

    return losses


def loss_of_one(model):
    return lambda params, example: losses_of(model)(params, jax.tree.map(lambda leaf: leaf[None], example))[0]


@functools.cache
def reference(model, microbatch=5):
    return jax.jit(functools.partial(per_example.clipped_sum, loss_of_one(model), microbatch=microbatch))


@functools.cache
def fast(model, microbatch=5):
    return jax.jit(functools.partial(per_example.book_kept_sum, losses_of(model), microbatch=microbatch))


@functools.cache
def gradient_of_one(model):
    return jax.jit(jax.grad(loss_of_one(model)))


def a_batch(shape, size=13, classes=4, seed=0):
    random = np.random.default_rng(seed)
    scale = random.uniform(0.1, 3, (size, *[1] * len(shape)))  # so that the gradients' norms differ
    x = (scale * random.normal(size=(size, *shape))).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(random.integers(0, classes, size), jnp.int32)


def start(model, batch):
    """Parameters without a zero among them, so that no gradient vanishes by accident."""
    random = np.random.default_rng(3)

    def filled(leaf):
        inputs = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        return jnp.asarray(random.normal(size=leaf.shape) / np.sqrt(inputs), jnp.float32)

    return jax.tree.map(filled, jax.eval_shape(model.init, KEY, batch[0]))


def one(model, batch, params, i):
    """The gradient of one example alone, in float64."""
    grads = gradient_of_one(model)(params, jax.tree.map(lambda leaf: leaf[i], batch))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), grads)


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(tree)))


def assert_close(a, b, relative):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(left - right).max() <= relative * np.abs(right).max()


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


both_paths = pytest.mark.parametrize("path", [reference, fast])


@both_paths
def test_without_clip_and_noise_the_gradient_is_the_plain_one(path):
    batch = a_batch((9,))
    params = start(MLP, batch)
    plain = jax.grad(lambda params: losses_of(MLP)(params, batch).mean())(params)
    found = path(MLP)(params, batch, jnp.ones(13), jnp.inf)
    private = noisy(KEY, found.total, clip=jnp.inf, noise=0.0, expected=13)
    assert_close(private, plain, ROUNDING)
    np.testing.assert_allclose(found.loss, losses_of(MLP)(params, batch), rtol=0, atol=1e-6)


@both_paths
@pytest.mark.parametrize("microbatch", [5, 64])
def test_sum_equals_a_loop_over_examples_clipped_jointly_over_all_parameters(path, microbatch):
    batch = a_batch((9,))
    params = start(MLP, batch)
    grads = [one(MLP, batch, params, i) for i in range(13)]
    norms = np.array([norm_of(grad) for grad in grads])
    clip = float(np.median(norms))
    weight = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0])  # what weighs nothing need not stand last
    scales = weight * np.minimum(1, clip / norms)
    expected = jax.tree.map(lambda *leaves: sum(s * leaf for s, leaf in zip(scales, leaves, strict=True)), *grads)
    found = path(MLP, microbatch)(params, batch, jnp.asarray(weight, jnp.float32), clip)
    assert_close(found.total, expected, ROUNDING)
    np.testing.assert_allclose(found.norm, weight * norms, rtol=1e-6)
    assert found.dropped == 0


@both_paths
def test_every_clipped_gradient_is_at_most_as_long_as_the_clip_and_short_ones_are_kept(path):
    batch = a_batch((9,))
    params = start(MLP, batch)
    norms = np.array([norm_of(one(MLP, batch, params, i)) for i in range(13)])
    clip = float(np.median(norms))
    found = np.array([norm_of(path(MLP)(params, batch, jnp.eye(13)[i], clip).total) for i in range(13)])
    assert np.all(found <= clip * (1 + ROUNDING))
    np.testing.assert_allclose(found, np.minimum(norms, clip), rtol=1e-6)
    assert (norms > 1.1 * clip).any() and (norms < clip / 1.1).any()


@both_paths
def test_padding_contributes_exactly_nothing_whatever_it_holds(path):
    x, y = a_batch((9,))
    params = start(MLP, (x, y))
    weight = (jnp.arange(13) < 8).astype(jnp.float32)  # the second microbatch of 5 mixes rows and padding
    found = path(MLP)(params, (x, y), weight, 0.5)
    for garbage in (0.0, 1e30, jnp.inf, jnp.nan):
        assert_identical(path(MLP)(params, (x.at[8:].set(garbage), y), weight, 0.5), found)
    assert found.norm[8:].tolist() == found.loss[8:].tolist() == [0] * 5
    nothing = path(MLP)(params, (x, y), jnp.zeros(13), 0.5)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(nothing))


@both_paths
@pytest.mark.parametrize("model, shape", [(MLP, (9,)), (SMALL_CNN, (6, 7, 2))])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_example_without_a_finite_gradient_is_dropped_and_counted_and_spreads_nowhere(path, model, shape, value):
    x, y = a_batch(shape, size=4)
    params, run = start(model, (x, y)), path(model)
    expected = run(params, (x, y), jnp.array([1.0, 0, 1, 1]), 0.5)
    found = run(params, (x.at[1].set(value), y), jnp.ones(4), 0.5)
    assert found.dropped == 1 and expected.dropped == 0
    assert not np.isfinite(found.norm[1])
    assert_close(found.total, expected.total, ROUNDING)


@pytest.mark.parametrize("model, shape", [(MLP, (9,)), (SMALL_CNN, (6, 7, 2)), WHOLE_CNN])
def test_book_kept_sum_equals_the_reference(model, shape):
    batch = a_batch(shape, size=7)  # the second microbatch of 5 is filled up
    params = start(model, batch)
    weight = jnp.array([1.0, 1, 1, 0, 1, 1, 0])
    clip = 0.8 * float(norm_of(one(model, batch, params, 0)))
    expected = reference(model)(params, batch, weight, clip)
    found = fast(model)(params, batch, weight, clip)
    np.testing.assert_allclose(found.norm, expected.norm, rtol=1e-5)  # sums over pixels in another order
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert_close(found.total, expected.total, 1e-5)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.LayerNorm()(x))


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4)
        return layer(layer(x))


class PerPixel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x[:, None])[:, 0]


@pytest.mark.parametrize(
    "net, message",
    [
        (Normalised(), "LayerNorm_0/bias, LayerNorm_0/scale: expected kernel and bias of dense layers"),
        (Shared(), "Dense_0 is used twice"),
        (PerPixel(), "Dense_0/bias, Dense_0/kernel: expected"),
        (nn.Conv(4, (3, 3)), "parameters bias, kernel: expected"),
    ],
)
def test_book_keeping_refuses_what_it_does_not_know(net, message):
    x = jnp.ones((2, 3, 3, 4)) if isinstance(net, nn.Conv) else jnp.ones((2, 4))
    params = net.init(KEY, x)["params"]
    with pytest.raises(ValueError, match=message):
        per_example.book_kept_sum(
            lambda p, x: net.apply({"params": p}, x).reshape(2, -1).sum(1), params, x, jnp.ones(2), 1
        )


def test_noise_has_the_deviation_of_sigma_times_clip_over_the_expected_batch():
    total = {"a": jnp.zeros((300, 400)), "b": jnp.zeros((300, 400))}
    found = noisy(KEY, total, clip=0.7, noise=1.3, expected=40)
    a, b = (np.asarray(found[name], np.float64).ravel() / (1.3 * 0.7 / 40) for name in "ab")
    count = a.size + b.size
    low, high = stats.chi2.interval(1 - 1e-6, count)  # one run in a million falls outside by chance
    assert low < np.sum(a**2) + np.sum(b**2) < high
    assert abs(a.sum() + b.sum()) < 5 * np.sqrt(count)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)  # leaves of the same shape get their own noise
    assert stats.kstest(np.concatenate([a, b]), "norm").pvalue > 1e-6
    other = noisy(jax.random.key(12), total, clip=0.7, noise=1.3, expected=40)
    assert not np.any(other["a"] == found["a"])


def test_noise_reaches_beyond_the_end_of_a_single_draw():
    # 2e7 normals hold 1.1 beyond 5.3 on average, and none where the draw ends there; at 4.8 the count is judged.
    draw = jax.jit(lambda key: jnp.abs(noisy(key, jnp.zeros(2**22), clip=1.0, noise=1.0, expected=1)))
    values = np.concatenate([np.asarray(draw(jax.random.key(i))) for i in range(4)])
    beyond, expected = np.sum(values > 4.8), values.size * 2 * stats.norm.sf(4.8)
    assert abs(beyond - expected) < 5 * np.sqrt(expected)
    assert np.float32(np.sqrt(2)) * 5.29 > 7.4  # the end of the sum of two, one part in 10^13


def test_noise_is_added_before_the_division_by_the_expected_batch():
    total = {"w": jnp.arange(6.0)}
    alone = noisy(KEY, jax.tree.map(jnp.zeros_like, total), clip=2.0, noise=0.5, expected=8)
    found = noisy(KEY, total, clip=2.0, noise=0.5, expected=8)
    np.testing.assert_allclose(found["w"], alone["w"] + total["w"] / 8, rtol=1e-6)


def test_sample_has_a_static_shape_and_the_rate_it_states():
    rows, rate, size, draws = 500, 0.1, 100, 2000
    keys = jax.random.split(KEY, draws)
    indices, weight = jax.jit(jax.vmap(lambda key: privacy.sample(key, rows, rate, size)))(keys)
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
    indices, weight = privacy.sample(KEY, 50, 0.3, 40)
    drawn = int(weight.sum())
    assert weight.tolist() == [1.0] * drawn + [0.0] * (40 - drawn)
    assert len(set(indices[:drawn].tolist())) == drawn and indices[drawn:].tolist() == [0] * (40 - drawn)


def test_sample_at_rate_one_holds_every_row_and_one_that_is_too_small_is_cut_off():
    indices, weight = privacy.sample(KEY, 50, 1.0, 50)
    assert indices.tolist() == list(range(50)) and weight.tolist() == [1.0] * 50
    indices, weight = privacy.sample(KEY, 50, 1.0, 20)
    assert indices.shape == (20,) and weight.tolist() == [1.0] * 20


@pytest.mark.parametrize("rows, expected, steps", [(100, 10, 50), (100, 2.5, 1000), (1000, 50, 200), (40, 30, 10)])
def test_batch_size_keeps_the_chance_of_a_cut_off_below_a_hundredth_of_delta(rows, expected, steps):
    mechanism = Mechanism(rows, expected, steps, delta=1e-6)
    size, rate = privacy.batch_size(mechanism), expected / rows
    # Slowly and exactly: the other rows alone fill the batch in one step.
    full = math.fsum(
        math.comb(rows - 1, k) * rate**k * (1 - rate) ** (rows - 1 - k) for k in range(min(size, rows), rows)
    )
    assert privacy.truncation(mechanism) == pytest.approx(steps * full, rel=1e-6, abs=1e-30)
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
    assert privacy.batch_size(mechanism) == 100 and privacy.truncation(mechanism) == 0
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
    assert privacy.epsilon(MECHANISM._replace(clip=math.inf)) == math.inf


@pytest.mark.parametrize("target", [0.5, 8.0, 50.0])
def test_solved_noise_spends_the_target_and_not_more(target):
    mechanism = privacy.solve(MECHANISM._replace(noise=0.0), target)
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

        return privacy.gradient(key, sum_of, batch_of, STEP._replace(clip=clip, noise=noise))

    return jax.jit(step)


@pytest.mark.parametrize("path", [per_example.clipped_sum, per_example.book_kept_sum])
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
        ({"delta": 2e-3}, "delta=0.002: expected more than 0 and at most 1/1000; above 1/n"),
        ({"delta": 0.0}, "delta=0.0"),
    ],
)
def test_mechanism_that_makes_no_sense_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        privacy.epsilon(MECHANISM._replace(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [-1.0, 0.0, math.nan, math.inf])
def test_target_that_is_no_epsilon_is_refused(target):
    with pytest.raises(ValueError, match=f"target epsilon {target}, clip 1.0: expected both above 0"):
        privacy.solve(MECHANISM, target)


def test_target_that_no_noise_within_range_reaches_is_refused():
    few = MECHANISM._replace(steps=1)
    with pytest.raises(
        ValueError, match="target epsilon 1000000.0: expected one that a noise multiplier in 0.25..1024"
    ):
        privacy.solve(few, 1e6)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5])
def test_sampling_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(ValueError, match="rate=.*expected more than 0 and at most 1"):
        privacy.sample(KEY, 10, rate, 10)


@both_paths
def test_clipped_sum_agrees_with_jax_privacy(path):
    jax_privacy = pytest.importorskip("jax_privacy", reason="needs jax-privacy 2.0.0, a test oracle of the benchmarks")
    batch = a_batch((9,))
    params = start(MLP, batch)
    weight = (jnp.arange(13) < 9).astype(jnp.float32)
    clip = 0.9 * float(norm_of(one(MLP, batch, params, 0)))
    loss = lambda params, batch: losses_of(MLP)(params, batch).sum()  # noqa: E731
    theirs = jax_privacy.clipped_grad(loss, l2_clip_norm=clip, batch_argnums=(1,), keep_batch_dim=True)
    expected = theirs(params, batch, is_padding_example=weight == 0)
    assert_close(path(MLP)(params, batch, weight, clip).total, expected, ROUNDING)
