"""What training refuses before its first step: settings that do not fit together, and promises a model would break.

Under privacy what is computed must be what epsilon was computed for, each row answered for itself and every layer
moved by some example; frozen layers must be those of the model.
"""

from typing import Any

import jax
import numpy as np

from mi_jax import privacy
from mi_jax.models import heads
from mi_jax.training import batches, steps
from mi_jax.types import Array, Defense, Model, Params, Recipe

_EXCLUSIVE = {  # two fields of a Defense that cannot both be set -> why
    (
        "mechanism",
        "augmentation",
    ): "every neighbour of a row would be clipped for itself, and epsilon is for a row that counts once",
    ("mechanism", "adversary"): "the attack network compares rows, and privacy clips them one by one",
    ("mechanism", "model"): "what is drawn for a row in training, as by dropout, goes by its place among the others, "
    "and privacy takes rows one by one",
    ("adversary", "augmentation"): "the attack network would recognise augmented images, expected plain ones",
    ("frozen", "augmentation"): "frozen layers see each row once, expected no new neighbours each epoch",
    ("frozen", "model"): "frozen layers see each row once, expected nothing drawn anew in each step",
    ("frozen", "init_params"): "both say with which layers training begins",
}


def fields_set(defense: Defense) -> set[str]:
    """The fields of a defense that hold a function."""
    return {field for field in Defense._fields[2:-1] if getattr(defense, field) is not None}


def check_exclusive(name: str, fields: set[str]) -> None:
    """ValueError for two fields that cannot both be set, by whatever is called `name`."""
    for pair, why in _EXCLUSIVE.items():
        if fields.issuperset(pair):
            raise ValueError(f"defense {name}: {why}")


def check_training(
    spec: steps.TrainSpec, x_pool: Array, y_pool: Array, inputs: steps.MemberInputs, strengths: Any = None
) -> None:
    """ValueError, naming the value, for arguments of `training.train_ensemble` that do not fit together.

    `inputs`: rows and reference of all members, [K n] and [K m], and the defense's strength.
    """
    members, (model, recipe, defense) = inputs.rows, spec
    _check_members(members, x_pool, y_pool)
    check_exclusive("in training", fields_set(defense))
    _check_recipe(recipe)
    _check_labels(model, x_pool, np.asarray(y_pool)[members])
    _check_augmentation(defense, x_pool.shape[1:])
    if defense.adversary is not None and not inputs.reference.shape[-1]:
        raise ValueError("reference: no rows, expected those that the adversary of the defense compares members with")
    if defense.mechanism is not None:
        _check_private(spec, x_pool, members, inputs.strength)
        if strengths is not None:
            privacy.check_mechanism(defense.mechanism(strengths))


def _check_members(members: Array, x_pool: Array, y_pool: Array) -> None:
    if members.ndim != 2 or not np.issubdtype(members.dtype, np.integer) or 0 in members.shape:
        shape = f"{members.dtype} of shape {members.shape}"
        raise ValueError(f"members: {shape}, expected integers [K n] with at least one model and one row")
    if len(x_pool) != len(y_pool):
        raise ValueError(f"x_pool has {len(x_pool)} rows and y_pool {len(y_pool)}: expected as many labels as rows")
    if members.min() < 0 or members.max() >= len(x_pool):
        outside = f"{members.min()}..{members.max()}"
        raise ValueError(f"members: rows {outside}, expected rows of the pool, 0..{len(x_pool) - 1}")


def _check_recipe(recipe: Recipe) -> None:
    for name in ("batch_size", "max_epochs", "learning_rate"):
        if not 0 < getattr(recipe, name) < np.inf:
            raise ValueError(f"recipe: {name}={getattr(recipe, name)}, expected more than 0 and finite")
    if recipe.optimizer not in steps.OPTIMIZERS:
        raise ValueError(f"recipe: optimizer={recipe.optimizer!r}, expected one of {', '.join(steps.OPTIMIZERS)}")


def _check_augmentation(defense: Defense, example_shape: tuple[int, ...]) -> None:
    if defense.augmentation is None:
        return
    shape = batches.neighbours_shape(defense.augmentation, example_shape)
    if shape[1:] != example_shape or shape[:1] < (1,):
        example = ", ".join(map(str, example_shape))
        raise ValueError(f"augmentation: returned shape {shape}, expected (M, {example}) with M >= 1")


def _check_private(spec: steps.TrainSpec, x_pool: Array, members: np.ndarray, strength: Any) -> None:
    """What is computed must be what epsilon was computed for."""
    if spec.recipe.patience is not None:
        raise ValueError(f"recipe: patience={spec.recipe.patience}, expected None: a stop by the loss is not private")
    mechanism, n = spec.defense.mechanism(strength), members.shape[1]
    epochs = spec.recipe.max_epochs
    trained = (n, min(spec.recipe.batch_size, n), epochs * steps.epoch_sizes(spec, n, x_pool).steps)
    if trained != mechanism[:3]:
        given, wanted = ("rows={}, expected={}, steps={}".format(*sizes) for sizes in (mechanism[:3], trained))
        raise ValueError(f"privacy: {given}, expected {wanted} as trained")
    privacy.check_mechanism(mechanism)
    _check_rows_independent("privacy", spec.model, x_pool.shape[1:], jax.random.key(0))
    check_all_learn(spec.model, x_pool.shape[1:], jax.random.key(0))


def check_all_learn(model: Model, example_shape: tuple[int, ...], key: jax.Array) -> None:
    """ValueError for a model with parameters that no example moves in training mode: under privacy noise would."""

    def first_class(params, x, share):
        return (jax.nn.softmax(model.apply(params, x, key)).T @ share)[0]

    silent = None
    for seed in range(3):  # a layer of few units may be silent for some parameters
        random = np.random.default_rng(seed)
        x, share = random.standard_normal((8, *example_shape), np.float32), random.random(8, np.float32)
        gradient = jax.grad(first_class)(_random_parameters(model, example_shape, random), x, share)
        unmoved = {jax.tree_util.keystr(path, simple=True, separator="/")
                   for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not np.any(leaf)}  # fmt: skip
        silent = unmoved if silent is None else silent & unmoved
        if not silent:
            return
    unmoved = f"no example moves {', '.join(sorted(silent))}"
    raise ValueError(f"privacy: {unmoved}, expected such layers in `frozen`, where no noise is added")


def _random_parameters(model: Model, example_shape: tuple[int, ...], random: np.random.Generator) -> Params:
    """No leaf as `init` has it: a last layer of zeros would hide everything before it."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *example_shape), np.float32))
    return jax.tree.map(lambda leaf: 0.1 * random.standard_normal(leaf.shape, np.float32), shapes)


def _check_rows_independent(name: str, model: Model, example_shape: tuple[int, ...], key: jax.Array | None) -> None:
    """ValueError where other examples or its place in the batch change an example's logits; with a key, in training."""
    random = np.random.default_rng(0)
    a, b, c = random.random((3, *example_shape), np.float32)
    params = _random_parameters(model, example_shape, random)
    first, other, moved = (model.apply(params, np.stack(x), key) for x in ([a, b], [a, c], [b, a]))
    for seen, what in ((other[0], "rows of a batch"), (moved[1], "places in a batch")):
        if not np.allclose(first[0], seen, rtol=1e-4, atol=1e-5):
            raise ValueError(f"{name}: {what} change a row's logits, expected a model that answers each row alone")


def _check_labels(model: Model, x_pool: Array, labels: np.ndarray) -> None:
    def logits_of(key, x):
        return model.apply(model.init(key, x), x)

    num_classes = jax.eval_shape(logits_of, jax.random.key(0), x_pool[:1]).shape[-1]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.dtype} {labels.min()}..{labels.max()}"
        raise ValueError(f"labels of the members: {found}, expected integers 0..{num_classes - 1}")


def check_frozen(model: Model, body: Params, example_shape: tuple[int, ...]) -> None:
    """ValueError for layers that are not those below the model's last, or show rows to each other."""
    heads.check_body(model, body, example_shape)
    _check_rows_independent("frozen", model, example_shape, None)  # it sees those of all models at once
