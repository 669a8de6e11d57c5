"""The driver: what it asks, what it bills, and that no result depends on company, order, chunk or resumption."""

import chex
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mi_jax import perturbations, testing
from mi_jax.attacks import measures
from mi_jax.querying import driver, oracle, sizes
from mi_jax.types import Attack, Measure, Model, Repeat, Round

SHAPE = (6, 6, 1)
C = 2
KEY = jax.random.key(7)


def attack_of(measure, neighbours=perturbations.only_itself, access="label"):
    return Attack("test", access, neighbours, measure, lambda *_: lambda f, y: f[:, 0, 0])


def points(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, *SHAPE), np.float32), rng.integers(0, C, count).astype(np.int32), np.arange(count) * 3


def random_model():
    """A linear network of two classes: any (init, apply) pair is a model."""
    w = np.random.default_rng(1).normal(size=(36, C)).astype(np.float32)
    return Model(
        lambda key, x: jnp.asarray(w), lambda params, x, key=None: x.reshape(len(x), -1) @ params
    ), jnp.asarray(w)


def network_oracle(scale=1.0, access="label"):
    model, params = random_model()
    return oracle.model_oracle(model, params * scale, C, access=access)


ATTACKS = {
    "label": attack_of(measures.label_is_correct()),
    "translation": attack_of(measures.label_is_correct(), perturbations.translate(1)),
    "noise": attack_of(measures.hit_rate(perturbations.gaussian_noise, 0.3, 60)),
    "noise of translations": attack_of(
        measures.hit_rate(perturbations.gaussian_noise, 0.3, 7), perturbations.translate(1)
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_features_are_the_same_to_the_bit_alone_in_batch_permuted_and_rechunked(name):
    x, y, rows = points(70)
    target, attack = network_oracle(), ATTACKS[name]
    together = driver.query(target, attack, KEY, x, y, rows)
    for chunk in (7, 64, 256):
        again = driver.query(target, attack, KEY, x, y, rows, points_at_once=chunk)
        np.testing.assert_array_equal(again.features, together.features)
        np.testing.assert_array_equal(again.queries, together.queries)
    order = np.random.default_rng(2).permutation(70)
    permuted = driver.query(target, attack, KEY, x[order], y[order], rows[order])
    np.testing.assert_array_equal(permuted.features, together.features[order])
    for i in (0, 41):
        alone = driver.query(target, attack, KEY, x[i : i + 1], y[i : i + 1], rows[i : i + 1], points_at_once=1)
        np.testing.assert_array_equal(alone.features[0], together.features[i])


@pytest.mark.parametrize("name", ATTACKS)
def test_label_only_features_do_not_change_when_logits_are_scaled(name):
    x, y, rows = points(40)
    ours = driver.query(network_oracle(), ATTACKS[name], KEY, x, y, rows).features
    scaled = driver.query(network_oracle(scale=4.0), ATTACKS[name], KEY, x, y, rows).features
    np.testing.assert_array_equal(scaled, ours)
    confidence = attack_of(measures.confidences(), access="confidence")
    seen, seen4 = (
        driver.query(network_oracle(scale, "confidence"), confidence, KEY, x, y, rows).features for scale in (1.0, 4.0)
    )
    assert np.abs(seen - seen4).max() > 0.05  # the same scaling is plain to see with confidence access


@pytest.mark.parametrize("name", ATTACKS)
def test_the_query_count_is_what_a_counting_target_saw(name):
    x, y, rows = points(50)
    w = np.random.default_rng(3).normal(size=36)
    counted, seen = testing.count_queries(testing.linear_oracle(w.reshape(SHAPE), -w.sum() / 2))
    message = []
    answers = driver.query(
        oracle.function_oracle(counted, C), ATTACKS[name], KEY, x, y, rows, points_at_once=16, progress=message.append
    )
    assert seen["queries"] == answers.queries.sum() == sum(message) == sum(answers.phases.values())


def test_a_network_and_a_function_give_the_same_features():
    x, y, rows = points(33)
    model, params = random_model()
    forward = jax.jit(lambda x: model.apply(params, x).argmax(-1))
    foreign = oracle.function_oracle(
        lambda x: np.asarray(forward(np.pad(x, [(0, -len(x) % 256)] + [(0, 0)] * 3)))[: len(x)], C
    )
    for attack in ATTACKS.values():
        ours = driver.query(network_oracle(), attack, KEY, x, y, rows)
        theirs = driver.query(foreign, attack, KEY, x, y, rows)
        np.testing.assert_array_equal(ours.features, theirs.features)
        np.testing.assert_array_equal(ours.queries, theirs.queries)


def test_misclassified_points_score_zero_for_one_query():
    x, _, rows = points(20)
    target = oracle.function_oracle(testing.constant_oracle(1), C)
    wrong = driver.query(target, ATTACKS["noise"], KEY, x, np.zeros(20, np.int32), rows)
    assert (wrong.features == 0).all() and (wrong.queries == 1).all() and wrong.finished.all()
    right = driver.query(target, ATTACKS["noise"], KEY, x, np.ones(20, np.int32), rows)
    assert (right.features == 1).all() and (right.queries == 61).all()


def test_noise_robustness_of_a_linear_target_is_the_normal_cdf_of_its_margin():
    w = np.random.default_rng(4).normal(size=SHAPE)
    w /= np.linalg.norm(w)
    sigma, queries = 0.02, 4000  # small against the distance to 0 and 1, so that clipping has nothing to do
    x = np.full((9, *SHAPE), 0.5, np.float32)
    margins = np.linspace(0.0, 2.0, 9) * sigma
    x += (margins[:, None, None, None] * w).astype(np.float32)
    target = oracle.function_oracle(testing.linear_oracle(w, -0.5 * w.sum()), C)
    y = target.answer(x, 9).astype(np.int32)
    attack = attack_of(measures.hit_rate(perturbations.gaussian_noise, sigma, queries))
    hits = driver.query(target, attack, KEY, x, y, np.arange(9)).features[:, 0, 0] * queries
    expected = stats.norm.cdf(margins / sigma)
    low, high = stats.binom.ppf([0.0005, 0.9995], queries, expected[:, None]).T  # 9 points, 99.1 % together
    assert ((hits >= low) & (hits <= high)).all()


def test_bits_flip_with_the_probability_asked_for():
    x = np.zeros((4, 500), np.float32)
    copies = np.asarray(perturbations.bit_flips(jnp.float32(0.01), KEY, jnp.asarray(x[0]), 400))
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], copies.size, 0.01)
    assert set(np.unique(copies)) == {0.0, 1.0} and low <= copies.sum() <= high


def test_a_cap_keeps_what_was_finished_and_marks_the_rest():
    x, _, rows = points(40)
    counted, seen = testing.count_queries(testing.constant_oracle(0))
    target, y = oracle.function_oracle(counted, C), np.zeros(40, np.int32)
    whole = driver.query(oracle.function_oracle(testing.constant_oracle(0), C), ATTACKS["noise"], KEY, x, y, rows)
    capped = driver.query(target, ATTACKS["noise"], KEY, x, y, rows, points_at_once=8, cap=40 + 20 * 60)
    assert seen["queries"] == capped.queries.sum() <= 40 + 20 * 60
    assert capped.finished.sum() == 16  # two chunks of eight; a third would have exceeded the cap
    np.testing.assert_array_equal(capped.features[capped.finished], whole.features[capped.finished])
    assert np.isnan(capped.features[~capped.finished]).all()
    nothing = driver.query(target, ATTACKS["label"], KEY, x, y, rows, cap=3)
    assert not nothing.finished.any() and nothing.queries.sum() == 0


def test_rounds_repeat_as_written():
    asked = []

    def function(x):
        asked.append(len(x))
        return np.zeros(len(x), int)

    one = Round(lambda key, s: jnp.repeat(s[None], 2, 0), lambda s, answers: s)
    three = Round(lambda key, s: jnp.repeat(s[None], 3, 0), lambda s, answers: s)
    measure = Measure(lambda strength, key, x, y: x, (one, Repeat(2, (three, one))), lambda s: jnp.zeros(2))
    x, _, rows = points(1)
    answers = driver.query(oracle.function_oracle(function, C), attack_of(measure), KEY, x, np.zeros(1, np.int32), rows)
    assert asked == [1, 2, 3, 2, 3, 2] and answers.queries[0] == 13 and answers.features.shape == (1, 1, 2)


def test_programs_compiled_do_not_grow_with_points_strengths_or_models():
    x, y, rows = points(600)
    model, params = random_model()
    model = model._replace(apply=chex.assert_max_traces(model.apply, n=3))  # chunks of the gate, of noise, and the rest
    compiled = [oracle._answer, driver._neighbours, driver._pick, driver._init, driver._ask, driver._tell, driver._read]

    def run(scale, sigma, count):
        target = oracle.model_oracle(model, params * scale, C)
        driver.query(
            target,
            attack_of(measures.hit_rate(perturbations.gaussian_noise, sigma, 55)),
            KEY,
            x[:count],
            y[:count],
            rows[:count],
        )

    run(1.0, 0.1, 300)
    before = [f._cache_size() for f in compiled]
    for scale, sigma, count in ((2.0, 0.1, 300), (1.0, 0.2, 300), (1.0, 0.3, 17), (3.0, 0.4, 600)):
        run(scale, sigma, count)
    assert [f._cache_size() for f in compiled] == before


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: np.zeros(len(x)), "float64"),
        (lambda x: np.zeros((len(x), 2), int), r"shape \(5, 2\)"),
        (lambda x: np.zeros(len(x) + 1, int), r"shape \(6,\)"),
        (lambda x: np.full(len(x), 2), r"labels 2\.\.2, expected 0\.\.1"),
        (lambda x: np.full(len(x), -1), r"labels -1\.\.-1"),
        (lambda x: np.zeros(len(x), bool), "bool"),
    ],
)
def test_a_target_that_does_not_answer_labels_is_refused(function, says):
    x, y, rows = points(5)
    with pytest.raises(ValueError, match=says):
        driver.query(oracle.function_oracle(function, C), ATTACKS["label"], KEY, x, y, rows)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: np.full((len(x), C), np.nan), "not probabilities"),
        (lambda x: np.ones((len(x), C)), "not probabilities"),
        (lambda x: np.ones((len(x), C + 1)) / (C + 1), r"expected float probabilities of shape \(5, 2\)"),
        (lambda x: np.zeros((len(x), C), int), "int64"),
    ],
)
def test_a_target_that_does_not_answer_probabilities_is_refused(function, says):
    x, y, rows = points(5)
    attack = attack_of(measures.confidences(), access="confidence")
    with pytest.raises(ValueError, match=says):
        driver.query(oracle.function_oracle(function, C, access="confidence"), attack, KEY, x, y, rows)


@pytest.mark.parametrize("name", ["label", "noise"])
def test_a_network_that_answers_nan_is_refused(name):
    x, y, rows = points(5)
    with pytest.raises(ValueError, match="NaN"):
        driver.query(network_oracle(scale=np.nan), ATTACKS[name], KEY, x, y, rows)


@pytest.mark.parametrize(
    ("perturbation", "says"),
    [
        (lambda key, x: x, r"shape \(6, 6, 1\), expected \(M, 6, 6, 1\)"),
        (lambda key, x: jnp.zeros((0, *x.shape)), r"shape \(0, 6, 6, 1\)"),
        (lambda key, x: (x[None] * 255).astype(jnp.uint8), "dtype uint8, expected float32"),
        (lambda key, x: [x], "shape None"),
        (lambda key, x: np.asarray(x)[None], "failed when traced: TracerArrayConversionError"),
        (lambda key, x: x[None] if x.sum() > 0 else -x[None], "failed when traced: TracerBoolConversionError"),
    ],
)
def test_a_perturbation_of_wrong_shape_or_dtype_is_refused_before_anything_is_asked(perturbation, says):
    x, y, rows = points(5)
    counted, seen = testing.count_queries(testing.constant_oracle(0))
    with pytest.raises(ValueError, match=says):
        driver.query(
            oracle.function_oracle(counted, C), attack_of(measures.label_is_correct(), perturbation), KEY, x, y, rows
        )
    assert seen["queries"] == 0


@pytest.mark.parametrize(
    ("x", "y", "rows", "says"),
    [
        (
            np.full((2, 6, 6, 1), 16.0),
            np.zeros(2, int),
            np.arange(2),
            r"x: float64 16.0..16.0, expected floats in \[0, 1",
        ),
        (np.full((2, 6, 6, 1), -0.1), np.zeros(2, int), np.arange(2), "x: float64 -0.1..-0.1"),
        (np.full((2, 6, 6, 1), np.nan), np.zeros(2, int), np.arange(2), "x: float64 nan"),
        (np.ones((2, 6, 6, 1), np.uint8), np.zeros(2, int), np.arange(2), "x: uint8 1..1, expected floats"),
        (np.ones((2, 6, 6, 1)), np.zeros(2), np.arange(2), "y: float64, expected integers"),
        (np.ones((2, 6, 6, 1)), np.zeros(3, int), np.arange(2), "2, 3 and 2 of them"),
        (np.ones((2, 6, 6, 1)), np.zeros(2, int), np.arange(1), "2, 2 and 1 of them"),
        (np.ones((2, 6, 6, 1)), np.array([1, 2]), np.arange(2), r"y: 1\.\.2, expected integers in 0\.\.1"),
        (np.ones((2, 6, 6, 1)), np.array([-1, 1]), np.arange(2), r"y: -1\.\.1, expected integers in 0\.\.1"),
        (np.ones((2, 6, 6, 1)), np.eye(2, dtype=int), np.arange(2), r"y and rows of shapes \(2, 2\)"),
        (np.ones((2, 6, 6, 1)), np.zeros((2, 1), int), np.arange(2), r"y and rows of shapes \(2, 1\)"),
        (np.ones((2, 6, 6, 1)), np.zeros(2, bool), np.arange(2), "y: bool, expected integers"),
        (np.ones((2, 6, 6, 1)), ["a", "b"], np.arange(2), "y: <U1, expected integers"),
        (np.ones((2, 6, 6, 1)), np.array([0, 2**32], np.int64), np.arange(2), r"y: 0\.\.4294967296"),
        (np.ones((2, 6, 6, 1)), np.zeros(2, int), np.array([0, -3]), r"rows: -3\.\.0"),
        (np.ones((2, 6, 6, 1)), np.zeros(2, int), np.array([0.0, 1]), "rows: float64, expected integers"),
        (np.ones(2), np.zeros(2, int), np.arange(2), "expected as many of each"),
        (None, np.zeros(2, int), np.arange(2), "^x: None, expected an array of numbers"),
        (0.5, np.zeros(2, int), np.arange(2), "^x: 0.5, expected an array of numbers"),
        (
            np.ones((2, 6)).astype(object),
            np.zeros(2, int),
            np.arange(2),
            r"^x: array\(\[\[1.0, .* expected an array",
        ),
        ([[1.0], [1.0, 0.0]], np.zeros(2, int), np.arange(2), r"^x: \[\[1.0\], \[1.0, 0.0\]\], expected an array"),
        (np.full((2, 6), "a"), np.zeros(2, int), np.arange(2), "^x: <U1, expected floats"),
        (np.ones((2, 6)), None, np.arange(2), "^y: None, expected an array of numbers"),
        (np.ones((2, 6)), 1, np.arange(2), "^y: 1, expected an array of numbers"),
        (np.ones((2, 6)), [1, None], np.arange(2), r"^y: \[1, None\], expected an array of numbers"),
        (np.ones((2, 6)), np.zeros(2, int), None, "^rows: None, expected an array of numbers"),
        (np.ones((2, 6)), np.zeros(2, int), 3, "^rows: 3, expected an array of numbers"),
    ],
)
def test_points_that_are_none_are_refused_before_anything_is_asked(x, y, rows, says):
    counted, seen = testing.count_queries(testing.constant_oracle(0))
    with pytest.raises(ValueError, match=says) as error:
        driver.query(oracle.function_oracle(counted, C), attack_of(measures.label_is_correct()), KEY, x, y, rows)
    assert seen["queries"] == 0 and "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"points_at_once": 0}, {"points_at_once": 2.5}, {"cap": -1}, {"cap": "9"}])
def test_sizes_of_a_query_that_are_none_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{name}={value!r}: expected a whole number of at least"):
        driver.query(network_oracle(), ATTACKS["label"], KEY, *points(5), **options)


def test_an_attack_gets_no_more_access_than_the_oracle_grants():
    x, y, rows = points(5)
    with pytest.raises(ValueError, match="needs confidence access, the oracle grants label"):
        driver.query(network_oracle(), attack_of(measures.confidences(), access="confidence"), KEY, x, y, rows)
    with pytest.raises(ValueError, match="budget=0"):
        measures.hit_rate(perturbations.gaussian_noise, 0.1, 0)


def test_noise_by_column_is_one_program_for_a_grid_and_the_same_alone_in_batch_permuted_and_rechunked():
    binary = np.arange(36) % 3 > 0
    x, y, rows = points(60)
    x = np.where(binary, x.reshape(60, 36) > 0.5, x.reshape(60, 36)).astype(np.float32)
    target = network_oracle()
    compiled = [driver._init, driver._ask, driver._tell, driver._read]

    def ask(p, sigma, chosen, **options):
        measure = measures.hit_rate(perturbations.column_noise(binary.copy()), {"p": p, "sigma": sigma}, 30)
        return driver.query(target, attack_of(measure), KEY, x[chosen], y[chosen], rows[chosen], **options).features

    together, order = ask(0.1, 0.3, np.arange(60)), np.random.default_rng(2).permutation(60)
    assert len(np.unique(together)) > 5 and sizes.max_queries(attack_of(measures.hit_rate(
        perturbations.column_noise(binary), {"p": 0.1, "sigma": 0.3}, 30)), (36,), C) == 31  # fmt: skip
    before = [f._cache_size() for f in compiled]
    assert not np.array_equal(ask(0.1, 0.01, np.arange(60)), together)
    assert not np.array_equal(ask(0.4, 0.3, np.arange(60)), together)
    np.testing.assert_array_equal(ask(0.1, 0.3, order), together[order])
    assert [f._cache_size() for f in compiled] == before
    np.testing.assert_array_equal(ask(0.1, 0.3, np.arange(60), points_at_once=7), together)
    for i in (0, 33):
        np.testing.assert_array_equal(ask(0.1, 0.3, np.array([i]), points_at_once=1)[0], together[i])


def test_a_course_reads_the_hit_rate_after_each_count_and_ends_in_the_same_place():
    x, y, rows = points(30)
    course = driver.query(
        network_oracle(), attack_of(measures.hit_rate(perturbations.gaussian_noise, 0.3, (1, 5, 60))), KEY, x, y, rows
    )
    right = course.features[:, 0, 2] > 0
    assert course.features.shape == (30, 1, 3) and (course.queries == np.where(right, 61, 1)).all()
    assert set(np.unique(course.features[:, 0, 0])) <= {0.0, 1.0}
    np.testing.assert_allclose(course.features[:, 0, 1] * 5, np.round(course.features[:, 0, 1] * 5), atol=1e-5)
    whole = driver.query(network_oracle(), ATTACKS["noise"], KEY, x, y, rows)
    # The same 60 copies of other draws: rates of 60 differ by less than 5 deviations of their difference.
    assert np.abs(course.features[:, 0, 2] - whole.features[:, 0, 0]).max() < 5 * np.sqrt(2 * 0.25 / 60)
    with pytest.raises(ValueError, match="rising"):
        measures.hit_rate(perturbations.gaussian_noise, 0.1, (5, 5))


def test_every_point_and_every_neighbour_draws_noise_of_its_own():
    x, w = np.full((8, *SHAPE), 0.5, np.float32), np.random.default_rng(5).normal(size=SHAPE)
    target = oracle.function_oracle(testing.linear_oracle(w, -0.5 * w.sum()), C)
    attack = attack_of(measures.hit_rate(perturbations.gaussian_noise, 0.3, 25), lambda key, x: jnp.stack([x, x]))
    hits = driver.query(target, attack, KEY, x, target.answer(x, 8), np.arange(8)).features[..., 0]  # [8 2]
    # Sixteen times the same example on the boundary: every rate is that of 25 fair coins.
    assert (hits.std(0) > 0).all() and (hits[:, 0] != hits[:, 1]).any()


def test_the_copy_that_is_measured_is_the_one_whose_label_was_queried():
    queries = []

    def function(x):
        queries.extend(x)
        return np.zeros(len(x), int)

    again = Measure(lambda strength, key, x, y: x, (Round(lambda key, x: x[None], lambda x, labels: x),), jnp.ravel)
    attack = attack_of(again, lambda key, x: jax.random.uniform(key, (3, *x.shape)))
    x, _, rows = points(4)
    driver.query(oracle.function_oracle(function, C), attack, KEY, x, np.zeros(4, np.int32), rows)
    np.testing.assert_array_equal(queries[:12], queries[12:])


@settings(max_examples=40, deadline=None)
@given(hypothesis.extra.numpy.arrays(
    st.sampled_from(["i1", "u1", "i2", ">i4", "i8", "u8", "f4", "?", "U2", "O"]),
    st.sampled_from([(3,), (3, 1), (1, 3), (3, 2), (), (2,), (0,)]),
))  # fmt: skip
def test_labels_are_read_as_they_are_or_refused_in_one_line(y):
    """Whatever is given as labels: three integers in 0..1 are read by value, all else is refused."""
    x, _, rows = points(3)
    integers = y.shape == (3,) and np.issubdtype(y.dtype, np.integer)
    try:
        answers = driver.query(network_oracle(), ATTACKS["label"], KEY, x, y, rows)
    except ValueError as error:
        assert not (integers and 0 <= y.min() <= y.max() < C) and "\n" not in str(error)
    else:
        labels = oracle.query_labels(network_oracle(), x)
        assert integers and 0 <= y.min() <= y.max() < C
        np.testing.assert_array_equal(answers.features[:, 0, 0], labels == y.astype(int))


def test_lists_are_arrays():
    x, y, rows = points(5)
    answers = driver.query(network_oracle(), ATTACKS["label"], KEY, x.tolist(), y.tolist(), rows.tolist())
    expected = driver.query(network_oracle(), ATTACKS["label"], KEY, x, y, rows)
    np.testing.assert_array_equal(answers.features, expected.features)


def test_queries_are_counted_when_they_are_put():
    calls, counted = [], []

    def hang_up(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise ConnectionError("no answer")
        return np.zeros(len(x), int)

    x, _, rows = points(10)
    with pytest.raises(ConnectionError):
        driver.query(oracle.function_oracle(hang_up, C), ATTACKS["noise"], KEY, x, np.zeros(10, int), rows,
                     progress=counted.append)  # fmt: skip
    assert calls == [10, 250, 250] and sum(counted) == 510


@pytest.mark.parametrize(
    ("shape", "points", "chunk"),
    [
        ((8, 8, 1), 1, 256),  # padded, so that few points compile nothing new
        ((32, 32, 3), 10_000, 256),
        ((64, 64, 3), 2, 8),
        ((64, 64, 3), 10_000, 128),
        ((128, 128, 3), 10_000, 32),
        ((224, 224, 3), 10_000, 8),
        ((2000, 2000, 3), 10_000, 1),
    ],
)
def test_points_measured_together_follow_from_the_size_of_an_example(shape, points, chunk):
    attack = attack_of(measures.hit_rate(perturbations.gaussian_noise, 0.1, 100))
    size = sizes.attack_size(attack, shape, C)
    assert sizes.default_points(size, points) == chunk
    assert chunk == 1 or chunk * 25 * np.prod(shape) * 4 <= sizes.ROUND_BYTES


@pytest.mark.slow
def test_features_of_large_examples_do_not_change_with_the_budget_of_memory(monkeypatch):
    rng = np.random.default_rng(0)
    x, y, rows = rng.random((5, 32, 32, 3), np.float32), rng.integers(0, C, 5), np.arange(5)
    model = Model(lambda key, x: None, lambda params, x, key=None: x.reshape(len(x), -1)[:, :C] + 0 * x.sum())
    attack = attack_of(measures.hit_rate(perturbations.gaussian_noise, 0.3, 30))
    whole = driver.query(oracle.model_oracle(model, (), C), attack, KEY, x, y, rows, points_at_once=5)
    for limit in (2**22, 2**20):
        monkeypatch.setattr(sizes, "ROUND_BYTES", limit)
        again = driver.query(oracle.model_oracle(model, (), C), attack, KEY, x, y, rows)
        np.testing.assert_array_equal(again.features, whole.features)
        np.testing.assert_array_equal(again.queries, whole.queries)


def test_nan_that_a_network_answers_inside_a_measure_is_refused():
    x, _, rows = points(5)
    model = Model(lambda key, x: None, lambda params, z, key=None: jnp.where(
        (jnp.abs(z - x[:1]).sum((1, 2, 3)) < 1e-6)[:, None], jnp.array([1.0, 0.0]), jnp.nan))  # fmt: skip
    x = np.repeat(x[:1], 5, 0)
    with pytest.raises(ValueError, match="NaN"):
        driver.query(oracle.model_oracle(model, (), C), ATTACKS["noise"], KEY, x, np.zeros(5, int), rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"function": 3}, "function: a int, expected a function of rows"),
        ({"num_classes": 2.5}, "num_classes=2.5: expected a whole number of at least 2"),
        ({"num_classes": None}, "num_classes=None"),
        ({"num_classes": True}, "num_classes=True"),
        ({"rows_per_call": 0}, "rows_per_call=0: expected a whole number of at least 1"),
    ],
)
def test_what_makes_no_oracle_is_refused(arguments, says):
    given = {"function": testing.constant_oracle(0), "num_classes": 2} | arguments
    with pytest.raises(ValueError, match=says):
        oracle.function_oracle(given.pop("function"), given.pop("num_classes"), **given)
