"""Noise by column: every kind of column gets its own noise, of the strength asked for, and nothing of the other's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mi_jax import attacks, perturbations
from mi_jax.attacks import measures
from mi_jax.querying import driver, oracle
from mi_jax.types import Attack

KEY = jax.random.key(3)
COUNT = 2000
BINARY = np.isin(np.arange(12), [0, 3, 4, 7, 8, 11])  # neither kind in one block
ROW = np.where(BINARY, np.arange(12) % 2, 0.5).astype(np.float32)


def copies_of(x=ROW, *, p=0.2, sigma=0.05, key=KEY, binary=BINARY) -> np.ndarray:
    strength = {"p": jnp.float32(p), "sigma": jnp.float32(sigma)}
    copies = np.asarray(perturbations.column_noise(binary)(strength, key, jnp.asarray(x), COUNT))
    assert copies.shape == (COUNT, len(x)) and copies.dtype == np.float32
    return copies


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5])
def test_every_bit_flips_with_the_probability_asked_for_and_stays_a_bit(p):
    flipped = copies_of(p=p)[:, BINARY] != ROW[BINARY]
    assert set(np.unique(copies_of(p=p)[:, BINARY])) == {0.0, 1.0}
    rounded = round(p * 65536) / 65536  # `randomness.flips` rounds p
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], COUNT, rounded)  # 6 columns: 0.9999 together
    assert ((flipped.sum(0) >= low) & (flipped.sum(0) <= high)).all()
    # Columns flip independently: a count of pairs is binomial too (15 pairs: 0.9997 together).
    both = np.triu(flipped.T.astype(int) @ flipped, 1)[np.triu_indices(6, 1)]
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], COUNT, rounded**2)
    assert ((both >= low) & (both <= high)).all()


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1])
def test_real_columns_move_by_normals_of_the_deviation_asked_for(sigma):
    moved = (copies_of(sigma=sigma)[:, ~BINARY] - 0.5) / sigma  # the clip is 5 deviations away or more
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], COUNT) / COUNT  # 6 columns: 0.9999 together
    assert ((moved**2).mean(0) > low).all() and ((moved**2).mean(0) < high).all()
    assert np.abs(moved.mean(0)).max() < 4.5 / np.sqrt(COUNT)  # 4.5 deviations: 4e-5 for six columns
    off = np.corrcoef(moved.T)[np.triu_indices(6, 1)]
    assert np.abs(off).max() < 4.5 / np.sqrt(COUNT)
    assert stats.kstest(moved.ravel(), "norm").pvalue > 1e-4


def test_real_columns_are_clipped_to_the_unit_interval():
    copies = copies_of(np.where(BINARY, 1, [0, 1] * 6).astype(np.float32), sigma=0.3)[:, ~BINARY]
    assert copies.min() == 0 and copies.max() == 1
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], copies.size, 0.5)
    assert low <= ((copies == 0) | (copies == 1)).sum() <= high  # half of all lie beyond the face they start from


def test_neither_kind_of_column_changes_with_the_values_or_the_strength_of_the_other():
    ours = copies_of()
    np.testing.assert_array_equal(copies_of(sigma=0.4)[:, BINARY], ours[:, BINARY])
    np.testing.assert_array_equal(copies_of(p=0.5)[:, ~BINARY], ours[:, ~BINARY])
    np.testing.assert_array_equal(copies_of(np.where(BINARY, ROW, 0.1))[:, BINARY], ours[:, BINARY])
    np.testing.assert_array_equal(copies_of(np.where(BINARY, 1 - ROW, ROW))[:, ~BINARY], ours[:, ~BINARY])
    np.testing.assert_array_equal(copies_of(p=0)[:, BINARY], np.tile(ROW[BINARY], (COUNT, 1)))
    np.testing.assert_array_equal(copies_of(sigma=0)[:, ~BINARY], np.tile(ROW[~BINARY], (COUNT, 1)))


def test_flips_of_bits_say_nothing_of_the_noise_beside_them():
    copies = copies_of(p=0.5)
    flipped, moved = copies[:, BINARY] != ROW[BINARY], copies[:, ~BINARY] - 0.5
    off = np.corrcoef(flipped.T, moved.T)[:6, 6:]
    assert np.abs(off).max() < 5 / np.sqrt(COUNT)  # 36 pairs at 5 deviations: 2e-5


def test_columns_of_one_kind_get_the_plain_noise_to_the_bit():
    x = jnp.asarray(ROW)
    np.testing.assert_array_equal(
        copies_of(binary=np.ones(12, bool), p=0.2), perturbations.bit_flips(jnp.float32(0.2), KEY, x, COUNT)
    )
    for none in (np.zeros(12, bool), None):
        np.testing.assert_array_equal(
            copies_of(binary=none), perturbations.gaussian_noise(jnp.float32(0.05), KEY, x, COUNT)
        )


def test_the_same_mask_gives_the_same_function():
    assert perturbations.column_noise(BINARY) is perturbations.column_noise(BINARY.copy())
    assert perturbations.column_noise(BINARY) is perturbations.column_noise(BINARY.tolist())
    assert perturbations.column_noise(BINARY) is not perturbations.column_noise(~BINARY)
    assert perturbations.column_noise(None) is perturbations.column_noise(None)


def test_candidates_of_the_noise_attack_fit_the_columns():
    def settings(binary, shape=(12,), budget=20):
        candidates = attacks.build("noise", attacks.AttackContext(shape, 2, binary, budget))
        assert len({candidate.measure.init for candidate in candidates}) == 1  # one program for the whole grid
        return [candidate.settings for candidate in candidates]

    of_images = settings(None, (8, 8, 1))
    sigmas = [{"sigma": s, "unit": "range", "queries": 20} for s in attacks.SIGMAS["range"]]
    assert of_images == settings(np.zeros(12, bool)) == sigmas
    assert settings(np.ones(446, bool), (446,)) == [{"p": f / 446, "queries": 20} for f in attacks.FLIPS]
    both = settings(np.arange(107) >= 6, (107,))
    product = itertools.product(attacks.MIXED_FLIPS, attacks.MIXED_SIGMAS["range"])
    assert both == [{"p": f / 101, "sigma": s, "unit": "range", "queries": 20} for f, s in product] and len(both) <= 16


@pytest.mark.parametrize("budget, tried_with", [(500, 100), (1000, 100), (10_000, 1000)])
def test_candidates_are_tried_with_few_queries_and_run_with_the_same_strength_and_all(budget, tried_with):
    for candidate in attacks.build("noise", attacks.AttackContext((12,), 2, BINARY, budget)):
        tried, final = candidate.settings, candidate.full_budget.settings
        assert tried["queries"] == tried_with and final == tried | {"queries": budget}
        assert candidate.measure.strength == candidate.full_budget.measure.strength
        assert {name: float(s) for name, s in candidate.measure.strength.items()} == pytest.approx(
            {name: final[name] for name in ("p", "sigma")}
        )


def test_a_table_with_few_bits_is_tried_with_each_probability_up_to_one_half_once():
    for binary in (np.ones(5, bool), np.arange(12) < 5):
        tried = [c.settings for c in attacks.build("noise", attacks.AttackContext(binary.shape, 2, binary, 20))]
        assert max(settings["p"] for settings in tried) == 0.5
        assert len({(settings["p"], settings.get("sigma")) for settings in tried}) == len(tried)


def test_label_bits_ask_the_same_changes_of_every_example_and_read_them_in_order():
    seen = []

    def shift(key, x):
        return (x + jax.random.uniform(key))[None]

    def function(x):
        seen.append(x)
        return (x[:, 0] % 1 > 0.5).astype(np.int32)

    x, count = np.float32([[0.0], [0.25]]), 60  # three rounds, the last of ten
    attack = Attack("bits", "label", perturbations.only_itself, measures.label_bits(shift, count), None)
    y = np.ones(2, np.int32)
    target = oracle.function_oracle(function, 2)
    answers = driver.query(target, attack, KEY, x, y, np.arange(2), points_at_once=1)
    draws = [jax.random.uniform(jax.random.fold_in(jax.random.key(0), i)) for i in range(1, count)]
    draws = np.array([0.0, *draws])  # the first is the example itself
    np.testing.assert_array_equal(answers.features[:, 0], [(draws + start) % 1 > 0.5 for start in x[:, 0]])
    assert answers.queries.tolist() == [count, count] and sum(map(len, seen)) == 2 * count


def test_label_bits_refuse_a_budget_of_nothing():
    with pytest.raises(ValueError, match="budget=0: expected at least 1 query"):
        measures.label_bits(perturbations.only_itself, 0)


@pytest.mark.parametrize("name", ["noise", "boundary", "rays"])
def test_the_score_of_an_attack_with_a_budget_is_what_it_measured_at_the_end(name):
    attack = attacks.build(name, attacks.AttackContext((6,), 2, None, budget=60))[0]
    features = np.random.default_rng(0).random((10, 1, 4))
    fitted = attack.fit(jax.random.key(0), features, np.zeros(10, int), np.arange(10) < 5)
    np.testing.assert_array_equal(fitted.held_out, features[:, 0, 3])
    np.testing.assert_array_equal(fitted.score(features, np.zeros(10, int)), features[:, 0, 3])
