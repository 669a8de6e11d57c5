"""Training of many models at once, each exactly as if it were trained alone.

One compiled program, a block, runs ten epochs, or fewer if they are large (`steps.run_block`). Between blocks the host
checks which members are still running, reports progress, and raises for a loss that is not finite.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mi_jax import models, store
from mi_jax.models import heads
from mi_jax.training import checks, steps
from mi_jax.types import Array, Defense, Model, Params, Recipe

Progress = Callable[[int, int, int], Any]
NO_DEFENSE = Defense()


class History(NamedTuple):
    """How many epochs each member trained, and its final loss."""

    epochs: Array  # [K] int32
    loss: Array  # [K] float32, mean training loss of the last epoch: the defense's loss if it has one, with the penalty
    # except in private training
    dropped: Array  # [K] int32, examples dropped from private gradients because theirs was not finite


class _Job(NamedTuple):
    """The checked arguments of a training."""

    spec: steps.TrainSpec
    x: Array  # [N *x]
    y: Array  # [N]
    members: np.ndarray  # [K n]
    reference: np.ndarray  # [K m]
    strength: Any  # of the defense; leaves [G ...] if `grid`
    grid: bool

    @property
    def num_strengths(self) -> int:
        return len(jax.tree.leaves(self.strength)[0]) if self.grid else 1


@functools.partial(jax.jit, static_argnames=("spec", "vmapped"))
def _init_group(keys: jax.Array, inputs: steps.MemberInputs, x_pool: jax.Array, y_pool: jax.Array, *,
                spec: steps.TrainSpec, vmapped: bool) -> steps.TrainState:  # fmt: skip
    chex.assert_equal_shape_prefix((x_pool, y_pool), 1)
    chex.assert_type([x_pool, y_pool, inputs.rows, inputs.reference], [float, int, int, int])
    init = functools.partial(steps.init_state, spec=spec)
    return (jax.vmap(init, in_axes=(0, 0, None, None)) if vmapped else init)(keys, inputs, x_pool, y_pool)


@functools.partial(jax.jit, static_argnames=("spec", "vmapped"), donate_argnums=0)
def _run_group_block(state: steps.TrainState, inputs: steps.MemberInputs, x_pool: jax.Array, y_pool: jax.Array, *,
                     spec: steps.TrainSpec, vmapped: bool) -> steps.TrainState:  # fmt: skip
    chex.assert_rank([inputs.rows, inputs.reference, state.epoch], [1 + vmapped, 1 + vmapped, int(vmapped)])
    block = functools.partial(steps.run_block, spec=spec)
    return (jax.vmap(block, in_axes=(0, 0, None, None)) if vmapped else block)(state, inputs, x_pool, y_pool)


def default_models_at_once(model: Model, x_pool: Array, num_models: int) -> int:
    """Returns how many models one compiled block trains together by default.

    On CPU this is one per device. A block of one model uses all cores, compiles faster and ends when its member stops,
    and larger blocks were never faster (`experiments/benchmarks/training.py`). Convolutional models are trained one at
    a time on CPU even with several devices, because vmap over kernels makes grouped convolutions, several times slower.
    On an accelerator it is all models, rounded up to a multiple of the devices.
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
    """Returns the shardings of a group's model axis and of the shared pool: all devices if they divide the group."""
    devices = jax.device_count()
    if devices == 1 or group % devices or group == 1:
        return None, None
    # Auto axes and jit, never shard_map, which would sum gradients over the devices and so train wrong models.
    mesh = jax.make_mesh((devices,), ("models",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("models")), NamedSharding(mesh, PartitionSpec())


def _train_group(keys, inputs: steps.MemberInputs, x_pool, y_pool, spec: steps.TrainSpec, report) -> steps.TrainState:
    """Returns the final states of one group on the host: keys [m], leaves of inputs [m ...], or no m for one member."""
    vmapped = inputs.rows.ndim == 2
    model_sharding, pool_sharding = _shardings(len(inputs.rows) if vmapped else 1)
    keys, inputs = jax.device_put((keys, inputs), model_sharding)
    pool = jax.device_put((x_pool, y_pool), pool_sharding)
    state = _init_group(keys, inputs, *pool, spec=spec, vmapped=vmapped)
    any_running = True
    while any_running:
        state = _run_group_block(state, inputs, *pool, spec=spec, vmapped=vmapped)
        epoch, loss, running = jax.device_get((state.epoch, state.loss, state.running))
        report(epoch, loss, running)
        any_running = np.any(running)
    return jax.device_get(state._replace(key=None, opt_state=None, adversary=None))


def train_ensemble(key: jax.Array, model: Model | nn.Module, recipe: Recipe, x_pool: Array, y_pool: Array,
                   members: Array, *, defense: Defense = NO_DEFENSE, strengths: Any = None,
                   reference: Array | None = None, models_at_once: int | None = None,
                   cache: store.Cache = store.no_cache,
                   progress: Progress | None = None) -> tuple[Params, History]:  # fmt: skip
    """Returns the trained parameters [K ...] and their History; model k is trained on rows members[k] of the pool only.

    Member k equals `train(fold_in(key, k), ...)` on its rows, up to rounding, for any `models_at_once` and any number
    of devices. Each member stops separately. With an augmentation, an epoch visits all n * M (row, neighbour) pairs in
    random order; random neighbours are drawn again for each epoch and pair.

    Args:
      key, recipe: of the training.
      model: a Model, or a flax linen module (`models.from_flax`).
      x_pool, y_pool: the pool, [N *x] and integer labels [N].
      members: rows of the pool, [K n].
      defense: its strength is an argument of the compiled block, which all strengths of a defense share. `frozen`
        layers see every row once, before training, and are the same for all strengths.
      strengths: a pytree like `defense.strength` with leaves [G ...]. All models are trained once with each of these
        strengths as one ensemble, and results are [G K ...].
      reference: rows [K m] of the pool that only an `adversary` sees.
      models_at_once: how many members share one vmapped block; None takes `default_models_at_once`. The last group
        repeats its last member. Devices share the model axis if they divide it evenly.
      cache: makes the training resumable, one group at a time (`store.py`).
      progress: called after every block with (members done, members, epoch of the group).

    Raises ValueError for arguments that do not fit together, and, naming the member, for a loss that is not finite.
    """
    model, members = models.as_model(model), np.asarray(members)
    reference = np.zeros((len(members), 0), np.int32) if reference is None else np.asarray(reference)
    job = _checked_job(model, recipe, defense, strengths, x_pool, y_pool, members, reference)
    job, assemble = _without_frozen_layers(job, model, recipe, defense, strengths)
    params, history = _train_members(key, job, models_at_once, cache, progress)  # [G K ...], one axis
    if strengths is not None:
        shape = (job.num_strengths, len(members))
        params, history = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), (params, history))
    return assemble(jax.tree.map(jnp.asarray, params)), history


def train(key: jax.Array, model: Model | nn.Module, recipe: Recipe, x: Array, y: Array, *,
          defense: Defense = NO_DEFENSE,
          reference: tuple[Array, Array] | None = None) -> tuple[Params, History]:  # fmt: skip
    """Returns the parameters of one model trained on all rows x [n *x], y [n], and its History, without a model axis.

    `reference`: examples and labels that only an `adversary` of the defense sees.
    """
    model = models.as_model(model)
    n, (reference_x, reference_y) = len(x), (x[:0], y[:0]) if reference is None else reference
    x, y = np.concatenate([x, reference_x]), np.concatenate([y, reference_y])
    job = _checked_job(model, recipe, defense, None, x, y, np.arange(n)[None], np.arange(n, len(x))[None])
    job, assemble = _without_frozen_layers(job, model, recipe, defense, None)
    inputs = steps.MemberInputs(
        jnp.asarray(job.members[0]), jnp.asarray(job.reference[0]), jax.tree.map(_array, job.strength)
    )
    report = functools.partial(_report, None, 0, 1, 1)
    pool = jnp.asarray(job.x), jnp.asarray(job.y, jnp.int32)
    state = _train_group(jnp.asarray(key), inputs, *pool, job.spec, report)
    return assemble(jax.tree.map(jnp.asarray, steps.final_params(state))), _history(state)


def _checked_job(model, recipe, defense, strengths, x, y, members, reference) -> _Job:
    recipe = recipe if defense.recipe is None else defense.recipe(recipe)
    static_defense = defense._replace(name="", strength=(), recipe=None, output=None, random=False)
    spec = steps.TrainSpec(model, recipe, static_defense)
    inputs = steps.MemberInputs(members, reference, defense.strength)
    checks.check_training(spec, x, y, inputs, strengths)
    grid = strengths is not None
    return _Job(spec, x, y, members, reference, strengths if grid else defense.strength, grid)


def _without_frozen_layers(
    job: _Job, model: Model, recipe: Recipe, defense: Defense, strengths: Any
) -> tuple[_Job, Callable[[Params], Params]]:
    """Returns a job that trains the last layer on the frozen layers' features, and a function that joins the layers."""
    if defense.frozen is None:
        return job, lambda params: params
    shape, body = job.x.shape[1:], _frozen_layers(defense.frozen, defense.strength, strengths)
    checks.check_frozen(model, body, shape)
    rows = np.union1d(job.members, job.reference).astype(int)
    pool = heads.frozen_features(model, body, job.x[rows]), np.asarray(job.y)[rows]
    members, reference = np.searchsorted(rows, job.members), np.searchsorted(rows, job.reference)
    last_layer, defense = heads.last_layer_model(model, shape), defense._replace(frozen=None)
    job = _checked_job(last_layer, recipe, defense, strengths, *pool, members, reference)
    return job, lambda params: heads.attach_last_layers(model, shape, body, params)


def _frozen_layers(frozen: Callable[[Any], Params], strength: Any, strengths: Any) -> Params:
    if strengths is None:
        return frozen(strength)
    bodies = jax.vmap(frozen)(strengths)
    if not all(np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in jax.tree.leaves(bodies)):
        raise ValueError("frozen: layers depend on the strength, expected the same layers for all strengths of a grid")
    return jax.tree.map(lambda leaf: leaf[0], bodies)


def _train_members(key, job: _Job, models_at_once: int | None, cache, progress) -> tuple[Params, History]:
    """Returns parameters and History of all members with the first strength, then with the second, and so on."""
    num_models = job.num_strengths * len(job.members)
    group = _group_size(job, num_models, models_at_once)
    x, y = jax.device_put((jnp.asarray(job.x), jnp.asarray(job.y, jnp.int32)), _shardings(group)[1])
    entries = []
    for first in range(0, num_models, group):
        ids = np.arange(first, min(first + group, num_models))
        report = functools.partial(_report, progress, first, len(ids), num_models)

        def compute(ids=ids, report=report) -> store.Entry:
            keys, inputs = _group_inputs(key, job, np.pad(ids, (0, group - len(ids)), "edge"))
            if group == 1:
                keys, inputs = jax.tree.map(lambda leaf: leaf[0], (keys, inputs))
            return _entry(_train_group(keys, inputs, x, y, job.spec, report), len(ids))

        entries.append(cache(f"members-{first}-to-{ids[-1]}", compute))
    return _concatenated(entries, job)


def _group_size(job: _Job, num_models: int, models_at_once: int | None) -> int:
    default = default_models_at_once(job.spec.model, job.x, num_models)
    if models_at_once is not None and models_at_once < 1:
        raise ValueError(f"models_at_once={models_at_once}: expected at least 1")
    return min(models_at_once or default, max(default, num_models))


def _group_inputs(key: jax.Array, job: _Job, ids: np.ndarray) -> tuple[jax.Array, steps.MemberInputs]:
    """Returns the keys and inputs of members `ids` [m], numbered as the results of `_train_members` are."""
    K = len(job.members)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(ids % K)
    strength = jax.tree.map(_array, job.strength)
    if job.grid:
        strength = jax.tree.map(lambda leaf: leaf[ids // K], strength)
    else:
        strength = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(ids), *leaf.shape)), strength)
    members, reference = (jnp.asarray(rows[ids % K], jnp.int32) for rows in (job.members, job.reference))
    return keys, steps.MemberInputs(members, reference, strength)


def _entry(state: steps.TrainState, size: int) -> store.Entry:
    """Returns the leaves of (parameters, History) of the first `size` members of a group."""
    leaves = jax.tree.leaves((steps.final_params(state), _history(state)))
    vmapped = state.epoch.ndim == 1
    return {str(i): leaf[:size] if vmapped else leaf[None] for i, leaf in enumerate(leaves)}


def _concatenated(entries: list[store.Entry], job: _Job) -> tuple[Params, History]:
    params, leaf = jax.eval_shape(job.spec.model.init, jax.random.key(0), job.x[:1]), np.zeros(())
    tree = jax.tree.structure((params, History(leaf, leaf, leaf)))
    leaves = [np.concatenate([entry[str(i)] for entry in entries]) for i in range(tree.num_leaves)]
    return jax.tree.unflatten(tree, leaves)


def _array(leaf: Any) -> jax.Array:
    return jnp.asarray(np.asarray(leaf))  # NumPy first: a Python float would compile another program


def _history(state: steps.TrainState) -> History:
    return History(state.epoch, state.loss, state.dropped)


def _report(progress, first, size, num_models, epoch, loss, running) -> None:
    """Raises ValueError for a member whose loss is not finite, else calls `progress`."""
    epoch, loss, running = (np.atleast_1d(leaf)[:size] for leaf in (epoch, loss, running))
    diverged = np.flatnonzero(~np.isfinite(loss))
    if len(diverged):
        member = f"member {first + diverged[0]}: the training loss is {loss[diverged[0]]}"
        raise ValueError(f"{member} after {epoch[diverged[0]]} epochs, expected a finite loss")
    if progress is not None:
        progress(first + int(np.sum(~running)), num_models, int(np.max(epoch)))
