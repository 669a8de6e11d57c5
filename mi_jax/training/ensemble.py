"""Training: many models at once, each exactly as if it were trained alone.

A block is ten epochs, of many rows fewer, in one compiled program (`steps.py` has what happens in it); between blocks
the host looks at who still runs, so an ensemble ends, reports progress and fails there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mi_jax import store
from mi_jax.models import heads
from mi_jax.training import checks, steps
from mi_jax.types import Array, Defense, Model, Params, Recipe

Progress = Callable[[int, int, int], Any]
NO_DEFENSE = Defense()


class History(NamedTuple):
    """How long each member trained, and to what end."""

    epochs: np.ndarray  # [K] int32
    loss: np.ndarray  # [K] float32, the mean training loss of the last epoch, penalty included if nothing is private
    dropped: np.ndarray  # [K] int32, examples that a private gradient left out because theirs was not finite


class _Job(NamedTuple):
    """What is to be trained, checked."""

    spec: steps.TrainSpec
    x: Array  # [N *x]
    y: Array  # [N]
    members: np.ndarray  # [K n]
    reference: np.ndarray  # [K m]
    strength: Any  # of the defense, leaves [G ...] where `grid`
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


def _train_group(keys, inputs: steps.MemberInputs, x_pool, y_pool, spec: steps.TrainSpec, report) -> steps.TrainState:
    """The final states of one group, on the host: keys [m], leaves of inputs [m ...]; for one member no model axis."""
    vmapped = inputs.rows.ndim == 2
    along, whole = _shardings(len(inputs.rows) if vmapped else 1)
    keys, inputs = jax.device_put((keys, inputs), along)
    pool = jax.device_put((x_pool, y_pool), whole)
    state = _init_group(keys, inputs, *pool, spec=spec, vmapped=vmapped)
    running = True
    while running:
        state = _run_group_block(state, inputs, *pool, spec=spec, vmapped=vmapped)
        epoch, loss, still = jax.device_get((state.epoch, state.loss, state.running))
        report(epoch, loss, still)
        running = np.any(still)
    return jax.device_get(state._replace(key=None, moments=None, adversary=None))


def train_ensemble(key: jax.Array, model: Model, recipe: Recipe, x_pool: Array, y_pool: Array, members: Array, *,
                   defense: Defense = NO_DEFENSE, strengths: Any = None, reference: Array | None = None,
                   models_at_once: int | None = None, cache: store.Cache = store.no_cache,
                   progress: Progress | None = None) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters [K ...] and their History: model k on rows members[k] of the pool and no others.

    x_pool [N *x], y_pool [N], members [K n]. Member k is what `train(fold_in(key, k), ...)` gives for its rows, to
    rounding, whatever `models_at_once` and the number of devices: that many members share one vmapped block (the
    last group repeats its last member), each stopping for itself. None takes `default_models_at_once`. The model
    axis is spread over the devices where they divide it evenly.

    The strength of `defense` is an argument of the compiled block, which all strengths of a defense share.
    `strengths`, a pytree like `defense.strength` with leaves [G ...], trains all models once with each of them as one
    ensemble: results are [G K ...]. With an `augmentation` an epoch goes over all n * M pairs of a row and one of its
    neighbours in a random order, in batches of the same size; random neighbours are drawn anew for each epoch and
    pair. `reference` [K m] are rows that only an `adversary` sees. `frozen` layers see every row once, before
    training, and are the same for all strengths.

    `progress(members done, members, epoch of the group)` is called after every block. `cache` (`store.py`) makes it
    resumable, a group at a time. ValueError for arguments that do not fit together, and, naming the member, for a
    loss that is not finite.
    """
    members = np.asarray(members)
    reference = np.zeros((len(members), 0), np.int32) if reference is None else np.asarray(reference)
    job = _checked_job(model, recipe, defense, strengths, x_pool, y_pool, members, reference)
    job, assemble = _without_frozen_layers(job, model, recipe, defense, strengths)
    params, history = _train_members(key, job, models_at_once, cache, progress)  # [G K ...], one axis
    if strengths is not None:
        shape = (job.num_strengths, len(members))
        params, history = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), (params, history))
    return assemble(jax.tree.map(jnp.asarray, params)), history


def train(key: jax.Array, model: Model, recipe: Recipe, x: Array, y: Array, *, defense: Defense = NO_DEFENSE,
          reference: tuple[Array, Array] | None = None) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters of one model on all rows x [n *x], y [n], and its History (both without a model axis).

    `reference`: examples and labels that only an `adversary` of the defense sees.
    """
    n, beside = len(x), (x[:0], y[:0]) if reference is None else reference
    x, y = np.concatenate([x, beside[0]]), np.concatenate([y, beside[1]])
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
    compiled = defense._replace(name="", strength=(), recipe=None, output=None, random=False)
    spec = steps.TrainSpec(model, recipe, compiled)
    inputs = steps.MemberInputs(members, reference, defense.strength)
    checks.check_training(spec, x, y, inputs, strengths)
    grid = strengths is not None
    return _Job(spec, x, y, members, reference, strengths if grid else defense.strength, grid)


def _without_frozen_layers(
    job: _Job, model: Model, recipe: Recipe, defense: Defense, strengths: Any
) -> tuple[_Job, Callable[[Params], Params]]:
    """The job of the trained layers, on the features that the frozen ones give for every row; and how to join both."""
    if defense.frozen is None:
        return job, lambda params: params
    shape, body = job.x.shape[1:], _frozen_layers(defense, strengths)
    checks.check_frozen(model, body, shape)
    rows = np.union1d(job.members, job.reference).astype(int)
    pool = heads.frozen_features(model, body, job.x[rows]), np.asarray(job.y)[rows]
    members, reference = np.searchsorted(rows, job.members), np.searchsorted(rows, job.reference)
    head, trained = heads.head_of(model, shape), defense._replace(frozen=None)
    job = _checked_job(head, recipe, trained, strengths, *pool, members, reference)
    return job, lambda last: heads.join(model, shape, body, last)


def _frozen_layers(defense: Defense, strengths: Any) -> Params:
    if strengths is None:
        return defense.frozen(defense.strength)
    bodies = jax.vmap(defense.frozen)(strengths)
    if not all(np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in jax.tree.leaves(bodies)):
        raise ValueError("frozen: other layers with another strength, expected the same for all that train together")
    return jax.tree.map(lambda leaf: leaf[0], bodies)


def _train_members(key, job: _Job, models_at_once: int | None, cache, progress) -> tuple[Params, History]:
    """Parameters and History of all members under the first strength, then under the second, ..."""
    num_models = job.num_strengths * len(job.members)
    group = _group_size(job, num_models, models_at_once)
    pool = jax.device_put((jnp.asarray(job.x), jnp.asarray(job.y, jnp.int32)), _shardings(group)[1])
    entries = []
    for first in range(0, num_models, group):
        ids = np.arange(first, min(first + group, num_models))
        report = functools.partial(_report, progress, first, len(ids), num_models)

        def compute(ids=ids, report=report) -> store.Entry:
            keys, inputs = _group_inputs(key, job, np.pad(ids, (0, group - len(ids)), "edge"))
            if group == 1:
                keys, inputs = jax.tree.map(lambda leaf: leaf[0], (keys, inputs))
            return _entry(_train_group(keys, inputs, *pool, job.spec, report), len(ids))

        entries.append(cache(f"members-{first}-to-{ids[-1]}", compute))
    return _concatenated(entries, job)


def _group_size(job: _Job, num_models: int, models_at_once: int | None) -> int:
    default = default_models_at_once(job.spec.model, job.x, num_models)
    if models_at_once is not None and models_at_once < 1:
        raise ValueError(f"models_at_once={models_at_once}: expected at least 1")
    return min(models_at_once or default, max(default, num_models))


def _group_inputs(key: jax.Array, job: _Job, ids: np.ndarray) -> tuple[jax.Array, steps.MemberInputs]:
    """The keys and inputs of members `ids` [m], which count those of the first strength, then of the second, ..."""
    K = len(job.members)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(ids % K)
    strength = jax.tree.map(_array, job.strength)
    if job.grid:
        strength = jax.tree.map(lambda leaf: leaf[ids // K], strength)
    else:
        strength = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(ids), *leaf.shape)), strength)
    rows = (jnp.asarray(rows[ids % K], jnp.int32) for rows in (job.members, job.reference))
    return keys, steps.MemberInputs(*rows, strength)


def _entry(state: steps.TrainState, size: int) -> store.Entry:
    """The leaves of (parameters, History) of the first `size` members of a group."""
    leaves = jax.tree.leaves((steps.final_params(state), _history(state)))
    alone = state.epoch.ndim == 0
    return {str(i): leaf[None] if alone else leaf[:size] for i, leaf in enumerate(leaves)}


def _concatenated(entries: list[store.Entry], job: _Job) -> tuple[Params, History]:
    tree = jax.tree.structure((jax.eval_shape(job.spec.model.init, jax.random.key(0), job.x[:1]), History(0, 0, 0)))
    leaves = [np.concatenate([entry[str(i)] for entry in entries]) for i in range(tree.num_leaves)]
    return jax.tree.unflatten(tree, leaves)


def _array(leaf: Any) -> jax.Array:
    return jnp.asarray(np.asarray(leaf))  # by NumPy: a Python float would make another program than an array


def _history(state: steps.TrainState) -> History:
    return History(state.epoch, state.loss, state.dropped)


def _report(progress, first, size, num_models, epoch, loss, running) -> None:
    """Raises for a member whose loss is not finite, else tells `progress` where the group stands."""
    lost = np.flatnonzero(~np.isfinite(np.atleast_1d(loss)[:size]))
    if len(lost):
        member = f"member {first + lost[0]}: the training loss is {np.atleast_1d(loss)[lost[0]]}"
        raise ValueError(f"{member} after {np.atleast_1d(epoch)[lost[0]]} epochs, expected a finite one")
    if progress is not None:
        progress(first + int(np.sum(~np.atleast_1d(running)[:size])), num_models, int(np.max(epoch)))
