"""Training: many models at once, each exactly as if it were trained alone.

A block is ten epochs, of many rows fewer, in one compiled program (`steps.py` has what happens in it); between blocks
the host looks at who still runs, so an ensemble ends, reports progress and fails there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mi_jax import privacy, store
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


@functools.partial(jax.jit, static_argnames=("plan", "vmapped"))
def _begin_group(keys: jax.Array, own: steps.Own, x_pool: jax.Array, y_pool: jax.Array, *, plan: steps.Plan,
                 vmapped: bool) -> steps.State:  # fmt: skip
    begin = functools.partial(steps.begin, plan=plan)
    return (
        jax.vmap(begin, in_axes=(0, 0, None, None))(keys, own, x_pool, y_pool)
        if vmapped
        else begin(keys, own, x_pool, y_pool)
    )


@functools.partial(jax.jit, static_argnames=("plan", "vmapped"), donate_argnums=0)
def _block_of_group(state: steps.State, own: steps.Own, x_pool: jax.Array, y_pool: jax.Array, *, plan: steps.Plan,
                    vmapped: bool) -> steps.State:  # fmt: skip
    block = functools.partial(steps.block, plan=plan)
    return (jax.vmap(block, in_axes=(0, 0, None, None)) if vmapped else block)(state, own, x_pool, y_pool)


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


def _train_group(keys, own: steps.Own, x_pool, y_pool, plan: steps.Plan, report) -> steps.State:
    """The final states of one group, on the host: keys [m], leaves of own [m ...]; no model axis for one member."""
    vmapped = own.rows.ndim == 2
    along, whole = _shardings(len(own.rows) if vmapped else 1)
    keys, own = jax.device_put((keys, own), along)
    pool = jax.device_put((x_pool, y_pool), whole)
    state = _begin_group(keys, own, *pool, plan=plan, vmapped=vmapped)
    running = True
    while running:
        state = _block_of_group(state, own, *pool, plan=plan, vmapped=vmapped)
        epoch, loss, still = jax.device_get((state.epoch, state.loss, state.running))
        report(epoch, loss, still)
        running = np.any(still)
    return jax.device_get(state._replace(key=None, moments=None, opponent=None))


def _plan(model: Model, recipe: Recipe, defense: Defense) -> steps.Plan:
    recipe = recipe if defense.recipe is None else defense.recipe(recipe)
    return steps.Plan(model, recipe, defense._replace(name="", strength=(), recipe=None, output=None, random=False))


def train_ensemble(key: jax.Array, model: Model, recipe: Recipe, x_pool: Array, y_pool: Array, members: Array, *,
                   defense: Defense = NO_DEFENSE, strengths: Any = None, reference: Array | None = None,
                   models_at_once: int | None = None, keep: store.Keep = store.keep_nothing,
                   progress: Progress | None = None) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters [K ...] and their History: model k on rows members[k] of the pool and no others.

    x_pool [N *x], y_pool [N], members [K n]. Member k is what `train(fold_in(key, k), ...)` gives for its rows, to
    rounding, whatever `models_at_once` and the number of devices: that many members share one vmapped block (the
    last group repeats its last member), each stopping for itself. None takes `default_models_at_once`. The model
    axis is spread over the devices where they divide it evenly.

    `defense` steps in where it says. Its strength is an argument of the compiled block, which all strengths of a
    defense share. `strengths`, a pytree like `defense.strength` with leaves [G ...], trains all models once with
    each of them as one ensemble: results are [G K ...]. With `expand` an epoch goes over all n * M pairs of a row
    and one of its neighbours in a random order, in batches of the same size; random neighbours are drawn anew for
    each epoch and pair. `reference` [K m] are rows that only an `opponent` looks at. Layers that are `frozen` see
    every row once, before training, and are the same for all strengths.

    `progress(members done, members, epoch of the group)` is called after every block. `keep` (`store.py`) makes it
    resumable, a group at a time. ValueError for arguments that do not fit together, and, naming the member, for a
    loss that is not finite.
    """
    members, plan = np.asarray(members), _plan(model, recipe, defense)
    reference = np.zeros((len(members), 0), np.int32) if reference is None else np.asarray(reference)
    checks.check(plan, x_pool, y_pool, members, steps.Own(members, reference, defense.strength))
    if defense.mechanism is not None and strengths is not None:
        privacy.check(defense.mechanism(strengths))
    if defense.frozen is not None:
        shape, body, rows = x_pool.shape[1:], _body(defense, strengths), np.union1d(members, reference).astype(int)
        checks.check_frozen(model, body, shape)
        last, history = train_ensemble(
            key, heads.head_of(model, shape), recipe, heads.features(model, body, x_pool[rows]),
            np.asarray(y_pool)[rows], np.searchsorted(rows, members), defense=defense._replace(frozen=None),
            strengths=strengths, reference=np.searchsorted(rows, reference), models_at_once=models_at_once, keep=keep,
            progress=progress,
        )  # fmt: skip
        return heads.whole(model, shape, body, last), history
    G = 1 if strengths is None else len(jax.tree.leaves(strengths)[0])
    num_models, K = G * len(members), len(members)
    wanted = default_models_at_once(model, x_pool, num_models)
    group = wanted if models_at_once is None else models_at_once
    if group < 1:
        raise ValueError(f"models_at_once={group}: expected at least 1")
    group = min(group, max(wanted, num_models))
    pool = jax.device_put((jnp.asarray(x_pool), jnp.asarray(y_pool, jnp.int32)), _shardings(group)[1])
    given, found = defense.strength if strengths is None else strengths, []
    for first in range(0, num_models, group):
        ids = np.arange(first, min(first + group, num_models))
        report = functools.partial(_report, progress, first, len(ids), num_models)

        def compute(ids=ids, report=report) -> store.Part:
            padded = np.pad(ids, (0, group - len(ids)), "edge")
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(padded % K)
            strength = _strength_of(given, padded // K, strengths is None)
            own = steps.Own(*(jnp.asarray(rows[padded % K], jnp.int32) for rows in (members, reference)), strength)
            one = jax.tree.map(lambda leaf: leaf[0], (keys, own))
            return _part(_train_group(*((keys, own) if group > 1 else one), *pool, plan, report), len(ids))

        found.append(keep(f"members-{first}-to-{ids[-1]}", compute))
    params, history = _joined(found, model, x_pool)
    if strengths is not None:
        params, history = jax.tree.map(lambda leaf: leaf.reshape(G, K, *leaf.shape[1:]), (params, history))
    return jax.tree.map(jnp.asarray, params), history


def _body(defense: Defense, strengths: Any) -> Params:
    """The layers that stand still."""
    if strengths is None:
        return defense.frozen(defense.strength)
    bodies = jax.vmap(defense.frozen)(strengths)
    if not all(np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in jax.tree.leaves(bodies)):
        raise ValueError("frozen: other layers with another strength, expected the same for all that train together")
    return jax.tree.map(lambda leaf: leaf[0], bodies)


def _part(state: steps.State, size: int) -> store.Part:
    """The leaves of (parameters, History) of the first `size` members of a group."""
    leaves = jax.tree.leaves((steps.final(state), _history(state)))
    alone = state.epoch.ndim == 0
    return {str(i): leaf[None] if alone else leaf[:size] for i, leaf in enumerate(leaves)}


def _joined(parts: list[store.Part], model: Model, x_pool: Array) -> tuple[Params, History]:
    """Parameters and History [K ...] of all parts."""
    tree = jax.tree.structure((jax.eval_shape(model.init, jax.random.key(0), x_pool[:1]), History(0, 0, 0)))
    leaves = [np.concatenate([part[str(i)] for part in parts]) for i in range(tree.num_leaves)]
    return jax.tree.unflatten(tree, leaves)


def _strength_of(strength: Any, ids: np.ndarray, same: bool) -> Any:
    """The strength of each of the members [m ...]: the same for all, or that of its place in the grid."""
    arrays = jax.tree.map(_array, strength)
    if same:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(ids), *leaf.shape)), arrays)
    return jax.tree.map(lambda leaf: leaf[ids], arrays)


def _array(leaf: Any) -> jax.Array:
    return jnp.asarray(np.asarray(leaf))  # by NumPy: a Python float would make another program than an array


def _history(state: steps.State) -> History:
    return History(state.epoch, state.loss, state.dropped)


def _report(progress, first, size, num_models, epoch, loss, running) -> None:
    """Raises for a member whose loss is not finite, else tells `progress` where the group stands."""
    lost = np.flatnonzero(~np.isfinite(np.atleast_1d(loss)[:size]))
    if len(lost):
        member = f"member {first + lost[0]}: the training loss is {np.atleast_1d(loss)[lost[0]]}"
        raise ValueError(f"{member} after {np.atleast_1d(epoch)[lost[0]]} epochs, expected a finite one")
    if progress is not None:
        progress(first + int(np.sum(~np.atleast_1d(running)[:size])), num_models, int(np.max(epoch)))


def train(key: jax.Array, model: Model, recipe: Recipe, x: Array, y: Array, *, defense: Defense = NO_DEFENSE,
          reference: tuple[Array, Array] | None = None) -> tuple[Params, History]:  # fmt: skip
    """The trained parameters of one model on all rows x [n *x], y [n], and its History (both without a model axis).

    `reference`: examples and labels that only an `opponent` of the defense looks at.
    """
    plan, n = _plan(model, recipe, defense), len(x)
    beside = (x[:0], y[:0]) if reference is None else reference
    x, y = np.concatenate([x, beside[0]]), np.concatenate([y, beside[1]])
    own = steps.Own(jnp.arange(n), jnp.arange(n, len(x)), jax.tree.map(_array, defense.strength))
    checks.check(plan, x, y, np.arange(n)[None], own)
    if defense.frozen is not None:
        body, shape = defense.frozen(defense.strength), x.shape[1:]
        checks.check_frozen(model, body, shape)
        features = heads.features(model, body, x)
        last, history = train(key, heads.head_of(model, shape), recipe, features[:n], y[:n],
                              defense=defense._replace(frozen=None), reference=(features[n:], y[n:]))  # fmt: skip
        return heads.whole(model, shape, body, last), history
    report = functools.partial(_report, None, 0, 1, 1)
    state = _train_group(jnp.asarray(key), own, jnp.asarray(x), jnp.asarray(y, jnp.int32), plan, report)
    return jax.tree.map(jnp.asarray, steps.final(state)), _history(state)
