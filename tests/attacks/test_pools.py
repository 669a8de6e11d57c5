"""Pools of questions: the same for every model, in the units of the data, and as many as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax import attacks, perturbations
from mi_jax.attacks import pools
from mi_jax.types import Pool

IMAGE = attacks.AttackContext((6, 6, 1), 3, None, budget=10)
BITS = attacks.AttackContext((12,), 3, np.ones(12, bool), budget=10)
MIXED = attacks.AttackContext((12,), 3, np.arange(12) < 8, 10, np.where(np.arange(12) < 8, 0.0, 0.1), 0.0, 1.0)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    monkeypatch.setattr(pools, "COPIES", 40)


def asked(pool: Pool, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda x: pools.questions(pool, x))(x))


def example(context: attacks.AttackContext) -> np.ndarray:
    x = RNG.random(context.example_shape)
    return (x if context.binary is None else np.where(context.binary, x < 0.5, x)).astype(np.float32)


@pytest.mark.parametrize("context", [IMAGE, BITS, MIXED], ids=["image", "bits", "mixed"])
def test_questions_are_as_many_as_the_counts_say_the_example_first_and_all_in_range(context):
    pool, x = pools.pool_of(context), example(context)
    found = asked(pool, x)
    assert len(pool.kinds) == len(pool.make) == len(pool.counts)
    assert found.shape == (sum(pool.counts), *x.shape) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0], x)
    assert found.min() >= 0 and found.max() <= 1
    if context.binary is not None:
        assert np.isin(found[:, context.binary], (0, 1)).all()


def test_questions_about_an_example_are_the_same_in_any_company():
    pool, x = pools.pool_of(MIXED), np.stack([example(MIXED) for _ in range(5)])
    every = jax.jit(jax.vmap(lambda x: pools.questions(pool, x)))
    whole = np.asarray(every(x))
    np.testing.assert_array_equal(np.asarray(every(x[::-1])), whole[::-1])
    np.testing.assert_array_equal(np.asarray(every(x[1:3])), whole[1:3])


def test_copies_of_one_strength_differ_and_those_of_two_strengths_are_drawn_separately():
    pool = pools.pool_of(IMAGE)
    change = asked(pool, np.full((6, 6, 1), 0.5, np.float32)) - 0.5
    spans = np.split(change, np.cumsum(pool.counts)[:-1])
    weak, strong = spans[-3] / 0.05, spans[-2] / 0.1  # where nothing is clipped, sigma times the same normal or not
    assert len(np.unique(weak, axis=0)) == len(weak) and not np.allclose(weak, strong, atol=0.01)


def test_noise_has_the_strengths_its_kinds_name():
    pool = pools.pool_of(IMAGE)
    change = asked(pool, np.full((6, 6, 1), 0.5, np.float32)) - 0.5
    for kind, span in zip(pool.kinds[-3:], np.split(change, np.cumsum(pool.counts)[:-1])[-3:], strict=True):
        name, sigma = kind.rsplit(" ", 1)
        assert name == "noise sigma"
        assert span.std() == pytest.approx(float(sigma), rel=0.06)  # 1,440 normals, 3 deviations: 5.6 %


def test_bits_flip_with_the_probabilities_that_kinds_name():
    wide = BITS._replace(example_shape=(100,), binary=np.ones(100, bool))
    pool, x = pools.pool_of(wide), np.zeros(100, np.float32)
    for kind, span in zip(pool.kinds[-3:], np.split(asked(pool, x), np.cumsum(pool.counts)[:-1])[-3:], strict=True):
        p = float(kind.rsplit(" ", 1)[1])
        assert span.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / span.size))


def test_data_a_hundred_times_smaller_have_noise_a_hundred_times_smaller():
    small, x = IMAGE._replace(spread=0.01, low=0.0, high=0.01), np.full((6, 6, 1), 0.5, np.float32)
    plain, scaled = pools.pool_of(IMAGE), pools.pool_of(small)
    noise = slice(-sum(plain.counts[-3:]), None)
    np.testing.assert_allclose(100 * asked(scaled, x / 100)[noise], asked(plain, x)[noise], atol=1e-5)


def test_equal_contexts_have_equal_pools_which_models_answer_once():
    again = attacks.AttackContext((12,), 3, np.arange(12) < 8, 10, np.where(np.arange(12) < 8, 0.0, 0.1), 0.0, 1.0)
    one, other = pools.pool_of(MIXED), pools.pool_of(again)
    assert one == other and hash(one) == hash(other)
    assert pools.pool_of(MIXED, budget=25) == one  # a third of it is less than there are
    assert pools.pool_of(MIXED._replace(high=0.5)) != one != pools.pool_of(MIXED, budget=300)
    assert pools.line(MIXED, 5) == pools.line(again, 5) != pools.line(MIXED, 6)


@pytest.mark.parametrize("budget", [1, 120, 121, 1000])
def test_there_are_enough_noisy_copies_for_a_budget(budget):
    pool = pools.pool_of(BITS, budget=budget)
    copies = [pool.counts[kind] for kind in pools.kinds_named(pool, "noise")]
    assert len(set(copies)) == 1 and sum(copies) >= budget and copies[0] >= 40


def test_kinds_are_found_by_their_first_word_alone():
    pool = Pool(("itself", "noise p 0.1", "noisy 3", "noise p 0.2"), (None,) * 4, (1, 2, 3, 4))  # type: ignore[arg-type]
    assert pools.kinds_named(pool, "noise") == (1, 3) and pools.kinds_named(pool, "p") == ()


def test_a_named_family_comes_at_every_strength_without_noise_and_the_example_once():
    pool, family = pools.pool_of(IMAGE, ("translation",)), perturbations.PERTURBATIONS["translation"]
    x = example(IMAGE)
    assert pool.kinds == ("itself", *(f"translation {strength}" for strength in family.grid))
    found = asked(pool, x)
    assert (found == x).all((1, 2, 3)).sum() == 1
    expected = [np.asarray(family.make(strength)(jax.random.key(0), x))[1:] for strength in family.grid]
    np.testing.assert_array_equal(found[1:], np.concatenate(expected))


def test_families_of_images_are_left_out_of_the_pool_of_a_table_but_not_if_they_are_named():
    assert {kind.split()[0] for kind in pools.pool_of(BITS).kinds} == {"itself", "noise"}
    assert {kind.split()[0] for kind in pools.pool_of(IMAGE).kinds} >= {"rotation", "translation"}
    with pytest.raises(Exception, match="rotat"):
        pools.pool_of(BITS, ("rotation",))


def test_a_line_starts_at_the_example_and_approaches_the_highest_values_evenly():
    context, x = MIXED._replace(high=np.linspace(0.5, 1, 12)), example(MIXED)
    found = asked(pools.line(context, 5), x)
    high = np.linspace(0.5, 1, 12, dtype=np.float32)
    np.testing.assert_array_equal(found[0], x)
    for i, point in enumerate(found):
        np.testing.assert_allclose(point, x + i / 5 * (high - x), atol=1e-6)


def test_a_perturbation_of_a_user_enters_the_pool_at_its_default_strength(monkeypatch):
    def darker(strength):
        return lambda key, x: jnp.stack([x, x * strength])

    family = perturbations.PERTURBATIONS["translation"]._replace(make=darker, grid=(0.5, 0.9), default=0.9)
    monkeypatch.setitem(perturbations.PERTURBATIONS, "darker", family)
    pool, x = pools.pool_of(BITS), np.ones(12, np.float32)
    assert "darker 0.9" in pool.kinds and "darker 0.5" not in pool.kinds
    np.testing.assert_allclose(asked(pool, x)[1], np.full(12, 0.9), rtol=1e-6)
