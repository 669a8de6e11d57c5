"""Defenses do what they say: penalties by hand, an output that never moves a label, names and strengths refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, study
from mi_jax import data, defenses, models, perturbations, training
from mi_jax.types import Recipe

# Logits whose predicted class is easily lost: neighbours in float32, ties, and values that softmax rounds to 0 and 1.
HARD = np.array(
    [
        [0.0, 1e-7, -1e-7],
        [1e-7, 0.0, 0.0],
        [30.0, 30.0, np.nextafter(np.float32(30), np.float32(31))],
        [-1e30, 1e30, 0.0],
        [-3e38, -3e38, -2e38],
        [100.0, -100.0, 99.99999],
        [0.0, 0.0, 0.0],
        [np.finfo(np.float32).max, np.finfo(np.float32).min, 0.0],
    ],
    np.float32,
)


def params_by_hand() -> dict:
    return {
        "Conv_0": {"kernel": jnp.full((3, 3, 1, 2), 7.0), "bias": jnp.full(2, 11.0)},
        "Dense_0": {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.0]]), "bias": jnp.array([5.0, 5.0])},
        "Dense_1": {"kernel": jnp.array([[-0.5], [4.0]]), "bias": jnp.array([9.0])},
    }


def test_l1_adds_the_absolute_dense_kernels_and_nothing_else():
    # |1| + |-2| + |3| + |0| + |-.5| + |4| = 10.5; halves and small whole numbers, so exact in float32.
    assert float(defenses.build("l1:2").penalty(params_by_hand())) == 2 * 10.5


def test_l2_adds_the_squared_dense_kernels_and_nothing_else():
    assert float(defenses.build("l2:2").penalty(params_by_hand())) == 2 * (1 + 4 + 9 + 0.25 + 16)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_penalties_see_every_dense_kernel_of_our_cnn_and_no_convolution(name):
    init = models.build("cnn", (16, 16, 1), 10).init
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    dense = sum(np.prod(shape) for shape in shapes if len(shape) == 2)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    # All weights are 1, so the sum counts them. Sums of ones are whole numbers, exact in float32 below 2^24.
    assert float(defenses.build(f"{name}:1").penalty(ones)) == dense
    assert sum(len(shape) == 4 for shape in shapes) == 4 and sum(len(shape) == 2 for shape in shapes) == 2


def test_a_penalty_of_strength_zero_is_zero():
    assert float(defenses.build("l2:0").penalty(params_by_hand())) == 0


def test_a_large_l2_leaves_smaller_dense_kernels():
    digits, members = data.load("digits"), np.arange(100)[None]
    model = models.build("mlp:16", digits.x.shape[1:], digits.num_classes)
    recipe = Recipe(max_epochs=30)

    def weight(text: str) -> float:
        params, _ = training.train_ensemble(
            jax.random.key(0), model, recipe, digits.x, digits.y, members, penalty=defenses.build(text).penalty
        )
        return sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params) if leaf.shape[1:] and leaf.ndim == 3)

    # Thirty steps of Adam at 1e-3 move a weight by at most about 0.03, each towards zero: from Glorot's mean square
    # of 2/80 (deviation 0.16) that takes a quarter of the sum of squares. Half of that must be seen.
    assert weight("l2:10") < 0.87 * weight("none")


@pytest.mark.parametrize("C", [2, 3, 10, 100, 1000])
def test_memguard_shows_probabilities(C):
    logits = np.random.default_rng(0).normal(size=(50, C)).astype(np.float32) * 20
    shown = np.asarray(defenses.build("memguard").output(jnp.asarray(logits)))
    # Each entry is 1/C to within half an ulp (6e-8 / C) and an ulp of the shift; C of them sum to 1 within 2e-7.
    np.testing.assert_allclose(shown.sum(1, dtype=np.float64), 1, atol=2e-7)
    assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("text", ["memguard", "memguard:1e-6", "memguard:0.5"])
def test_memguard_never_moves_a_label(text):
    output = jax.jit(defenses.build(text).output)
    np.testing.assert_array_equal(output(HARD).argmax(-1), HARD.argmax(-1))
    # Random ties in 1,000 rows of a few values, where the first of the largest is the label.
    tied = np.random.default_rng(1).integers(0, 4, (1000, 10)).astype(np.float32)
    np.testing.assert_array_equal(output(tied).argmax(-1), tied.argmax(-1))


def test_memguard_shows_one_vector_for_each_label_and_no_more():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(500, 10)) * 5, jnp.float32)
    shown = np.asarray(jax.jit(defenses.build("memguard").output)(logits))
    labels = np.asarray(logits.argmax(-1))
    for label in range(10):
        assert len(np.unique(shown[labels == label], axis=0)) == 1
    # The strength is the shift of the predicted class: 1/10 + 1e-3, to the rounding of float32.
    np.testing.assert_allclose(shown.max(1), 0.101, rtol=1e-6)
    np.testing.assert_allclose(shown.min(1), 0.1 - 1e-3 / 9, rtol=1e-6)


@pytest.mark.parametrize("d", range(6))
def test_augmentation_trains_on_what_the_translation_attack_of_the_same_d_asks_about(d):
    defense = defenses.build(f"augmentation:{d}")
    assert defense.expand is perturbations.translate(d)  # one object, so one compiled program
    assert defense._replace(expand=None, name="none") == defenses.Defense()
    x = jnp.zeros((8, 8, 1)).at[4, 4].set(1.0)
    seen = {tuple(np.argwhere(np.asarray(one))[0, :2]) for one in defense.expand(jax.random.key(0), x) if one.any()}
    expected = {(4 + i, 4 + j) for i in range(-d, d + 1) for j in range(-d, d + 1) if abs(i) + abs(j) in (0, d)}
    assert seen == {at for at in expected if max(at) < 8 and min(at) >= 0}


def test_every_model_of_a_study_is_trained_on_the_neighbours_of_its_defense(monkeypatch):
    class Told(Exception):
        pass

    def train_ensemble(*_, expand, **__):
        raise Told(expand)

    monkeypatch.setattr(study.training, "train_ensemble", train_ensemble)
    with pytest.raises(Told) as told:
        study.prepare(common.Config(preset="smoke", defense="augmentation:2"))
    assert told.value.args == (perturbations.translate(2),)


def test_augmentation_of_a_table_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr(study.training, "train_ensemble", None)
    np.savez(tmp_path / "own.npz", x=np.eye(40, 5, dtype=np.float32), y=np.arange(40) % 2)
    config = common.Config(dataset=f"npz:{tmp_path / 'own.npz'}", defense="augmentation:1")
    with pytest.raises(ValueError, match=r"^translate\(1\): example of shape \(5,\), expected an image \[H W C\]"):
        study.prepare(config)


@pytest.mark.parametrize("name", defenses.DEFENSES)
def test_every_defense_builds_by_name_and_is_called_by_it(name):
    defense, default = defenses.build(name), defenses.DEFENSES[name][1]
    assert defense.name == (name if default is None else f"{name}:{default:g}")


def test_a_strength_is_read_after_the_colon():
    assert defenses.build("l2:0.5").name == "l2:0.5"
    assert defenses.build("l1:1e-3").name == "l1:0.001"


def test_no_defense_steps_in_nowhere():
    assert defenses.build("none") == defenses.Defense()


def test_an_unknown_defense_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown defense 'prayer': known are none, l1, l2, memguard"):
        defenses.build("prayer")


@pytest.mark.parametrize("text", ["l2:-1", "l2:x", "l2:", "l2:nan", "l2:inf", "l1:1:2", "none:3", "none:", ":1", ""])
def test_a_bad_strength_is_refused_in_one_line_that_names_it(text):
    with pytest.raises(ValueError) as caught:
        defenses.build(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value) or "unknown defense ''" in str(caught.value)
    assert "expected" in str(caught.value) or "known are" in str(caught.value) or "no strength" in str(caught.value)


@pytest.mark.parametrize("text", ["augmentation:1.5", "augmentation:6", "augmentation:1e300"])
def test_augmentation_refuses_what_is_no_number_of_pixels_of_the_paper(text):
    with pytest.raises(ValueError) as caught:
        defenses.build(text)
    assert str(caught.value) == f"defense augmentation:{float(text[13:]):g}: expected a whole number in 0..5"


@pytest.mark.parametrize("text", ["memguard:0", "memguard:1e-12", "memguard:0.9", "memguard:5"])
def test_memguard_refuses_strengths_that_hide_the_label_or_are_no_probabilities(text):
    """At 0 and below float32's resolution every class ties, and above (C-1)/C the others turn negative."""
    with pytest.raises(ValueError, match=text):
        defenses.build(text)
