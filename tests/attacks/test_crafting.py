from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special

from mi_jax.attacks import crafting

P, C, K, SHAPE = 70, 6, 4, (4, 4, 1)
LOOSE = {"rtol": 0, "atol": 1e-5}  # float32, sums in another order, at most fifty steps


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def network(params, x):
    return jnp.tanh(x.reshape(len(x), -1) @ params["first"]) @ params["second"]


def two_classes(rng, num_models, size):
    """Linear networks whose logit 0 is w.x + b and whose logit 1 is 0."""
    w = np.zeros((num_models, size, 2), np.float32)
    w[..., 0] = rng.normal(size=(num_models, size))
    return {"w": w, "b": np.tile(np.float32([2, 0]), (num_models, 1))}


@cache
def problem():
    rng = np.random.default_rng(3)
    params = {"first": 0.8 * rng.normal(size=(C, 16, 12)), "second": rng.normal(size=(C, 12, K))}
    params = {name: a.astype(np.float32) for name, a in params.items()}
    is_inside = rng.random((P, C)).argsort(1) < C // 2
    use = np.ones((P, C), bool)
    for p in range(0, P, 3):  # a third of the points use one model of each side only
        use[p] = False
        use[p, [is_inside[p].argmax(), (~is_inside[p]).argmax()]] = True
    x = np.clip(rng.normal(0.5, 0.4, (P, *SHAPE)), 0, 1).astype(np.float32)  # some pixels lie at 0 and 1
    return params, is_inside, use, x, rng.integers(K, size=P)


def of(params, c):
    return jax.tree.map(lambda a: a[c], params)


def mean_logits(params, x):
    return np.mean([network(of(params, c), x[None])[0] for c in range(len(params["first"]))], axis=0)


@jax.jit
def cross_entropy_slope(params, q, y):
    return jax.grad(lambda q: -jax.nn.log_softmax(jax.vmap(network, (0, None))(params, q[None])[:, 0].mean(0))[y])(q)


def slow_oslo(params, validation, x, y, thresholds, max_epsilon, intervals, steps, carried, smooth):
    """One point, with cross-entropies, and a clip in place of a projection where pixels leave [0, 1]."""
    kernel = np.exp(-(np.linspace(-3, 3, 5) ** 2) / 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    questions, query = [], x.astype(np.float64)
    for k in range(1, intervals + 1):
        epsilon, momentum = k * max_epsilon / intervals, 0.0
        for _ in range(steps):
            gradient = np.asarray(cross_entropy_slope(params, query.astype(np.float32), y), np.float64)
            if smooth:
                gradient = ndimage.convolve(gradient[..., 0], kernel, mode="constant")[..., None]
            momentum = carried * momentum + gradient / np.abs(gradient).mean()
            step = query + 1.25 * epsilon / steps * np.sign(momentum)
            query = np.clip(np.clip(step, x - epsilon, x + epsilon), 0, 1)
        confidence = special.softmax(mean_logits(validation, query))[y]
        while len(questions) < len(thresholds) and confidence < thresholds[len(questions)]:
            questions.append(query)
    return np.stack(questions + [query] * (len(thresholds) - len(questions)))


OSLO = {"thresholds": (0.5, 0.2, 0.05), "max_epsilon": 0.3, "intervals": 6, "steps": 3}


def oslo(rows, **changes):
    params, _, _, x, y = problem()
    source, validation = of(params, slice(0, 3)), of(params, slice(3, 5))
    return crafting.oslo(network, source, validation, x[rows], y[rows], **{**OSLO, **changes})


def test_path_of_linear_networks_is_a_straight_line_to_the_corner_of_the_ball():
    """The L-inf path is x - epsilon sign(w), and the margin of the validation networks falls along it as v.sign(w)."""
    rng = np.random.default_rng(0)
    source = two_classes(rng, 3, 10)
    validation = {"w": source["w"][:2], "b": source["b"][:2]}
    x, thresholds = rng.uniform(0.4, 0.6, (20, 10)).astype(np.float32), (0.9, 0.7, 0.5)
    found = crafting.oslo(linear, source, validation, x, np.zeros(20, int), thresholds=thresholds, max_epsilon=0.3,
                          intervals=30)  # fmt: skip
    w, v = (params["w"][..., 0].mean(0).astype(np.float64) for params in (source, validation))
    epsilons = np.arange(1, 31) * 0.01
    margins = x @ v + 2 - epsilons[:, None] * (v @ np.sign(w))  # [30 P]
    below = special.expit(margins)[..., None] < thresholds  # [30 P T]
    first = np.where(below.any(0), below.argmax(0), 29)
    assert 0 < (first == 29).mean() < 0.9 and np.unique(first).size > 5
    np.testing.assert_allclose(found, x[:, None] - epsilons[first][..., None] * np.sign(w), **LOOSE)


@pytest.mark.parametrize("variant", crafting.VARIANTS)
def test_oslo_agrees_with_a_loop_over_points(variant):
    params, _, _, x, y = problem()
    rows = np.arange(12)
    expected = [slow_oslo(of(params, slice(0, 3)), of(params, slice(3, 5)), x[p], y[p], **OSLO,
                          carried=crafting.VARIANTS[variant][0], smooth="smooth" in variant) for p in rows]  # fmt: skip
    found = oslo(rows, variant=variant)
    assert np.unique((found != found[:, -1:]).any((2, 3, 4)).sum(1)).size > 1  # some stop early, some do not
    np.testing.assert_allclose(found, expected, **LOOSE)


def test_a_lower_threshold_or_a_longer_path_leaves_the_questions_above_it_alone():
    rows = np.arange(P)
    found = oslo(rows)
    assert (oslo(rows, thresholds=OSLO["thresholds"][:1])[:, 0] == found[:, 0]).all()
    longer = oslo(rows, max_epsilon=0.35, intervals=7)
    reached = (found[:, :-1] != found[:, 1:]).any((2, 3, 4))  # and so left behind by the path
    assert 0 < reached.sum() < reached.size
    np.testing.assert_allclose(longer[:, :-1][reached], found[:, :-1][reached], **LOOSE)


def test_threshold_one_is_met_after_the_first_interval():
    found = oslo(np.arange(P), thresholds=(1.0, 0.2))
    _, _, _, x, _ = problem()
    assert np.abs(found[:, 0] - x).max() <= 0.05 + 1e-6 and np.abs(found[:, 1] - x).max() > 0.2


def test_bits_are_asked_as_bits():
    binary = np.arange(16).reshape(SHAPE) < 8
    _, _, _, x, _ = problem()
    bits = np.where(binary, x > 0.5, x).astype(np.float32)
    params = problem()[0]
    found = crafting.oslo(network, params, params, bits, problem()[4], max_epsilon=0.8, intervals=8, binary=binary)
    flipped = found[:, -1] != bits
    assert np.isin(found[:, :, binary], (0, 1)).all() and 0 < flipped[:, binary].mean() < 1
    assert not np.isin(found[:, :, ~binary], (0, 1)).all()


def test_score_counts_the_thresholds_survived():
    is_label = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]], bool)
    assert crafting.oslo_score(is_label).tolist() == [3, 2, 1, 0, 2]


def yoqo(rows, online, use=None, params=None, **changes):
    stored, is_inside, all_used, x, y = problem()
    use = all_used if use is None else use
    params = stored if params is None else params
    return crafting.yoqo(network, params, is_inside[rows], use[rows], x[rows], y[rows], online=online, **changes)


@partial(jax.jit, static_argnames="online")
def yoqo_loss_and_slope(inside, outside, targets, q, x, y, alpha, online):
    """Of one point: inside and outside are the parameters of its models, targets what the latter are to answer."""

    def entropies(params, q):
        return -jax.nn.log_softmax(jax.vmap(network, (0, None))(params, q[None])[:, 0])  # [models K]

    def loss(q):
        out = entropies(outside, q)[jnp.arange(len(targets)), targets].mean()
        if online:
            return (entropies(inside, q)[:, y].mean() + alpha * out) / (1 + alpha)
        return (out + alpha * (((q - x) / crafting.SPREAD) ** 2).mean()) / (1 + alpha)

    return jax.value_and_grad(loss)(q)


def slow_yoqo(p, online, alpha, rate, steps, stop):
    params, is_inside, use, x, y = problem()
    inside, outside = (of(params, np.flatnonzero(use[p] & side)) for side in (is_inside[p], ~is_inside[p]))
    logits = [network(of(outside, c), x[p : p + 1])[0] for c in range(len(outside["first"]))]
    targets = np.array([max((k for k in range(K) if k != y[p]), key=lambda k, z=np.asarray(z): z[k]) for z in logits])
    query = jnp.asarray(x[p])
    for _ in range(steps):
        value, slope = yoqo_loss_and_slope(inside, outside, targets, query, x[p], y[p], alpha, online)
        query = jnp.clip(query - rate * slope, 0, 1)
        if value <= stop:
            break
    return query


@pytest.mark.parametrize("online, alpha", [(True, 2.0), (False, 0.3)])
def test_yoqo_agrees_with_a_loop_over_points(online, alpha):
    settings = {"alpha": alpha, "rate": 0.2, "steps": 8, "stop": 0.6 if online else 0.35}
    found = yoqo(np.arange(12), online, **settings)
    longer = yoqo(np.arange(12), online, **{**settings, "steps": 9})
    assert 0 < (found == longer).all((1, 2, 3)).sum() < 12  # some have stopped
    np.testing.assert_allclose(found, [slow_yoqo(p, online, **settings) for p in range(12)], **LOOSE)


@pytest.mark.parametrize("online", [True, False])
def test_first_step_on_linear_networks_is_known(online):
    """Two classes: the gradient of CE(y = 0) is -sigmoid(-margin) w, that of CE(t = 1) is sigmoid(margin) w."""
    rng = np.random.default_rng(1)
    params, x = two_classes(rng, 2, 10), rng.uniform(0.4, 0.6, (9, 10)).astype(np.float32)
    sides = np.tile([True, False], (9, 1))
    found = crafting.yoqo(linear, params, sides, np.ones((9, 2), bool), x, np.zeros(9, int), online=online, steps=1)
    inside, outside = (params["w"][c, :, 0] for c in (0, 1))
    down = special.expit(x @ outside + 2)[:, None] * outside
    up = special.expit(-(x @ inside + 2))[:, None] * inside
    step = 0.48 * (2 * down - up) / 3 if online else 0.96 * down / 6  # the distance has no gradient at x itself
    np.testing.assert_allclose(found, x - 0.25**2 * step, **LOOSE)


def test_a_point_that_is_told_apart_takes_one_step_and_stops():
    one = yoqo(np.arange(P), True, steps=1)
    assert (yoqo(np.arange(P), True, stop=np.inf) == one).all()
    assert (yoqo(np.arange(P), True, stop=-1.0) != one).any((1, 2, 3)).all()


def craft(rows, params=None, use=None, **changes):
    stored, is_inside, all_used, _, y = problem()
    start = np.random.default_rng(5).random((P, 3, *SHAPE), np.float32)
    use, params = all_used if use is None else use, stored if params is None else params
    return crafting.craft(network, params, is_inside[rows], use[rows], start[rows], y[rows], **changes), start[rows]


@jax.jit
def margin_slope_of_models(inside, outside, q, y, scale):
    def margins(params, q):
        logits = jax.vmap(network, (0, None))(params, q[None])[:, 0]
        others = jnp.where(jnp.arange(K) == y, -jnp.inf, logits)
        return logits[:, y] - others.max(1)

    def loss(q):
        z_in, z_out = margins(inside, q), margins(outside, q)
        return jax.nn.softplus(-z_in / scale).mean() + jax.nn.softplus(z_out / scale).mean()

    return jax.grad(loss)(q)


def margin_slope(p, scale, q):
    params, is_inside, use, _, y = problem()
    sides = (of(params, np.flatnonzero(use[p] & side)) for side in (is_inside[p], ~is_inside[p]))
    return margin_slope_of_models(*sides, q, y[p], scale)


def test_candidates_agree_with_a_loop_over_starts():
    found, start = craft(np.arange(5), steps=3, rate=0.2, scale=0.5)
    for p in range(5):
        for r in range(3):
            query, momentum = jnp.asarray(start[p, r]), 0.0
            for _ in range(3):
                gradient = margin_slope(p, 0.5, query)
                momentum = 0.7 * momentum + gradient / jnp.sqrt((gradient**2).sum())
                query = jnp.clip(query - 0.2 * momentum, 0, 1)
            np.testing.assert_allclose(found[p, r], query, **LOOSE)


def test_bits_are_inverted_where_that_lowers_the_loss_most():
    """One step, two bits; the other columns move by `rate` along their own gradient."""
    binary = (np.arange(16) < 9).reshape(SHAPE)
    params, is_inside, use, _, y = problem()
    start = np.random.default_rng(6).random((4, 2, *SHAPE), np.float32)
    start = np.where(binary, np.round(start), start)
    found = crafting.craft(network, params, is_inside[:4], use[:4], start, y[:4], steps=1, flips=2, binary=binary)
    for p in range(4):
        for r in range(2):
            gradient = np.asarray(margin_slope(p, 2.0, start[p, r]))
            change = np.where(binary, gradient * (1 - 2 * start[p, r]), np.inf)
            chosen = (change <= np.sort(change.ravel())[1]) & (change < 0)
            real = np.where(binary, 0, gradient)
            expected = np.where(chosen, 1 - start[p, r], start[p, r] - 0.05 * real / np.linalg.norm(real))
            np.testing.assert_allclose(found[p, r], np.clip(expected, 0, 1), **LOOSE)


def test_no_bit_is_inverted_where_that_raises_the_loss():
    """With all bits at their best, a network of one layer has nothing to gain."""
    params = {"w": np.stack([np.eye(6, 2) - np.eye(6, 2, -2), -np.eye(6, 2)]), "b": np.zeros((2, 2))}
    params = {name: array.astype(np.float32) for name, array in params.items()}
    sides, use = np.array([[True, False]]), np.ones((1, 2), bool)
    bits = np.float32([[[1, 0, 0, 1, 0, 0]]])
    found = crafting.craft(linear, params, sides, use, bits, [0], steps=3, flips=6, binary=np.ones(6, bool))
    assert (found == bits).all()


CRAFTERS = {
    "oslo": lambda rows, **changes: oslo(rows, **changes),
    "yoqo online": lambda rows, **changes: yoqo(rows, True, **{"steps": 12, **changes}),
    "yoqo offline": lambda rows, **changes: yoqo(rows, False, **{"steps": 12, "alpha": 0.3, **changes}),
    "craft": lambda rows, **changes: craft(rows, **changes)[0],
}


@pytest.mark.parametrize("name", CRAFTERS)
def test_questions_stay_in_the_unit_cube_and_change_with_nothing_but_their_point(name):
    """To the bit: alone, in another order, among more points than there are slots, in larger blocks."""
    every = CRAFTERS[name](np.arange(P))
    assert every.min() == 0 and every.max() <= 1
    order = np.random.default_rng(0).permutation(P)
    many = np.resize(order, 5 * P)
    assert (CRAFTERS[name](many) == every[many]).all()
    assert (CRAFTERS[name](np.array([5])) == every[5]).all()
    assert (CRAFTERS[name](order, block=128) == every[order]).all()


@pytest.mark.parametrize("name", ["yoqo online", "yoqo offline", "craft"])
def test_models_used_for_some_points_change_nothing_for_others(name):
    _, is_inside, use, _, _ = problem()
    every, rows = CRAFTERS[name](np.arange(P)), np.arange(P)
    narrow = use.copy()
    narrow[1::2] = False
    narrow[rows[1::2], is_inside[1::2].argmax(1)] = narrow[rows[1::2], (~is_inside[1::2]).argmax(1)] = True
    assert (narrow != use).any()
    found = CRAFTERS[name](rows, use=narrow)
    assert (found[::2] == every[::2]).all() and (found[1::2] != every[1::2]).any()


@pytest.mark.parametrize("name", ["yoqo online", "yoqo offline", "craft"])
def test_a_model_that_a_point_does_not_use_may_be_anything(name):
    params, _, use, _, _ = problem()
    broken = jax.tree.map(lambda a: np.where((np.arange(C) == 5)[:, None, None], np.nan, a), params)
    spared = np.flatnonzero(~use[:, 5])
    every = CRAFTERS[name](np.arange(P))
    assert len(spared) and (CRAFTERS[name](np.arange(P), params=broken)[spared] == every[spared]).all()


def test_offline_questions_do_not_look_at_models_trained_with_the_point():
    params, is_inside, _, _, _ = problem()
    spared = np.flatnonzero(is_inside[:, 5])
    broken = jax.tree.map(lambda a: np.where((np.arange(C) == 5)[:, None, None], np.nan, a), params)
    found = yoqo(np.arange(P), False, params=broken, use=np.ones((P, C), bool))
    assert (found == yoqo(np.arange(P), False, use=np.ones((P, C), bool)))[spared].all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: oslo(np.arange(2), thresholds=(0.1, 0.5)), r"thresholds=\(0.1, 0.5\): expected descending"),
        (lambda: oslo(np.arange(2), thresholds=()), "expected descending"),
        (lambda: oslo(np.arange(2), thresholds=(1.5,)), "expected descending"),
        (lambda: oslo(np.arange(2), variant="fast"), "variant='fast': expected one of plain"),
        (lambda: oslo(np.arange(2), intervals=0), "intervals=0: expected a positive"),
        (lambda: oslo(np.arange(0)), "expected .* at least one point"),
        (lambda: oslo(np.arange(2), binary=np.ones(3, bool)), r"binary \(3,\): expected a flag for each"),
        (lambda: yoqo(np.arange(2), True, use=np.zeros((P, C), bool)), "point 0: expected a model .* with it"),
        (lambda: yoqo(np.arange(2), False, use=np.zeros((P, C), bool)), "point 0: expected a model .* without it"),
        (lambda: yoqo(np.arange(2), True, use=np.ones((P, 2), bool)), r"use \(2, 2\): expected \[2 C\]"),
        (lambda: craft(np.arange(2), rate=-1), "rate=-1: expected a positive"),
        (lambda: crafting.craft(linear, {}, [[True]], [[True]], np.ones((2, 5)), [0]), r"expected \[P R \*x\]"),
        (lambda: crafting.oslo(linear, {}, {}, 2 * np.ones((1, 5)), [0]), "x from 2.0 to 2.0: expected values"),
        (lambda: crafting.oslo(linear, {}, {}, np.ones((1, 5)), [0], variant="smooth"), "expected images"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
