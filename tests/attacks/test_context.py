"""An attack on data of another scale, behind a model that undoes it, is the same attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_jax import attacks, testing
from mi_jax.attacks import boundary, rays, schedules
from mi_jax.querying import driver, oracle
from mi_jax.types import Dataset, Model

KEY, D, P = jax.random.key(0), 6, 20
WHOLE = attacks.AttackContext((D,), 2, np.zeros(D, bool), budget=40, spread=np.ones(D))
LINE = testing.linear_oracle(np.random.default_rng(0).normal(size=D), 0.1)
X = np.random.default_rng(1).integers(0, 65, (P, D)).astype(np.float32) / 64


def features(name, known, scale, offset=0.0):
    """Features of attack `name` on x = offset + scale * X, behind a model that sees X; and every query."""
    seen, x = [], (offset + scale * X).astype(np.float32)

    def function(z):
        seen.append(np.array(z))
        return LINE((z - np.float32(offset)) / np.float32(scale))

    attack = attacks.build(name, known)[-1 if name != "noise" else 1]
    answers = driver.query(oracle.function_oracle(function, 2), attack, KEY, x, LINE(X), np.arange(P),
                           points_at_once=P)  # fmt: skip
    return answers.features, np.concatenate(seen)


@pytest.mark.parametrize("name", ["noise", "rays", pytest.param("boundary", marks=pytest.mark.slow)])
def test_data_of_another_scale_give_the_same_features(name):
    whole, _ = features(name, WHOLE, 1.0)
    assert len(np.unique(whole)) > 5
    for scale, offset in ((1 / 64, 0.0), (1 / 64, 0.5), (2.0 ** -np.arange(D), 0.0)):  # powers of two: no rounding
        spread = np.broadcast_to(scale, D)
        known = WHOLE._replace(spread=spread, low=np.full(D, offset), high=offset + spread)
        ours, queries = features(name, known, scale, offset)
        np.testing.assert_array_equal(ours, whole)
        assert (queries >= offset).all() and (queries <= offset + scale).all()


def test_without_units_small_data_are_not_searched():
    """What the units are for: noise of the same size drowns data a hundredth as large."""
    whole, _ = features("noise", WHOLE, 1.0)
    small, _ = features("noise", WHOLE, 0.01)
    assert np.abs(small - whole).mean() > 0.1


def test_a_row_outside_of_the_attackers_range_is_searched_around_itself():
    low, high = np.full(D, 0.25), np.full(D, 0.5)
    found, queries = features("rays", WHOLE._replace(low=low, high=high), 1.0)
    moved = X - X.clip(0.25, 0.5)  # the range is moved, not stretched
    asked = queries[P:].reshape(-1, P, D)  # the first P are the points themselves
    assert (asked >= low + moved - 1e-6).all() and (asked <= high + moved + 1e-6).all()
    assert queries.min() >= 0 and queries.max() <= 1 and np.isfinite(found[:, 0, -1]).sum() > 0


@pytest.mark.parametrize(
    "measure", [rays.ray_distance(10), boundary.boundary_distance(schedules.schedule(40, D))], ids=["rays", "boundary"]
)
def test_measures_in_units_share_compiled_programs_and_the_unit_range_changes_nothing(measure):
    assert attacks.in_units(measure, WHOLE) is measure
    one, two = (attacks.in_units(measure, WHOLE._replace(high=high)) for high in (0.5, np.full(D, 0.25)))
    assert one.init is two.init and one.rounds == two.rounds and one.read is two.read


def table(values, binary=None):
    binary = np.zeros(values.shape[1], bool) if binary is None else binary
    return Dataset("table", values.astype(np.float32), np.zeros(len(values), np.int32), 2, binary)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.floats(1e-3, 1), st.integers(0, 2**16))
def test_a_column_has_the_deviation_and_the_range_of_the_rows_the_attacker_has(count, scale, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((50, 4)).astype(np.float32) * scale
    values[:, 1], values[:, 2] = 0.25, rng.random(50) < 0.5
    binary, rows = np.arange(4) == 2, rng.permutation(50)[:count]
    known = attacks.context_of(table(values, binary), 7, rows)
    assert known.budget == 7 and known.binary is binary
    np.testing.assert_allclose(known.spread[[0, 3]], values[rows][:, [0, 3]].std(0, dtype=float), rtol=1e-6)
    np.testing.assert_array_equal(known.low, [values[rows, 0].min(), 0, 0, values[rows, 3].min()])
    np.testing.assert_array_equal(known.high, [values[rows, 0].max(), 1, 1, values[rows, 3].max()])
    assert known.spread[1] == 0  # a constant column: no noise


def test_images_have_one_unit_which_is_one_where_pixels_fill_the_box():
    x = np.random.default_rng(0).random((10, 4, 4, 1)).astype(np.float32) / 100
    small = attacks.context_of(Dataset("images", x, np.zeros(10, np.int32), 2), 7)
    assert (small.low, small.high) == (x.min(), x.max()) and small.spread == small.high - small.low
    x[3, 1, 1], x[4, 2, 2] = 0, 1
    whole = Dataset("images", x, np.zeros(10, np.int32), 2)
    assert attacks.context_of(whole, 7) == attacks.AttackContext((4, 4, 1), 2, None, 7)
    assert attacks.context_of(whole, 7, np.arange(3)).spread < 0.01  # the attacker has seen no more
    assert attacks.context_of(whole._replace(x=np.full_like(x, 0.5)), 7).spread == 1  # nothing is known
    with pytest.raises(ValueError, match="rows: none, expected at least one"):
        attacks.context_of(whole, 7, np.arange(0))


def test_noise_of_a_table_moves_each_column_by_its_own_deviation_and_no_constant_one():
    rng = np.random.default_rng(0)
    values = 0.5 + rng.normal(size=(4000, 3)).clip(-4, 4) * [0.1, 0.001, 0]
    known = attacks.context_of(table(values), 50)
    candidate = attacks.build("noise", known)[1]
    state = candidate.measure.init(candidate.measure.strength, KEY, jnp.full(3, 0.5), jnp.int32(0))
    queries = np.asarray(candidate.measure.rounds[0].rounds[0].ask(KEY, state), float) - 0.5
    sigma = attacks.SIGMAS["standard deviation"][1]
    assert candidate.settings == {"sigma": sigma, "unit": "standard deviation", "queries": 50}
    np.testing.assert_allclose(queries.std(0) / sigma, [0.1, 0.001, 0], rtol=0.4)  # of 25 copies


def test_features_in_units_are_the_same_to_the_bit_alone_and_in_a_batch():
    rng = np.random.default_rng(0)
    low, span = rng.random(D) / 3, rng.random(D) / 3 + 0.1
    known, x = (
        WHOLE._replace(low=low, high=low + span),
        (low + span * rng.uniform(-0.1, 1.1, (30, D))).astype(np.float32),
    )
    x, w = x.clip(0, 1), jnp.asarray(rng.normal(size=D) / span, jnp.float32)
    model = Model(None, lambda w, x, key=None: jnp.stack([x @ w, jnp.full(len(x), w @ (low + span / 2))], 1))
    target, attack = oracle.model_oracle(model, w, 2), attacks.build("rays", known)[0]
    y = np.asarray(model.apply(w, x)).argmax(1).astype(np.int32)

    def found(chosen, chunk):
        return driver.query(target, attack, KEY, x[chosen], y[chosen], chosen, points_at_once=chunk).features

    together = found(np.arange(30), 30)
    assert len(np.unique(together)) > 100
    for i in (0, 7):
        np.testing.assert_array_equal(found(np.array([i]), 1)[0], together[i])


@pytest.mark.parametrize("low, high", [(0.5, 0.5), (0.5, 0.2), (-0.1, 1), (0, 1.1), (np.nan, 1), (np.eye(D)[0], 1)])
def test_a_range_that_is_empty_or_not_in_the_box_is_refused(low, high):
    with pytest.raises(ValueError, match="expected 0 <= low < high <= 1"):
        attacks.build("rays", WHOLE._replace(low=low, high=high))


MANY = Dataset("images", np.random.default_rng(0).random((10, 2, 2, 1)).astype(np.float32), np.zeros(10, np.int32), 2)


@pytest.mark.parametrize(
    "rows, named",
    [([100], "100"), ([-1], "-1"), ([1.5], "1.5"), (3, "3"), (np.zeros(10, bool), "none"), ({1, 2}, "{1, 2}"),
     ([[1, 2]], "[[1, 2]]"), ([[1], [1, 2]], "[[1], [1, 2]]"), (np.ones(9, bool), "True"), ([2**70], str(2**70))],
    ids=str,
)  # fmt: skip
def test_rows_that_a_data_set_does_not_have_are_refused_by_their_value(rows, named):
    with pytest.raises(ValueError, match="^rows.*expected") as caught:
        attacks.context_of(MANY, 7, rows)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_rows_may_be_a_mask():
    mask = np.arange(10) % 3 == 1
    assert attacks.context_of(MANY, 7, mask) == attacks.context_of(MANY, 7, [1, 4, 7])


@pytest.mark.parametrize("budget", [2.5, "3", None, 0, -1, True])
def test_a_budget_is_a_whole_number_of_at_least_1(budget):
    with pytest.raises(ValueError, match=rf"^budget={budget!r}: expected a whole number of at least 1$"):
        attacks.context_of(MANY, budget)
    with pytest.raises(ValueError, match="^dataset is of type tuple, expected a types.Dataset$"):
        attacks.context_of(tuple(MANY), 7)


@pytest.mark.parametrize("binary", [None, np.zeros(1, bool)])
def test_a_range_whose_reciprocal_overflows_counts_as_constant(binary):
    x = np.array([[0], [1e-40]], np.float32)
    x = x if binary is not None else x.reshape(2, 1, 1, 1)
    known = attacks.context_of(Dataset("tiny", x, np.zeros(2, np.int32), 2, binary), 7)
    assert (known.low, known.high) == (0, 1) and known.spread == (0 if binary is not None else 1)


@pytest.mark.parametrize(
    "make, message",
    [(lambda context: 5, "is made as int"), (lambda context: (), "no candidate"), (lambda context: (5,), "with int"),
     (lambda context: attacks.ATTACKS["gap"](context)[0], "made as Attack"), (lambda context: {}["x"], "KeyError: 'x'"),
     (lambda: (), "raised TypeError: ")],
)  # fmt: skip
def test_what_makes_no_attack_is_refused_in_one_line(monkeypatch, make, message):
    monkeypatch.setitem(attacks.ATTACKS, "mine", make)
    with pytest.raises(ValueError, match=f"^attack 'mine' .*{message}.*, expected .*types.Attack") as caught:
        attacks.build("mine", WHOLE)
    assert "\n" not in str(caught.value)


def test_candidates_may_be_a_list(monkeypatch):
    monkeypatch.setitem(attacks.ATTACKS, "mine", lambda context: list(attacks.ATTACKS["gap"](context)))
    assert attacks.build("mine", WHOLE) == attacks.build("gap", WHOLE)
