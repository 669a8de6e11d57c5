"""Training: many models at once, each exactly as if it were trained alone.

The paper's recipe, as Keras runs it: Adam, shuffled batches with the smaller last one kept, a stop on the mean
training loss of an epoch, the last weights kept. An epoch goes over all rows once, or, where a defense asks for
augmented data (`expand`), over all pairs of a row and one of its neighbours. A block is ten epochs in one compiled
program; between blocks the host looks at who still runs, so an ensemble ends, reports progress and fails there.

Keras' epsilon of 1e-7 is added before the bias correction of Adam's second moment, optax adds it after: the first
steps differ by less than one part in a thousand wherever a gradient exceeds 1e-4.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from mi_jax import store
from mi_jax.types import Array, Model, Params, Perturbation, Recipe

_EPOCHS_PER_BLOCK = 10
_EPSILON = 1e-7  # of Adam, as in Keras

Penalty = Callable[[Params], jax.Array]
Progress = Callable[[int, int, int], Any]


class History(NamedTuple):
    """How long each member trained, and to what end."""

    epochs: np.ndarray  # [K] int32
    loss: np.ndarray  # [K] float32, the mean training loss of the last epoch, penalty included


class _State(NamedTuple):
    key: jax.Array
    params: Params
    moments: optax.OptState
    epoch: jax.Array  # [] int32
    loss: jax.Array  # [] of the last epoch
    best: jax.Array  # [] the lowest loss that counted as an improvement
    waited: jax.Array  # [] epochs since then
    running: jax.Array  # [] bool


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adam(recipe.learning_rate, eps=_EPSILON)


def _begin(key: jax.Array, x: jax.Array, model: Model, recipe: Recipe) -> _State:
    """The state of one untrained member; x [1 *x] only shows a shape."""
    init_key, key = jax.random.split(key)
    params = model.init(init_key, x)
    infinity, zero = jnp.array(jnp.inf, jnp.float32), jnp.array(0, jnp.int32)
    moments = _optimizer(recipe).init(params)
    return _State(key, params, moments, zero, infinity, infinity, zero, jnp.array(True))


def _epoch(state: _State, rows: jax.Array, x_pool: jax.Array, y_pool: jax.Array, penalty: Penalty | None,
           model: Model, recipe: Recipe, expand: Perturbation | None) -> _State:  # fmt: skip
    """One pass over the member's rows [n] of the pool, or over their neighbours, and whether to go on."""
    M = 1 if expand is None else _neighbours_shape(expand, x_pool)[0]
    count = len(rows) * M
    size = min(recipe.batch_size, count)
    steps = -(-count // size)
    optimizer = _optimizer(recipe)
    epoch_key = jax.random.fold_in(state.key, state.epoch)
    shuffle_key, step_key = jax.random.split(epoch_key)
    pairs_key = jax.random.fold_in(epoch_key, 2)  # 0 and 1 may be what split folded in
    # Pair p is neighbour p % M of row p // M. What fills the last batch up to its size is this member's own, and
    # weighs nothing.
    order = jnp.resize(jax.random.permutation(shuffle_key, count), (steps, size))
    weights = (jnp.arange(steps * size) < count).astype(jnp.float32).reshape(steps, size)

    def loss_of(params, key, pairs, weight):
        batch = rows[pairs // M]
        x = x_pool[batch] if expand is None else _neighbours(pairs_key, pairs, x_pool[batch], expand)
        logits = model.apply(params, x, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y_pool[batch])
        mean = jnp.sum(weight * losses) / jnp.sum(weight)
        return mean if penalty is None else mean + penalty(params)

    def step(carry, inputs):
        params, moments = carry
        i, pairs, weight = inputs
        loss, grads = jax.value_and_grad(loss_of)(params, jax.random.fold_in(step_key, i), pairs, weight)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss * jnp.sum(weight)

    inputs = (jnp.arange(steps), order, weights)
    (params, moments), losses = lax.scan(step, (state.params, state.moments), inputs)
    return _judge(state._replace(params=params, moments=moments), jnp.sum(losses) / count, recipe)


def _neighbours_shape(expand: Perturbation, x_pool: Array) -> tuple[int, ...]:
    example = jax.ShapeDtypeStruct(x_pool.shape[1:], jnp.float32)
    return jax.eval_shape(expand, jax.random.key(0), example).shape  # (M, *x)


def _neighbours(key: jax.Array, pairs: jax.Array, x: jax.Array, expand: Perturbation) -> jax.Array:
    """What pairs [B] of the rows x [B *x] are trained on, [B *x]: one neighbour each, its randomness its own."""

    def one(pair, x):
        found = expand(jax.random.fold_in(key, pair), x)  # [M *x]
        return found[pair % len(found)]

    return jax.vmap(one)(pairs, x)


def _judge(state: _State, loss: jax.Array, recipe: Recipe) -> _State:
    """The state after an epoch of this mean loss: Keras' EarlyStopping, and the limit on epochs."""
    improved = loss < state.best - recipe.min_delta
    waited = jnp.where(improved, 0, state.waited + 1)
    epoch = state.epoch + 1
    tired = ~improved & (waited >= recipe.patience)
    return state._replace(
        epoch=epoch,
        loss=loss,
        best=jnp.where(improved, loss, state.best),
        waited=waited,
        running=~tired & (epoch < recipe.max_epochs),
    )


def _block(state: _State, rows: jax.Array, x_pool: jax.Array, y_pool: jax.Array, penalty: Penalty | None,
           model: Model, recipe: Recipe, expand: Perturbation | None = None) -> _State:  # fmt: skip
    """The state ten epochs later, or at the epoch in which the member stopped."""

    def one(state, _):
        run = functools.partial(_epoch, model=model, recipe=recipe, expand=expand)
        # Under vmap the cond becomes a choice between both results, so a stopped member is frozen either way.
        return lax.cond(state.running, run, _unchanged, state, rows, x_pool, y_pool, penalty), None

    return lax.scan(one, state, length=min(_EPOCHS_PER_BLOCK, recipe.max_epochs))[0]


def _unchanged(state: _State, *_) -> _State:
    return state


@functools.partial(jax.jit, static_argnames=("model", "recipe", "vmapped"))
def _begin_group(keys: jax.Array, x: jax.Array, *, model: Model, recipe: Recipe, vmapped: bool) -> _State:
    begin = functools.partial(_begin, model=model, recipe=recipe)
    return jax.vmap(begin, in_axes=(0, None))(keys, x) if vmapped else begin(keys, x)


@functools.partial(jax.jit, static_argnames=("model", "recipe", "vmapped", "expand"), donate_argnums=0)
def _block_of_group(state: _State, rows: jax.Array, x_pool: jax.Array, y_pool: jax.Array,
                    penalty: Penalty | None, *, model: Model, recipe: Recipe, vmapped: bool,
                    expand: Perturbation | None = None) -> _State:  # fmt: skip
    block = functools.partial(_block, model=model, recipe=recipe, expand=expand)
    in_axes = (0, 0, None, None, None)
    block = jax.vmap(block, in_axes=in_axes) if vmapped else block
    return block(state, rows, x_pool, y_pool, penalty)


def default_models_at_once(model: Model, x_pool: Array, num_models: int) -> int:
    """How many models one compiled block trains side by side where the caller does not say.

    On CPU one for each device: a block of one fills the cores, compiles sooner and ends when its member stops, and
    side by side was never faster (`experiments/benchmarks/training.py`). Convolutions stay alone there even on
    several devices, because vmap over kernels makes grouped ones, several times slower. On an accelerator all
    models, rounded up to a multiple of the devices.
    """
    if num_models == 1:
        return 1
    devices = jax.device_count()
    if jax.default_backend() != "cpu":
        return -(-num_models // devices) * devices
    params = jax.eval_shape(model.init, jax.random.key(0), x_pool[:1])
    convolutional = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return 1 if convolutional else devices


def _shardings(group: int) -> tuple[Any, Any]:
    """Where a group's model axis and where the shared pool live: over all devices if the group divides evenly."""
    devices = jax.device_count()
    if devices == 1 or group % devices or group == 1:
        return None, None
    # Auto axes and jit, never shard_map: that would sum gradients over the devices and train other models.
    mesh = jax.make_mesh((devices,), ("models",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("models")), NamedSharding(mesh, PartitionSpec())


def _train_group(keys, rows, x_pool, y_pool, penalty, model, recipe, expand, report) -> _State:
    """The final states of one group, on the host: keys [m], rows [m n]; without the model axis for one member."""
    vmapped = rows.ndim == 2
    along, whole = _shardings(len(rows) if vmapped else 1)
    keys, rows = jax.device_put((keys, rows), along)
    state = _begin_group(keys, jax.device_put(x_pool[:1], whole), model=model, recipe=recipe, vmapped=vmapped)
    block = functools.partial(_block_of_group, model=model, recipe=recipe, vmapped=vmapped, expand=expand)
    running = True
    while running:
        state = block(state, rows, x_pool, y_pool, penalty)
        epoch, loss, still = jax.device_get((state.epoch, state.loss, state.running))
        report(epoch, loss, still)
        running = np.any(still)
    return jax.device_get(state._replace(key=None, moments=None))


def _check(model: Model, recipe: Recipe, x_pool: Array, y_pool: Array, members: Array,
           expand: Perturbation | None) -> None:  # fmt: skip
    if members.ndim != 2 or not np.issubdtype(members.dtype, np.integer) or 0 in members.shape:
        shape = f"{members.dtype} of shape {members.shape}"
        raise ValueError(f"members: {shape}, expected integers [K n] with at least one model and one row")
    if len(x_pool) != len(y_pool):
        raise ValueError(f"x_pool has {len(x_pool)} rows and y_pool {len(y_pool)}: expected as many labels as rows")
    if members.min() < 0 or members.max() >= len(x_pool):
        outside = f"{members.min()}..{members.max()}"
        raise ValueError(f"members: rows {outside}, expected rows of the pool, 0..{len(x_pool) - 1}")
    for name in ("batch_size", "max_epochs", "learning_rate"):
        if not getattr(recipe, name) > 0:
            raise ValueError(f"recipe: {name}={getattr(recipe, name)}, expected more than 0")
    _check_labels(model, x_pool, np.asarray(y_pool)[members])
    shown = None if expand is None else _neighbours_shape(expand, x_pool)
    if shown is not None and (shown[1:] != x_pool.shape[1:] or shown[:1] < (1,)):
        example = ", ".join(map(str, x_pool.shape[1:]))
        raise ValueError(f"expand: returned shape {shown}, expected (M, {example}) with M >= 1")


def _check_labels(model: Model, x_pool: Array, labels: np.ndarray) -> None:
    def logits_of(key, x):
        return model.apply(model.init(key, x), x)

    num_classes = jax.eval_shape(logits_of, jax.random.key(0), x_pool[:1]).shape[-1]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.dtype} {labels.min()}..{labels.max()}"
        raise ValueError(f"labels of the members: {found}, expected integers 0..{num_classes - 1}")


def train_ensemble(key: jax.Array, model: Model, recipe: Recipe, x_pool: Array, y_pool: Array, members: Array, *,
                   penalty: Penalty | None = None, expand: Perturbation | None = None,
                   models_at_once: int | None = None, keep: store.Keep = store.keep_nothing,
                   progress: Progress | None = None) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters [K ...] and their History: model k on rows members[k] of the pool and no others.

    x_pool [N *x], y_pool [N], members [K n]. Member k is what `train(fold_in(key, k), ...)` gives for its rows, to
    rounding, whatever `models_at_once` and the number of devices: that many members share one vmapped block (the
    last group repeats its last member), each stopping for itself. None takes `default_models_at_once`. The model
    axis is spread over the devices where they divide it evenly. `penalty` (parameters -> scalar) is added to every
    loss; as a `jax.tree_util.Partial` with array arguments it shares one compiled block among all strengths. With
    `expand` an epoch goes over all n * M pairs of a row and one of its M neighbours in a random order, in batches
    of the same size; random neighbours are drawn anew for each epoch and pair. The same function object shares one
    compiled block. `progress(members done, members, epoch of the group)` is called after every block. `keep`
    (`store.py`) makes it resumable, a group at a time.

    ValueError for arguments that do not fit together, and, naming the member, for a loss that is not finite.
    """
    members = np.asarray(members)
    _check(model, recipe, x_pool, y_pool, members, expand)
    num_models = len(members)
    wanted = default_models_at_once(model, x_pool, num_models)
    group = wanted if models_at_once is None else models_at_once
    if group < 1:
        raise ValueError(f"models_at_once={group}: expected at least 1")
    group = min(group, max(wanted, num_models))
    penalty = penalty if penalty is None or isinstance(penalty, Partial) else Partial(penalty)
    pool = jax.device_put((jnp.asarray(x_pool), jnp.asarray(y_pool, jnp.int32)), _shardings(group)[1])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x_pool[:1])
    tree = jax.tree.structure((shapes, 0, 0))
    found = []
    for first in range(0, num_models, group):
        size = min(group, num_models - first)
        ids = np.minimum(np.arange(first, first + group), num_models - 1)
        report = functools.partial(_report, progress, first, size, num_models)

        def compute(ids=ids, size=size, report=report) -> store.Part:
            keys, rows = jax.vmap(functools.partial(jax.random.fold_in, key))(ids), jnp.asarray(members[ids], jnp.int32)
            if group == 1:
                keys, rows = keys[0], rows[0]
            state = _train_group(keys, rows, *pool, penalty, model, recipe, expand, report)
            leaves = jax.tree.leaves((state.params, state.epoch, state.loss))
            return {str(i): leaf[None] if group == 1 else leaf[:size] for i, leaf in enumerate(leaves)}

        found.append(keep(f"members-{first}-to-{first + size - 1}", compute))
    leaves = [np.concatenate([part[str(i)] for part in found]) for i in range(tree.num_leaves)]
    params, epochs, loss = jax.tree.unflatten(tree, leaves)
    return jax.tree.map(jnp.asarray, params), History(epochs, loss)


def _report(progress, first, size, num_models, epoch, loss, running) -> None:
    """Raises for a member whose loss is not finite, else tells `progress` where the group stands."""
    lost = np.flatnonzero(~np.isfinite(np.atleast_1d(loss)[:size]))
    if len(lost):
        member = f"member {first + lost[0]}: the training loss is {np.atleast_1d(loss)[lost[0]]}"
        raise ValueError(f"{member} after {np.atleast_1d(epoch)[lost[0]]} epochs, expected a finite one")
    if progress is not None:
        progress(first + int(np.sum(~np.atleast_1d(running)[:size])), num_models, int(np.max(epoch)))


def train(key: jax.Array, model: Model, recipe: Recipe, x: Array, y: Array, *,
          penalty: Penalty | None = None, expand: Perturbation | None = None,
          ) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters of one model on all rows x [n *x], y [n], and its History (both without a model axis)."""
    members = np.arange(len(x))[None]
    _check(model, recipe, x, y, members, expand)
    penalty = penalty if penalty is None or isinstance(penalty, Partial) else Partial(penalty)
    pool = (jnp.asarray(x), jnp.asarray(y, jnp.int32))
    report = functools.partial(_report, None, 0, 1, 1)
    state = _train_group(key, jnp.asarray(members[0], jnp.int32), *pool, penalty, model, recipe, expand, report)
    return jax.tree.map(jnp.asarray, state.params), History(state.epoch, state.loss)
