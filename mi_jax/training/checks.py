"""Checks before the first step of training: settings that do not fit together, and models that break a promise.

Private training must be the training that epsilon was computed for. The model must then treat each row independently,
and every layer must depend on the examples. Frozen layers must be those of the model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mi_jax import models, privacy
from mi_jax.models import convert, heads
from mi_jax.training import batches, steps
from mi_jax.types import Array, Defense, Model, Params, Recipe

_EXCLUSIVE = {  # two fields of a Defense that cannot both be set -> why
    ("mechanism", "augmentation"): "each neighbour of a row would be clipped separately, but epsilon is for rows that "
    "count once",
    ("mechanism", "loss"): "a loss may mix the rows of a batch, but private gradients need independent rows",
    ("adversary", "loss"): "the attack network compares logits of plain rows, expected the cross-entropy",
    ("frozen", "loss"): "a loss may change the examples, but frozen layers see each row once, unchanged",
    ("mechanism", "adversary"): "the attack network compares rows, but private gradients need independent rows",
    ("mechanism", "model"): "dropout draws by a row's position in the batch, but private gradients need independent "
    "rows",
    ("adversary", "augmentation"): "the attack network would recognise augmented images, expected plain ones",
    ("frozen", "augmentation"): "frozen layers see each row once, expected no new neighbours each epoch",
    ("frozen", "model"): "frozen layers see each row once, expected nothing random in a step",
    ("frozen", "init_params"): "both say with which layers training begins",
}  # fmt: skip


def fields_set(defense: Defense) -> set[str]:
    """Returns the names of the fields of a defense that hold a function."""
    return {field for field in Defense._fields[2:-1] if getattr(defense, field) is not None}


def check_exclusive(name: str, fields: set[str]) -> None:
    """Raises ValueError, beginning with the defense's `name`, if two of the fields exclude each other."""
    for pair, why in _EXCLUSIVE.items():
        if fields.issuperset(pair):
            raise ValueError(f"defense {name}: {why}")


def check_training(
    spec: steps.TrainSpec, x_pool: Array, y_pool: Array, inputs: steps.MemberInputs, strengths: Any = None
) -> None:
    """Raises ValueError, naming the value, for arguments of `train_ensemble` that do not fit together.

    `inputs` holds the rows [K n] and reference rows [K m] of all members, and the defense's strength.
    """
    members, (model, recipe, defense) = inputs.rows, spec
    _check_members(members, x_pool, y_pool)
    check_exclusive("in training", fields_set(defense))
    _check_recipe(recipe)
    num_classes = models.check_model(model, x_pool.shape[1:])
    _check_labels(num_classes, np.asarray(y_pool)[members])
    _check_augmentation(defense, x_pool.shape[1:])
    _check_optimizer(spec, members.shape[1], x_pool)
    if defense.loss is not None:
        _check_loss(spec, x_pool, inputs)
    if defense.adversary is not None and not inputs.reference.shape[-1]:
        raise ValueError("reference: no rows, expected rows that the adversary of the defense compares members with")
    if defense.mechanism is not None:
        _check_private(spec, x_pool, members, defense.mechanism(inputs.strength))
        if strengths is not None:
            privacy.check_mechanism(defense.mechanism(strengths))


def _check_members(members: Array, x_pool: Array, y_pool: Array) -> None:
    if members.ndim != 2 or not np.issubdtype(members.dtype, np.integer) or 0 in members.shape:
        actual = f"{members.dtype} of shape {members.shape}"
        raise ValueError(f"members: {actual}, expected integers [K n] with at least one model and one row")
    if len(x_pool) != len(y_pool):
        raise ValueError(f"x_pool has {len(x_pool)} rows and y_pool {len(y_pool)}: expected as many labels as rows")
    if members.min() < 0 or members.max() >= len(x_pool):
        actual = f"{members.min()}..{members.max()}"
        raise ValueError(f"members: rows {actual}, expected rows of the pool, 0..{len(x_pool) - 1}")


def _check_recipe(recipe: Recipe) -> None:
    for name in ("batch_size", "max_epochs", "learning_rate"):
        if not 0 < getattr(recipe, name) < np.inf:
            raise ValueError(f"recipe: {name}={getattr(recipe, name)}, expected more than 0 and finite")
    optimizer, names = recipe.optimizer, ", ".join(steps.OPTIMIZERS)
    if isinstance(optimizer, optax.GradientTransformation):
        if recipe.learning_rate != Recipe().learning_rate:
            own = "expected none beside an optimizer object, which has its own"
            raise ValueError(f"recipe: learning_rate={recipe.learning_rate}, {own}")
    elif not isinstance(optimizer, str):
        expected = f"expected one of {names}, or an optax.GradientTransformation"
        raise ValueError(f"recipe: optimizer of type {type(optimizer).__qualname__}, {expected}")
    elif optimizer not in steps.OPTIMIZERS:
        raise ValueError(f"recipe: optimizer={optimizer!r}, expected one of {names}")


def _check_optimizer(spec: steps.TrainSpec, n: int, x_pool: Array) -> None:
    """Raises ValueError for an optimizer that is none, needs more than gradients, or changes shapes or dtypes."""
    name = spec.recipe.optimizer
    label = f"recipe: optimizer={name if isinstance(name, str) else 'an object'}"
    with convert.in_one_line(label):
        optimizer = steps.optimizer_of(spec, n, x_pool)
    if not isinstance(optimizer, optax.GradientTransformation):
        actual = f"{label}: OPTIMIZERS makes {convert.kind_of(optimizer)}"
        raise ValueError(f"{actual}, expected (rate, steps) -> optax.GradientTransformation")

    def step(params):
        state = optimizer.init(params)
        updates, after = optimizer.update(params, state, params)
        return (params, state), (optax.apply_updates(params, updates), after)

    params = {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32), "bias": jax.ShapeDtypeStruct((2,), np.float32)}
    with convert.in_one_line(label):
        before, after = jax.eval_shape(step, params)
    types = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (before, after)]
    if types[0] != types[1]:
        raise ValueError(f"{label}: a step changes shapes or dtypes, expected those of the parameters and of its state")


def _check_augmentation(defense: Defense, example_shape: tuple[int, ...]) -> None:
    if defense.augmentation is None:
        return
    shape = batches.neighbours_shape(defense.augmentation, example_shape)
    if shape[1:] != example_shape or shape[:1] < (1,):
        example = ", ".join(map(str, example_shape))
        raise ValueError(f"augmentation: returned shape {shape}, expected (M, {example}) with M >= 1")


def _check_loss(spec: steps.TrainSpec, x_pool: Array, inputs: steps.MemberInputs) -> None:
    """Raises ValueError unless the defense's loss returns one loss for each of three examples."""

    def losses(strength, key, x):
        params, y = spec.model.init(key, x), jnp.zeros(3, jnp.int32)
        return steps.own_losses(params, key, x, y, inputs._replace(strength=strength), spec)

    strength = jax.tree.map(np.asarray, inputs.strength)
    x = jax.ShapeDtypeStruct((3, *x_pool.shape[1:]), np.float32)
    with convert.in_one_line("defense loss"):
        result = jax.eval_shape(losses, strength, jax.random.key(0), x)
    if getattr(result, "shape", None) != (3,) or result.dtype != np.float32:
        actual = f"{convert.kind_of(result)} for 3 examples"
        raise ValueError(f"defense loss: {actual}, expected float32 losses of shape (3,)")


def _check_private(spec: steps.TrainSpec, x_pool: Array, members: Array, mechanism: privacy.Mechanism) -> None:
    """Raises ValueError unless the training is the one that epsilon was computed for."""
    if spec.recipe.patience is not None:
        raise ValueError(f"recipe: patience={spec.recipe.patience}, expected None: early stopping is not private")
    n, epochs = members.shape[1], spec.recipe.max_epochs
    trained = (n, min(spec.recipe.batch_size, n), epochs * steps.epoch_sizes(spec, n, x_pool).num_steps)
    if trained != mechanism[:3]:
        actual, expected = ("rows={}, expected={}, steps={}".format(*sizes) for sizes in (mechanism[:3], trained))
        raise ValueError(f"privacy: {actual}, expected {expected} as in this training")
    privacy.check_mechanism(mechanism)
    _check_rows_independent("privacy", spec.model, x_pool.shape[1:], jax.random.key(0))
    check_layers_learn(spec.model, x_pool.shape[1:], jax.random.key(0))


def check_layers_learn(model: Model, example_shape: tuple[int, ...], key: jax.Array) -> None:
    """Raises ValueError for parameters without a gradient in training mode: private training would only add noise."""

    def weighted_probability(params, x, weight):  # of the first class, summed over examples
        return (jax.nn.softmax(model.apply(params, x, key)).T @ weight)[0]

    gradient_of = jax.jit(jax.grad(weighted_probability))  # one program, not one an operation
    without_gradient: set[str] = set()
    for seed in range(3):  # a layer of few units may have no gradient for some parameters
        random = np.random.default_rng(seed)
        x, weight = random.standard_normal((8, *example_shape), np.float32), random.random(8, np.float32)
        gradient = gradient_of(_random_parameters(model, example_shape, random), x, weight)
        zero = {jax.tree_util.keystr(path, simple=True, separator="/")
                for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not np.any(leaf)}  # fmt: skip
        without_gradient = without_gradient & zero if seed else zero
        if not without_gradient:
            return
    names = ", ".join(sorted(without_gradient))
    raise ValueError(f"privacy: {names} without a gradient, expected such layers in `frozen`, where no noise is added")


def _random_parameters(model: Model, example_shape: tuple[int, ...], random: np.random.Generator) -> Params:
    """Returns random values for every leaf, because a last layer initialised with 0 would hide all layers below it."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *example_shape), np.float32))
    return jax.tree.map(lambda leaf: 0.1 * random.standard_normal(leaf.shape, np.float32), shapes)


def _check_rows_independent(name: str, model: Model, example_shape: tuple[int, ...], key: jax.Array | None) -> None:
    """Raises ValueError if an example's logits depend on other examples or on its position; a key: in training mode."""
    random = np.random.default_rng(0)
    a, b, c = random.random((3, *example_shape), np.float32)
    params = _random_parameters(model, example_shape, random)
    apply = jax.jit(model.apply)
    ab, ac, ba = (apply(params, np.stack(x), key) for x in ([a, b], [a, c], [b, a]))
    for logits, cause in ((ac[0], "other rows of a batch"), (ba[1], "positions in a batch")):
        if not np.allclose(ab[0], logits, rtol=1e-4, atol=1e-5):
            raise ValueError(f"{name}: {cause} change a row's logits, expected a model with independent rows")


def _check_labels(num_classes: int, labels: np.ndarray) -> None:
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        actual = f"{labels.dtype} {labels.min()}..{labels.max()}"
        raise ValueError(f"labels of the members: {actual}, expected integers 0..{num_classes - 1}")


def check_frozen(model: Model, body: Params, example_shape: tuple[int, ...]) -> None:
    """Raises ValueError for layers that are not those below the model's last one, or whose rows are not independent."""
    heads.check_body(model, body, example_shape)
    _check_rows_independent("frozen", model, example_shape, None)  # the rows of all members pass them together
