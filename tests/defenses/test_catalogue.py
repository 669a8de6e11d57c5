"""Defenses do what they say: penalties by hand, an output that never moves a label, names and strengths refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mi_jax import data, defenses, models, perturbations, privacy, study, training
from mi_jax.defenses import outputs
from mi_jax.models import architectures, pretrained
from mi_jax.querying import oracle
from mi_jax.study.config import Config
from mi_jax.training import checks
from mi_jax.types import Defense, Model, Recipe
from tests.training.test_ensemble import limit_traces

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


MLP = models.build("mlp:16", (8, 8, 1), 10)
TASK = defenses.DefenseContext(50, MLP, (8, 8, 1), 10)
BITS = defenses.DefenseContext(50, models.build("mlp:16", (12,), 4), (12,), 4, np.ones(12, bool))


@pytest.fixture(scope="module", autouse=True)
def a_checkpoint(tmp_path_factory):
    """What transfer begins from in this module, where it looks if nothing is said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        params = MLP.init(jax.random.key(99), jnp.zeros((1, 8, 8, 1)))
        pretrained.save(pretrained.default_path("cifar100", "mlp:16", (8, 8, 1)), params, "cifar100")
        yield params


def params_by_hand() -> dict:
    return {
        "Conv_0": {"kernel": jnp.full((3, 3, 1, 2), 7.0), "bias": jnp.full(2, 11.0)},
        "Dense_0": {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.0]]), "bias": jnp.array([5.0, 5.0])},
        "Dense_1": {"kernel": jnp.array([[-0.5], [4.0]]), "bias": jnp.array([9.0])},
    }


def penalty_of(text: str, params) -> float:
    defense = defenses.build(text)
    return float(defense.penalty(defense.strength, params))


def shown_by(text: str):
    defense = defenses.build(text)
    return jax.jit(lambda logits: defense.output(defense.strength, jax.random.key(0), lambda x: x, logits))


def test_l1_adds_the_absolute_dense_kernels_and_nothing_else():
    # |1| + |-2| + |3| + |0| + |-.5| + |4| = 10.5; halves and small whole numbers, so exact in float32.
    assert penalty_of("l1:2", params_by_hand()) == 2 * 10.5


def test_l2_adds_the_squared_dense_kernels_and_nothing_else():
    assert penalty_of("l2:2", params_by_hand()) == 2 * (1 + 4 + 9 + 0.25 + 16)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_penalties_see_every_dense_kernel_of_our_cnn_and_no_convolution(name):
    init = models.build("cnn", (16, 16, 1), 10).init
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    dense = sum(np.prod(shape) for shape in shapes if len(shape) == 2)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    # All weights are 1, so the sum counts them. Sums of ones are whole numbers, exact in float32 below 2^24.
    assert penalty_of(f"{name}:1", ones) == dense
    assert sum(len(shape) == 4 for shape in shapes) == 4 and sum(len(shape) == 2 for shape in shapes) == 2


@pytest.mark.parametrize("name", ["l1", "l2", "weight_decay"])
def test_a_penalty_does_not_depend_on_the_names_of_layers(name):
    ours = params_by_hand()
    theirs = {"first": ours["Dense_0"]["kernel"], "b": ours["Dense_0"]["bias"], "conv": {"w": ours["Conv_0"]["kernel"]},
              "out": {"weights": ours["Dense_1"]["kernel"], "shift": ours["Dense_1"]["bias"]}}  # fmt: skip
    assert penalty_of(f"{name}:2", theirs) == penalty_of(f"{name}:2", ours) > 0
    with pytest.raises(ValueError, match="^penalty: no parameter of the model has two axes"):
        penalty_of(name, {"scale": jnp.ones(3)})


def test_a_penalty_of_strength_zero_is_zero():
    assert penalty_of("l2:0", params_by_hand()) == 0


def test_a_large_l2_leaves_smaller_dense_kernels():
    digits, members = data.load("digits"), np.arange(100)[None]
    model = models.build("mlp:16", digits.x.shape[1:], digits.num_classes)
    recipe = Recipe(max_epochs=30)

    def weight(text: str) -> float:
        params, _ = training.train_ensemble(
            jax.random.key(0), model, recipe, digits.x, digits.y, members, defense=defenses.build(text)
        )
        return sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params) if leaf.shape[1:] and leaf.ndim == 3)

    # Thirty steps of Adam at 1e-3 move a weight by at most about 0.03, each towards zero: from Glorot's mean square
    # of 2/80 (deviation 0.16) that takes a quarter of the sum of squares. Half of that must be seen.
    assert weight("l2:10") < 0.87 * weight("none")


@pytest.mark.parametrize("C", [2, 3, 10, 100, 1000])
def test_memguard_shows_probabilities(C):
    logits = np.random.default_rng(0).normal(size=(50, C)).astype(np.float32) * 20
    shown = np.asarray(shown_by("memguard")(jnp.asarray(logits)))
    # Each entry is 1/C to within half an ulp (6e-8 / C) and an ulp of the shift; C of them sum to 1 within 2e-7.
    np.testing.assert_allclose(shown.sum(1, dtype=np.float64), 1, atol=2e-7)
    assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("text", ["memguard", "memguard:1e-6", "memguard:0.5"])
def test_memguard_never_moves_a_label(text):
    output = shown_by(text)
    np.testing.assert_array_equal(output(HARD).argmax(-1), HARD.argmax(-1))
    # Random ties in 1,000 rows of a few values, where the first of the largest is the label.
    tied = np.random.default_rng(1).integers(0, 4, (1000, 10)).astype(np.float32)
    np.testing.assert_array_equal(output(tied).argmax(-1), tied.argmax(-1))


def test_memguard_shows_one_vector_for_each_label_and_no_more():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(500, 10)) * 5, jnp.float32)
    shown = np.asarray(shown_by("memguard")(logits))
    labels = np.asarray(logits.argmax(-1))
    for label in range(10):
        assert len(np.unique(shown[labels == label], axis=0)) == 1
    # The strength is the shift of the predicted class: 1/10 + 1e-3, to the rounding of float32.
    np.testing.assert_allclose(shown.max(1), 0.101, rtol=1e-6)
    np.testing.assert_allclose(shown.min(1), 0.1 - 1e-3 / 9, rtol=1e-6)


@pytest.mark.parametrize("d", range(6))
def test_augmentation_trains_on_what_the_translation_attack_of_the_same_d_asks_about(d):
    defense = defenses.build(f"augmentation:{d}")
    assert defense.augmentation is perturbations.translate(d)  # one object, so one compiled program
    assert defense._replace(augmentation=None, name="none") == Defense()
    x = jnp.zeros((8, 8, 1)).at[4, 4].set(1.0)
    seen = {
        tuple(np.argwhere(np.asarray(one))[0, :2]) for one in defense.augmentation(jax.random.key(0), x) if one.any()
    }
    expected = {(4 + i, 4 + j) for i in range(-d, d + 1) for j in range(-d, d + 1) if abs(i) + abs(j) in (0, d)}
    assert seen == {at for at in expected if max(at) < 8 and min(at) >= 0}


def test_every_model_of_a_study_is_trained_on_the_neighbours_of_its_defense(monkeypatch):
    class Told(Exception):
        pass

    def train_ensemble(*_, defense, **__):
        raise Told(defense.augmentation)

    monkeypatch.setattr(training, "train_ensemble", train_ensemble)
    with pytest.raises(Told) as message:
        study.prepare(Config(preset="smoke", defense="augmentation:2"))
    assert message.value.args == (perturbations.translate(2),)


def test_augmentation_of_a_table_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "train_ensemble", None)
    np.savez(tmp_path / "own.npz", x=np.eye(40, 5, dtype=np.float32), y=np.arange(40) % 2)
    config = Config(dataset=f"npz:{tmp_path / 'own.npz'}", defense="augmentation:1")
    with pytest.raises(ValueError, match=r"^translate\(1\): example of shape \(5,\), expected an image \[H W C\]"):
        study.prepare(config)


@pytest.mark.parametrize("name", defenses.DEFENSES)
def test_every_defense_builds_by_name_and_is_called_by_it(name):
    defense, default = defenses.build(name, TASK), defenses.DEFENSES[name].default
    assert defense.name == (name if default is None else f"{name}:{default:g}")


def test_a_strength_is_read_after_the_colon():
    assert defenses.build("l2:0.5").name == "l2:0.5"
    assert defenses.build("l1:1e-3").name == "l1:0.001"


def test_no_defense_steps_in_nowhere():
    assert defenses.build("none") == Defense()


def test_an_unknown_defense_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown defense 'prayer': known are none, l1, l2, l1_all"):
        defenses.build("prayer")


@pytest.mark.parametrize("text", ["l2:-1", "l2:x", "l2:", "l2:nan", "l2:inf", "l1:1:2", "none:3", "none:", ":1", ""])
def test_a_bad_strength_is_refused_in_one_line_that_names_it(text):
    with pytest.raises(ValueError) as caught:
        defenses.build(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value) or "unknown defense ''" in str(caught.value)
    assert "expected" in str(caught.value) or "known are" in str(caught.value) or "no strength" in str(caught.value)


@pytest.mark.parametrize("text", ["augmentation:1.5", "augmentation:6", "augmentation:1e30"])
def test_augmentation_refuses_what_is_no_number_of_pixels_of_the_paper(text):
    with pytest.raises(ValueError) as caught:
        defenses.build(text)
    assert str(caught.value) == f"defense augmentation:{float(text[13:]):g}: expected a whole number in 0..5"


@pytest.mark.parametrize("text", ["memguard:0", "memguard:1e-12", "memguard:0.9", "memguard:5"])
def test_memguard_refuses_strengths_that_hide_the_label_or_are_no_probabilities(text):
    """At 0 and below float32's resolution every class ties, and above (C-1)/C the others turn negative."""
    with pytest.raises(ValueError, match=text):
        defenses.build(text)


def trained(text: str, members=None, **options):
    digits = data.load("digits")
    members = np.arange(50)[None] if members is None else members
    recipe = options.pop("recipe", Recipe(max_epochs=4))
    defense = defenses.build(text, TASK._replace(recipe=recipe))
    return training.train_ensemble(
        jax.random.key(0), MLP, recipe, digits.x, digits.y, members, defense=defense, **options
    )


def test_all_weights_are_in_the_penalties_that_say_so():
    # Besides the dense kernels: 18 sevens, 2 elevens, 5, 5 and 9.
    assert penalty_of("l1_all:2", params_by_hand()) == 2 * (10.5 + 18 * 7 + 22 + 19)
    assert penalty_of("l2_all:2", params_by_hand()) == 2 * (30.25 + 18 * 49 + 242 + 50 + 81)


def test_dropout_zeroes_that_share_of_units_and_keeps_their_mean():
    rate, slots = 0.3, architectures._make_drop(jax.random.key(1), jnp.float32(0.3))
    first, second = (np.asarray(slots(jnp.ones((200, 500)))) for _ in range(2))
    for seen in (first, second):
        zero = (seen == 0).mean()
        assert abs(zero - rate) < 5 * np.sqrt(rate * (1 - rate) / seen.size)
        np.testing.assert_allclose(seen[seen > 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(((first == 0) & (second == 0)).mean() - rate**2) < 0.005  # the slots draw independently


@pytest.mark.parametrize("name, shape", [("mlp:16,8", (8, 8, 1)), ("cnn", (12, 12, 1))])
def test_dropout_is_in_training_alone_and_absent_at_rate_zero(name, shape):
    model = models.build(name, shape, 4)
    x = np.random.default_rng(0).random((3, *shape), np.float32)
    params, key = jax.jit(model.init)(jax.random.key(0), x), jax.random.key(1)

    @jax.jit
    def dropping(rate, key=None):
        return defenses.build("dropout:0.5").model(rate, model).apply(params, x, key)

    plain, trained = jax.jit(model.apply)(params, x), jax.jit(model.apply)(params, x, key)
    np.testing.assert_allclose(dropping(0.5), plain, rtol=1e-5, atol=1e-6)  # two programs
    np.testing.assert_allclose(dropping(0.0, key), trained, rtol=1e-5, atol=1e-6)
    assert not np.allclose(dropping(0.5, key), trained)
    assert not np.allclose(dropping(0.5, key), dropping(0.5, jax.random.key(2)))


def test_a_grid_of_strengths_trains_as_one_ensemble_in_one_program(monkeypatch):
    limit_traces(monkeypatch, 1)
    members, digits = np.arange(60).reshape(2, 30), data.load("digits")
    strengths, recipe = np.float32([0.1, 0.5, 0.9]), Recipe(max_epochs=5, batch_size=16)
    together, history = training.train_ensemble(
        jax.random.key(0), MLP, recipe, digits.x, digits.y, members,
        defense=defenses.build("dropout"), strengths=strengths, models_at_once=1,
    )  # fmt: skip
    assert history.epochs.shape == (3, 2)
    for g, strength in enumerate(strengths):
        alone, _ = trained(f"dropout:{strength}", members, recipe=recipe, models_at_once=1)
        jax.tree.map(lambda a, b, g=g: np.testing.assert_array_equal(a[g], b), together, alone)


def test_transfer_begins_where_the_checkpoint_ended_and_the_last_layer_is_new(a_checkpoint):
    fresh = MLP.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))
    defense = defenses.build("transfer_full", TASK)
    begun = defense.init_params(defense.strength, fresh)
    assert set(begun) == {"Dense_0", "Dense_1"}
    jax.tree.map(np.testing.assert_array_equal, begun["Dense_0"], a_checkpoint["Dense_0"])
    jax.tree.map(np.testing.assert_array_equal, begun["Dense_1"], fresh["Dense_1"])


@pytest.mark.parametrize("text", ["transfer_last", "transfer_last+dp_adam:8", "transfer_last+dp_sgd:8"])
def test_layers_that_stand_still_keep_every_bit_and_the_last_one_does_not(a_checkpoint, text):
    params, _ = trained(text)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), params["Dense_0"], a_checkpoint["Dense_0"])
    assert np.abs(params["Dense_1"]["kernel"][0] - a_checkpoint["Dense_1"]["kernel"]).max() > 0.01


@pytest.mark.parametrize("text", ["transfer_full", "transfer_full+dp_sgd:8"])
def test_full_transfer_moves_all_layers(a_checkpoint, text):
    params, _ = trained(text)
    for layer in ("Dense_0", "Dense_1"):
        assert np.abs(params[layer]["kernel"][0] - a_checkpoint[layer]["kernel"]).max() > 1e-3


@pytest.mark.parametrize(
    "model, message",
    [
        ("mlp:8", r"Dense_0/bias has shape \(16,\), expected \(8,\)"),
        ("mlp:16,16", r"Dense_1/bias has shape \(10,\), expected \(16,\)"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(model, message):
    path = str(pretrained.default_path("cifar100", "mlp:16", (8, 8, 1)))
    context = TASK._replace(model=models.build(model, (8, 8, 1), 10), checkpoint=path)
    with pytest.raises(ValueError, match=message):
        defenses.build("transfer_full", context)


def test_a_checkpoint_of_a_deeper_network_and_one_with_nan_are_refused(tmp_path, a_checkpoint):
    deep, lost = str(tmp_path / "deep.npz"), str(tmp_path / "nan.npz")
    pretrained.save(tmp_path / "deep.npz", models.build("mlp:16,8,4", (8, 8, 1), 10).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1))), "other")  # fmt: skip
    with pytest.raises(ValueError, match="Dense_2/bias has shape .*, expected no such layer in mlp:16"):
        defenses.build("transfer_full", TASK._replace(checkpoint=deep))
    pretrained.save(tmp_path / "nan.npz", jax.tree.map(lambda leaf: leaf * jnp.nan, a_checkpoint), "other")
    with pytest.raises(ValueError, match="Dense_./[a-z]+ is NaN or infinite in part, expected finite numbers"):
        defenses.build("transfer_full", TASK._replace(checkpoint=lost))


def test_a_checkpoint_of_the_very_data_is_refused():
    with pytest.raises(ValueError, match="trained on cifar100 itself, expected one of other data"):
        defenses.build("transfer_last", TASK._replace(dataset="cifar100"))


def test_a_checkpoint_of_the_very_file_is_refused_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrained.save(tmp_path / "own.npz", MLP.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), "npz:mine.npz")
    with pytest.raises(ValueError, match="trained on npz:mine.npz itself"):
        defenses.build("transfer_last", TASK._replace(checkpoint="own.npz", dataset=f"npz:{tmp_path}/mine.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_a_damaged_checkpoint_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "cut.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cut.npz: expected parameters that can be read"):
        defenses.build("transfer_last", TASK._replace(checkpoint=str(tmp_path / "cut.npz")))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda leaf: leaf.astype(str), "Dense_0/bias holds <U32, expected floating-point numbers"),
        (lambda leaf: leaf.astype(int), "Dense_0/bias holds int64, expected floating-point numbers"),
    ],
)
def test_a_checkpoint_of_anything_but_floating_point_numbers_is_refused(change, named, tmp_path, a_checkpoint):
    pretrained.save(tmp_path / "odd.npz", jax.tree.map(lambda leaf: change(np.asarray(leaf)), a_checkpoint), "other")
    with pytest.raises(ValueError, match=named):
        defenses.build("transfer_full", TASK._replace(checkpoint=str(tmp_path / "odd.npz")))


def test_a_checkpoint_with_a_name_that_is_both_layer_and_leaf_is_refused(tmp_path):
    np.savez(tmp_path / "both.npz", **{"Dense_0": np.zeros(2), "Dense_0/kernel": np.zeros(2), "source": "other"})
    with pytest.raises(ValueError, match="both.npz: expected parameters that can be read"):
        defenses.build("transfer_full", TASK._replace(checkpoint=str(tmp_path / "both.npz")))


def test_a_checkpoint_that_is_not_there_is_refused_with_the_way_to_one(tmp_path):
    with pytest.raises(ValueError, match="none.npz: expected parameters that can be read; in a checkout, python"):
        defenses.build("transfer_last", TASK._replace(checkpoint=str(tmp_path / "none.npz")))


def test_privacy_solves_the_noise_for_the_steps_that_are_trained():
    defense = defenses.build("dp_sgd:5", TASK)
    mechanism = defenses.defense_mechanism(defense)
    assert 0.99 * 5 <= privacy.epsilon(mechanism) <= 5 and mechanism.delta == 1 / 50
    assert mechanism.steps == defense.recipe(Recipe()).max_epochs * -(-50 // mechanism.expected)
    _, history = trained("dp_sgd:5")
    assert history.epochs[0] == defense.recipe(Recipe()).max_epochs


@pytest.mark.parametrize("change, named", [({"patience": 20}, "patience=20"), ({"max_epochs": 7}, "steps=7 as in"),
                                           ({"batch_size": 10}, "expected=10")])  # fmt: skip
def test_a_training_that_epsilon_was_not_computed_for_is_refused(change, named):
    digits, defense = data.load("digits"), defenses.build("dp_sgd:5", TASK)
    other = defense._replace(recipe=lambda recipe: defense.recipe(recipe)._replace(**change))
    with pytest.raises(ValueError, match=named):
        training.train_ensemble(
            jax.random.key(0), MLP, Recipe(), digits.x, digits.y, np.arange(50)[None], defense=other
        )


def of_numbers(clip, noise, recipe=Recipe(50, 0.5, 5, patience=None, optimizer="sgd")):
    """A private training on all 50 rows in every step."""
    return defenses.private_training(defenses.mechanism_for(50, recipe, clip=clip, noise=noise), recipe)


def test_private_training_without_clip_and_noise_is_plain_training():
    digits, recipe = data.load("digits"), Recipe(50, 0.5, 5, patience=None, optimizer="sgd")
    rows = (jax.random.key(0), MLP, recipe, digits.x, digits.y, np.arange(50)[None])
    plain, _ = training.train_ensemble(*rows)
    private, _ = training.train_ensemble(*rows, defense=of_numbers(np.inf, 0.0))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(private), strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


def test_clips_and_noises_of_a_grid_are_those_trained_alone():
    digits, grid = data.load("digits"), {"clip": np.float32([0.1, 1.0]), "noise": np.float32([0.5, 2.0])}
    rows = (jax.random.key(0), MLP, Recipe(), digits.x, digits.y, np.arange(50)[None])
    together, _ = training.train_ensemble(*rows, defense=of_numbers(1.0, 1.0), strengths=grid)
    for g, (clip, noise) in enumerate(zip(grid["clip"], grid["noise"], strict=True)):
        alone, _ = training.train_ensemble(*rows, defense=of_numbers(float(clip), float(noise)))
        jax.tree.map(lambda a, b, g=g: np.testing.assert_allclose(a[g], b, atol=1e-5), together, alone)


@pytest.mark.parametrize(
    "name, value", [("clip", -1.0), ("clip", 0.0), ("clip", np.inf), ("noise", -1.0), ("noise", np.nan)]
)
def test_a_clip_or_noise_that_makes_no_sense_is_refused_wherever_it_comes_from(name, value):
    digits, numbers = data.load("digits"), {"clip": 1.0, "noise": 1.0}
    rows = (jax.random.key(0), MLP, Recipe(), digits.x, digits.y, np.arange(50)[None])
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        training.train_ensemble(*rows, defense=of_numbers(**numbers | {name: value}))
    grid = {k: np.float32([v, value if k == name else v]) for k, v in numbers.items()}
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        training.train_ensemble(*rows, defense=of_numbers(**numbers), strengths=grid)


@pytest.mark.parametrize("changes", [{"clip": 1e-300}, {"clip": 1e39}, {"noise": 1e39}])
def test_a_clip_or_noise_that_float32_loses_is_refused(changes):
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value}: expected")):
        privacy.check_mechanism(privacy.Mechanism(50, 10, 5, **{"clip": 1.0, "noise": 1.0} | changes, delta=0.01))


@pytest.mark.parametrize("text", ["l2:1e39", "l2:-1", "l2:nan", "l2:inf"])
def test_a_strength_that_is_not_a_number_to_train_with_is_refused(text):
    with pytest.raises(ValueError, match=f"^defense {text!r}: expected a strength >= 0 that is finite in float32"):
        defenses.build(text)


def test_a_layer_that_nothing_but_noise_would_move_is_refused_under_privacy():
    def apply(params, x, key=None):
        return MLP.apply({**params, "Dense_0": jax.lax.stop_gradient(params["Dense_0"])}, x, key)

    digits, still = data.load("digits"), MLP._replace(apply=apply)
    defense, rows = defenses.build("dp_sgd:5", TASK), np.arange(50)[None]
    message = "Dense_0/bias, Dense_0/kernel without a gradient, expected such layers in `frozen`"
    with pytest.raises(ValueError, match=message):
        training.train_ensemble(jax.random.key(0), still, Recipe(), digits.x, digits.y, rows, defense=defense)


@pytest.mark.parametrize("name", ["mlp:1", "mlp:2,1", "cnn", "wide_resnet:10,1"])
def test_layers_of_few_units_or_many_are_taken_for_what_examples_move(name):
    model = models.build(name, (16, 16, 3), 10)
    checks.check_layers_learn(model, (16, 16, 3), jax.random.key(0))


def test_a_model_whose_rows_see_each_other_is_refused_under_privacy():
    def apply(params, x, key=None):
        return MLP.apply(params, x - x.mean(0), key)

    digits, coupled = data.load("digits"), MLP._replace(apply=apply)
    defense = defenses.build("dp_sgd:5", TASK)
    with pytest.raises(ValueError, match="rows of a batch change a row's logits"):
        training.train_ensemble(
            jax.random.key(0), coupled, Recipe(), digits.x, digits.y, np.arange(50)[None], defense=defense
        )


def begun_silent(key, x):
    """The parameters of a model whose first logits are all zero, whatever it is shown."""
    params = MLP.init(key, x)
    return params | {"Dense_1": jax.tree.map(jnp.zeros_like, params["Dense_1"])}


def masked_by_place(params, x, key=None):
    mask = 1.0 if key is None else jax.random.bernoulli(key, 0.5, x.shape)
    return MLP.apply(params, x * mask, key)


@pytest.mark.parametrize(
    "change, named",
    [
        (
            {"init": begun_silent, "apply": lambda params, x, key=None: MLP.apply(params, x - x.mean(0), key)},
            "other rows",
        ),
        ({"apply": masked_by_place}, "positions"),
    ],
)
def test_a_model_that_hides_how_its_rows_see_each_other_is_refused_under_privacy(change, named):
    digits, defense = data.load("digits"), defenses.build("dp_sgd:5", TASK)
    with pytest.raises(ValueError, match=f"privacy: {named} .* change a row's logits"):
        training.train_ensemble(jax.random.key(0), MLP._replace(**change), Recipe(), digits.x, digits.y,
                                np.arange(50)[None], defense=defense)  # fmt: skip


def test_poisson_samples_of_rows_that_all_have_nan_leave_fresh_noise_alone():
    """What is left of a private training in which no example counts: the sum of one independent noise a step."""
    x, y = np.full((40, 8, 8, 1), np.nan, np.float32), np.zeros(40, int)
    recipe = Recipe(5, 1.0, 4, patience=None, optimizer="sgd")
    defense, members = defenses.private_training(defenses.mechanism_for(20, recipe, clip=2, noise=3.0), recipe), 2
    plan = defenses.mechanism_for(20, recipe)
    assert (privacy.sampling_rate(plan), plan.steps) == (0.25, 16)
    rows = np.arange(40).reshape(members, 20)
    params, history = training.train_ensemble(jax.random.key(0), MLP, recipe, x, y, rows, defense=defense)
    for k in range(members):
        first = MLP.init(jax.random.split(jax.random.fold_in(jax.random.key(0), k))[0], x[:1])
        moved = jax.tree.map(lambda end, begin, k=k: np.ravel(end[k] - begin), params, first)
        moved = np.concatenate(jax.tree.leaves(moved))
        # sigma C / (expected batch), 16 times: a key used twice would double the variance, and none would be none.
        variance = 16 * (3.0 * 2 / 5) ** 2
        low, high = stats.chi2.interval(1 - 1e-6, len(moved))
        assert low <= (moved**2).sum() / variance <= high
        assert 40 < history.dropped[k] < 120  # 5 are sampled in each of 16 steps; the rest of a batch is padding


def test_private_training_that_loses_its_numbers_ends_in_one_line():
    digits, recipe = data.load("digits"), Recipe(50, 1e30, 12, patience=None, optimizer="sgd")
    defense = defenses.private_training(defenses.mechanism_for(50, recipe), recipe)._replace(penalty=lambda _, p: sum(
        jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)))  # fmt: skip
    with pytest.raises(ValueError, match="member 0: the training loss is nan"):
        training.train_ensemble(
            jax.random.key(0), MLP, recipe, digits.x, digits.y, np.arange(50)[None], defense=defense
        )


def test_private_members_of_an_ensemble_are_those_trained_alone():
    members = np.arange(100).reshape(2, 50)
    together, _ = trained("dp_sgd:5", members, models_at_once=2)
    alone, _ = trained("dp_sgd:5", members, models_at_once=1)
    # Rounding of sums in another order, through 30 steps of 0.5.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), together, alone)


@pytest.mark.parametrize("bad", [0, 7])
def test_an_example_with_nan_is_dropped_from_private_gradients_and_counted(bad):
    digits, defense = data.load("digits"), defenses.build("dp_sgd:5", TASK)
    x = digits.x.copy()
    x[bad] = np.nan
    params, history = training.train_ensemble(
        jax.random.key(0), MLP, Recipe(), x, digits.y, np.arange(50)[None], defense=defense
    )
    # Every row is in every sample: the batch is as large as the training set, so the rate is 1.
    assert history.dropped[0] == defenses.defense_mechanism(defense).steps
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_adversarial_regularisation_lets_its_attacker_weigh_on_the_loss():
    reference, recipe = np.arange(50, 100)[None], Recipe(max_epochs=30)
    free, _ = trained("adversarial:0", recipe=recipe, reference=reference)
    held, _ = trained("adversarial:5", recipe=recipe, reference=reference)  # the same program
    assert max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (held, free)), strict=True)) > 1e-2


def test_the_attacker_of_adversarial_regularisation_is_trained():
    adversary = defenses.build("adversarial:1").adversary
    state = adversary.init(jax.random.key(0), 3)
    y = jnp.array([0, 1, 2, 0])
    sure, unsure, weight = 8 * jax.nn.one_hot(y, 3), jnp.zeros((4, 3)), jnp.ones(4)
    learn = jax.jit(adversary.update)
    for _ in range(50):
        state = learn(state, (sure, y, weight), (unsure, y, weight))
    message = [np.asarray(adversary.loss(1.0, state, logits, y)) for logits in (sure, unsure)]
    assert message[0].min() > np.log(0.9) and message[1].max() < np.log(0.1)  # log h(member) of members and of others


def test_adversarial_regularisation_without_reference_rows_is_refused():
    with pytest.raises(ValueError, match="reference: no rows, expected"):
        trained("adversarial:1")


@pytest.mark.parametrize("text", ["top_k:1", "top_k:3", "top_k:50", "rounding:0", "rounding:1", "rounding:3"])
def test_masked_confidences_are_probabilities_that_never_move_a_label(text):
    shown = shown_by(text)
    np.testing.assert_array_equal(shown(HARD).argmax(-1), HARD.argmax(-1))
    logits = np.random.default_rng(1).integers(0, 4, (1000, 10)).astype(np.float32)
    seen = np.asarray(shown(logits))
    np.testing.assert_array_equal(seen.argmax(-1), logits.argmax(-1))
    np.testing.assert_allclose(seen.sum(1), 1, atol=1e-5)


def test_top_k_shows_k_classes_and_rounding_few_values():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(200, 10)), jnp.float32)
    assert set((np.asarray(shown_by("top_k:3")(logits)) > 0).sum(1)) == {3}
    one = np.asarray(shown_by("rounding:1")(logits))
    sums = np.round(np.asarray(jax.nn.softmax(logits)), 1).sum(1)
    tenths = 10 * one * sums[:, None]
    np.testing.assert_allclose(tenths, np.round(tenths), atol=1e-4)


@pytest.mark.parametrize("text", ["memguard:0.001", "top_k:1", "top_k:3", "rounding:0", "rounding:1"])
def test_an_answer_that_is_no_number_is_not_made_one(text):
    logits = np.float32([[np.nan, 0, 1], [0, 1, np.nan], [0, 1, 2]])
    shown = np.asarray(shown_by(text)(logits))
    assert np.isnan(shown[:2]).any(1).all() and not np.isnan(shown[2]).any()


def noisy_line(x):
    """Logits of a line through the middle of a grey example: noise turns about half of its labels."""
    return jnp.stack([x.reshape(len(x), -1).mean(1) - 0.5, jnp.zeros(len(x))], -1)


def test_ldl_answers_a_query_equally_at_every_position_and_fresh_noise_does_not():
    x = jnp.asarray(0.5 + 0.001 * np.random.default_rng(0).normal(size=(200, 8, 8, 1)), jnp.float32)
    model = Model(None, lambda params, x, key=None: noisy_line(x), "line")
    fixed, fresh = (
        oracle.model_oracle(model, (), 2, defense=defenses.build(name, TASK)) for name in ("ldl", "ldl_fresh")
    )
    labels = np.asarray(fixed.answer(x, 200))
    np.testing.assert_array_equal(fixed.answer(x[::-1], 200)[::-1], labels)
    np.testing.assert_array_equal(fixed.answer(x[3:4], 1), labels[3:4])
    assert 0.3 < labels.mean() < 0.7
    first, second = np.asarray(fresh.answer(x, 200)), np.asarray(fresh.answer(x, 200))
    assert 0.2 < (first != second).mean() < 0.8 and not np.array_equal(first, first[0] * np.ones_like(first))


@pytest.mark.parametrize("columns", [12, 446])
def test_ldl_draws_anew_for_every_question_of_bits(columns):
    x = np.random.default_rng(0).integers(0, 2, (2000, columns))
    x = np.unique(np.concatenate([x, x ^ (np.arange(columns) == 3), x ^ np.isin(np.arange(columns), (2, 7))]), axis=0)
    seen = np.asarray(outputs._hash_examples(jnp.asarray(x, jnp.float32)))
    assert len(np.unique(seen)) >= len(x) - 3  # of 6,000 random numbers of 32 bits two may be the same


def test_double_dip_is_transfer_and_ldl():
    defense = defenses.build("double_dip:0.2", TASK)
    assert defense.name == "double_dip:0.2" and defense.init_params is not None and defense.output is not None
    assert defense.frozen is None and defense.strength[1] == 0.2


def test_ldl_of_strength_zero_is_the_label_itself():
    logits_of = functools.partial(MLP.apply, MLP.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    x = jnp.asarray(data.load("digits").x[:50])
    defense = defenses.build("ldl:0", TASK)
    shown = defense.output(defense.strength, jax.random.key(0), logits_of, x)
    np.testing.assert_array_equal(shown.argmax(-1), logits_of(x).argmax(-1))
    assert set(np.unique(shown)) == {0.0, 1.0}


def test_ldl_flips_bits_of_a_binary_table():
    seen = []

    def predict(x):
        seen.append(x)
        return x[:, :4]

    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (40, 12)), jnp.float32)
    defense = defenses.build("ldl:0.25", BITS)
    with jax.disable_jit():
        defense.output(defense.strength, jax.random.key(0), predict, x)
    copies = np.stack(seen)
    assert set(np.unique(copies)) == {0.0, 1.0}
    assert abs((copies != np.asarray(x)).mean() - 0.25) < 5 * np.sqrt(0.1875 / copies.size)


def test_two_defenses_are_both_there():
    both = defenses.build("l2:0.5+dropout:0.25")
    assert both.name == "l2:0.5+dropout:0.25" and both.strength == (0.5, 0.25)
    assert float(both.penalty(both.strength, params_by_hand())) == penalty_of("l2:0.5", params_by_hand())
    assert both.model is not None and both.output is None
    again = defenses.build("l2:0.75+dropout:0.25")
    assert again.penalty is both.penalty  # one compiled program for all strengths of the pair


@pytest.mark.parametrize(
    "text, named",
    [
        ("l1:1+l2:1", "l1:1+l2:1: both set the field 'penalty'"),
        ("memguard+ldl:0.1", "both set the field 'output'"),
        ("dp_sgd:8+dp_adam:8", "both set the field 'recipe'"),
        ("dp_sgd:8+augmentation:1", "each neighbour of a row would be clipped separately"),
        ("dp_sgd:8+dropout:0.5", "dropout draws by a row's position in the batch"),
        ("adversarial:1+dp_adam:8", "the attack network compares rows, but private gradients"),
        ("adversarial:1+augmentation:1", "the attack network would recognise augmented images"),
        ("transfer_last+augmentation:1", "frozen layers see each row once"),
        ("transfer_last+dropout:0.5", "frozen layers see each row once"),
        ("transfer_last+transfer_full", "both say with which layers training begins"),
        ("none+prayer", "unknown defense 'prayer'"),
        ("l2:1+", "unknown defense ''"),
    ],
)
def test_two_defenses_that_cannot_be_are_refused_in_one_line(text, named):
    with pytest.raises(ValueError) as caught:
        defenses.build(text, TASK)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_the_plus_of_an_exponent_is_no_second_defense():
    assert defenses.build("l2:1e+1").name == "l2:10"


@pytest.mark.parametrize("text", ["dropout:1", "dropout:1.5", "top_k:0", "top_k:1.5", "rounding:7", "rounding:0.5"])
def test_strengths_outside_of_their_range_are_refused(text):
    with pytest.raises(ValueError, match=f"^defense {text}: expected"):
        defenses.build(text)


@pytest.mark.parametrize("change, named", [
    ({"clip": 0.0}, "clip=0.0: expected more than 0"),
    ({"delta": 0.1}, "delta=0.1: expected more than 0 and at most 1/50; at 1/n, the paper's value,"),
    ({"delta": 0.0}, "delta=0.0"),
])  # fmt: skip
def test_privacy_that_makes_no_sense_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        defenses.build("dp_sgd:8", TASK._replace(**change))


def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(ValueError, match="target epsilon 0.0001: expected one that a noise multiplier in"):
        defenses.build("dp_sgd:0.0001", TASK)
    with pytest.raises(ValueError, match="target epsilon 0"):
        defenses.build("dp_sgd:0", TASK)


def test_rows_that_fill_up_a_batch_do_not_weigh_on_the_adversary():
    adversary, y = defenses.build("adversarial:1").adversary, jnp.array([0, 1, 2, 0])
    state, weight = adversary.init(jax.random.key(0), 3), jnp.array([1.0, 1.0, 1.0, 0.0])
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    reference = (jnp.zeros((4, 3)), y, jnp.ones(4))
    update = jax.jit(adversary.update)
    one, other = (update(state, (x, y, weight), reference) for x in (logits, logits.at[3].set(9.0)))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_composed_adversary_takes_its_own_strength():
    alone = defenses.build("adversarial:2").adversary
    both = defenses.compose(defenses.build("l2:5"), defenses.build("adversarial:2"))
    logits, y = jnp.array([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), jnp.array([0, 1])
    state = alone.init(jax.random.key(0), 3)
    np.testing.assert_array_equal(
        both.adversary.loss(both.strength, state, logits, y), alone.loss(2.0, state, logits, y)
    )
