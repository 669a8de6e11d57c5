"""Training of one member: its initial state, the steps of an epoch, and early stopping.

The recipe is the paper's, as Keras runs it: Adam, shuffled batches including the smaller last one, early stopping on
the mean training loss of an epoch, and the last weights kept. `batches` draws the batches of an epoch. With
differential privacy an epoch has the same number of steps, each on a Poisson sample (`privacy.dp_sgd`).

Deviation: Keras adds Adam's epsilon of 1e-7 before the bias correction of the second moment, optax after it. The first
steps differ by less than one part in a thousand wherever a gradient exceeds 1e-4.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mi_jax import privacy
from mi_jax.privacy import per_example
from mi_jax.training import batches
from mi_jax.types import AdversarialRegularizer, Array, Defense, Model, Params, Recipe

_BLOCK_EPOCHS, _BLOCK_PAIRS = 10, 100_000  # limits of a block; a larger epoch is a block by itself
_EPSILON = 1e-7  # of Adam, as in Keras


class TrainSpec(NamedTuple):
    """The static arguments of a compiled block. It holds no arrays, so equal specs share one program."""

    model: Model
    recipe: Recipe
    defense: Defense  # without its strength


class MemberInputs(NamedTuple):
    """The array arguments of a compiled block that differ between members."""

    rows: jax.Array  # [n] rows of the pool to train on
    reference: jax.Array  # [m] further rows of the pool that a defense may use
    strength: Any  # of the defense


class TrainState(NamedTuple):
    """The state of a member between two epochs."""

    key: jax.Array
    params: Params
    opt_state: optax.OptState
    epoch: jax.Array  # [] int32
    loss: jax.Array  # [] of the last epoch
    best: jax.Array  # [] the lowest loss that counted as an improvement
    waited: jax.Array  # [] epochs since that improvement
    running: jax.Array  # [] bool
    dropped: jax.Array  # [] int32, examples whose gradient was not finite; counted in private training only
    average: Params | None  # running mean of the parameters over the steps
    adversary: Any


class _Batch(NamedTuple):
    x: jax.Array  # [B *x]
    y: jax.Array  # [B]
    weight: jax.Array  # [B], 0 for padding


def _cosine(rate: float, steps: int) -> optax.Schedule:
    return lambda step: rate * jnp.cos(7 * math.pi * step / (16 * steps))


# name -> (learning rate, total number of steps) -> optimizer. The names enter the digest of a run, so that with a cache
# an optimizer must have one.
OPTIMIZERS: dict[str, Callable[[float, int], optax.GradientTransformation]] = {
    "adam": lambda rate, steps: optax.adam(rate, eps=_EPSILON),
    "sgd": lambda rate, steps: optax.sgd(rate),
    # FixMatch's: momentum 0.9, the learning rate falls to a fifth along a cosine.
    "nesterov_cosine": lambda rate, steps: optax.sgd(_cosine(rate, steps), momentum=0.9, nesterov=True),
}


def epoch_sizes(spec: TrainSpec, n: int, x_pool: Array) -> batches.EpochSizes:
    """Returns the sizes of an epoch over n rows."""
    return batches.plan_epoch(n, spec.recipe.batch_size, spec.defense.augmentation, x_pool)


def optimizer_of(spec: TrainSpec, n: int, x_pool: Array) -> optax.GradientTransformation:
    """Returns the optimizer of a training on n rows."""
    if isinstance(spec.recipe.optimizer, optax.GradientTransformation):
        return spec.recipe.optimizer
    num_steps = spec.recipe.max_epochs * epoch_sizes(spec, n, x_pool).num_steps
    return OPTIMIZERS[spec.recipe.optimizer](spec.recipe.learning_rate, num_steps)


def init_state(
    key: jax.Array, inputs: MemberInputs, x_pool: jax.Array, y_pool: jax.Array, spec: TrainSpec
) -> TrainState:
    """Returns the state of one untrained member. Only the shapes of the pool are used."""
    del y_pool
    init_key, key = jax.random.split(key)
    params = spec.model.init(init_key, x_pool[:1])
    if spec.defense.init_params is not None:
        params = spec.defense.init_params(inputs.strength, params)
    infinity, zero = jnp.array(jnp.inf, jnp.float32), jnp.array(0, jnp.int32)
    opt_state = optimizer_of(spec, len(inputs.rows), x_pool).init(params)
    average = params if spec.recipe.average else None
    adversary = None
    if spec.defense.adversary is not None:
        num_classes = jax.eval_shape(spec.model.apply, params, x_pool[:1]).shape[-1]
        adversary = spec.defense.adversary.init(jax.random.fold_in(init_key, 1), num_classes)
    return TrainState(key, params, opt_state, zero, infinity, infinity, zero, jnp.array(True), zero, average, adversary)


def final_params(state: TrainState) -> Params:
    """Returns the trained parameters: the last ones, or their running mean if the recipe has an `average`."""
    return state.params if state.average is None else state.average


def run_epoch(
    state: TrainState, inputs: MemberInputs, x_pool: jax.Array, y_pool: jax.Array, spec: TrainSpec
) -> TrainState:
    """Returns the state after one pass over the member's rows, or their neighbours, and whether it is still running."""
    if spec.defense.mechanism is None:
        state, loss = _plain_steps(state, inputs, x_pool, y_pool, spec)
    else:
        mechanism = spec.defense.mechanism(inputs.strength)
        state, loss = _private_steps(state, inputs, x_pool, y_pool, spec, mechanism)
    return _check_stop(state, loss, spec.recipe)


def _plain_steps(
    state: TrainState, inputs: MemberInputs, x_pool, y_pool, spec: TrainSpec
) -> tuple[TrainState, jax.Array]:
    """Returns (the state after all batches of an epoch, the mean loss over its pairs)."""
    sizes, optimizer = epoch_sizes(spec, len(inputs.rows), x_pool), optimizer_of(spec, len(inputs.rows), x_pool)
    epoch_key = jax.random.fold_in(state.key, state.epoch)
    shuffle_key, step_key = jax.random.split(epoch_key)
    pairs_key, reference_key = (jax.random.fold_in(epoch_key, i) for i in (2, 3))  # split may fold in 0 and 1
    augmentation, regularizer = spec.defense.augmentation, spec.defense.adversary
    read_pairs = batches.pair_reader(pairs_key, inputs.rows, x_pool, y_pool, augmentation, sizes.num_neighbours)

    def step(carry, xs):
        params, opt_state, average, adversary = carry
        i, pairs, weight, reference_rows = xs
        batch = _Batch(*read_pairs(pairs), weight)
        if regularizer is not None:
            reference = _Batch(x_pool[reference_rows], y_pool[reference_rows], jnp.ones(sizes.batch_size))
            adversary = _update_adversary(regularizer, state, adversary, params, batch, reference, spec)
        key = jax.random.fold_in(step_key, i)
        grads, loss = jax.grad(_loss, has_aux=True)(params, key, batch, adversary, state, inputs, spec)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        average = _update_average(average, params, state.epoch * sizes.num_steps + i, spec)
        return (params, opt_state, average, adversary), loss * jnp.sum(weight)

    reference_rows = batches.shuffle_reference(reference_key, inputs.reference, sizes) if regularizer else None
    xs = (jnp.arange(sizes.num_steps), *batches.shuffle_pairs(shuffle_key, sizes), reference_rows)
    carry, losses = lax.scan(step, (state.params, state.opt_state, state.average, state.adversary), xs)
    state = state._replace(**dict(zip(("params", "opt_state", "average", "adversary"), carry, strict=True)))
    return state, jnp.sum(losses) / sizes.num_pairs


def _loss(params: Params, key: jax.Array, batch: _Batch, adversary: Any, state: TrainState, inputs: MemberInputs,
          spec: TrainSpec) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Returns (the loss to differentiate, the loss to report), both means over the batch, penalty included.

    The reported loss has no adversary term. That term rises while the adversary learns, and would stop training early.
    """
    logits: Any = None
    if spec.defense.loss is not None:  # beside which there is no adversary, who sees logits
        losses = own_losses(params, key, batch.x, batch.y, inputs, spec)
    else:
        logits = _model(spec, inputs).apply(params, batch.x, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
    mean = jnp.sum(batch.weight * losses) / jnp.sum(batch.weight)
    penalty = spec.defense.penalty
    mean = mean if penalty is None else mean + penalty(inputs.strength, params)
    if spec.defense.adversary is None:
        return mean, mean
    extra = _adversary_loss(spec.defense.adversary, state, inputs, adversary, logits, batch.y)
    return mean + jnp.sum(batch.weight * extra) / jnp.sum(batch.weight), mean


def own_losses(
    params: Params, key: jax.Array, x: jax.Array, y: jax.Array, inputs: MemberInputs, spec: TrainSpec
) -> jax.Array:
    """Returns the losses [B] that the defense's `loss` gives to examples x [B *x] with labels y [B].

    Every `predict` draws the same dropout masks.
    """
    (loss_key, model_key), model = jax.random.split(key), _model(spec, inputs)
    assert spec.defense.loss is not None
    return spec.defense.loss(inputs.strength, loss_key, lambda x: model.apply(params, x, model_key), x, y)


def _model(spec: TrainSpec, inputs: MemberInputs) -> Model:
    """Returns the model whose loss is computed, with the defense's change to it."""
    return spec.model if spec.defense.model is None else spec.defense.model(inputs.strength, spec.model)


def _adversary_loss(regularizer: AdversarialRegularizer, state: TrainState, inputs: MemberInputs, adversary: Any,
                    logits: jax.Array, y: jax.Array) -> jax.Array:  # fmt: skip
    """Returns the adversary's terms [B] of the members' losses, 0 during its warm-up."""
    losses = regularizer.loss(inputs.strength, adversary, logits, y)
    return jnp.where(state.epoch < regularizer.warm_up, 0.0, losses)


def _update_adversary(regularizer: AdversarialRegularizer, state: TrainState, adversary: Any, params: Params,
                      members: _Batch, reference: _Batch, spec: TrainSpec) -> Any:  # fmt: skip
    """Returns the adversary after one step, or unchanged during its warm-up."""
    outputs = [(spec.model.apply(params, batch.x), batch.y, batch.weight) for batch in (members, reference)]
    new = regularizer.update(adversary, *outputs)
    warming_up = state.epoch < regularizer.warm_up
    return jax.tree.map(lambda old, new: jnp.where(warming_up, old, new), adversary, new)


def _private_steps(
    state: TrainState, inputs: MemberInputs, x_pool, y_pool, spec: TrainSpec, mechanism: privacy.Mechanism
) -> tuple[TrainState, jax.Array]:
    """Returns what `_plain_steps` does, with gradients by the mechanism: sampled, clipped, summed, noisy."""
    penalty = spec.defense.penalty
    penalty_grad = None if penalty is None else jax.grad(functools.partial(penalty, inputs.strength))
    optimizer, model = optimizer_of(spec, len(inputs.rows), x_pool), _model(spec, inputs)
    num_steps = epoch_sizes(spec, len(inputs.rows), x_pool).num_steps
    step_key = jax.random.fold_in(state.key, state.epoch)
    clipped_sum = per_example.choose_clipped_sum(spec.model, state.params, x_pool[:1])

    def step(carry, i):
        params, opt_state, average, dropped = carry
        key, model_key = jax.random.split(jax.random.fold_in(step_key, i))

        def losses_fn(params, batch):
            logits = model.apply(params, batch[0], model_key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

        def gather(indices):
            rows = inputs.rows[indices]
            return x_pool[rows], y_pool[rows]

        sum_fn = functools.partial(clipped_sum, losses_fn, params)
        grads, clipped = privacy.private_gradient(key, sum_fn, gather, mechanism)
        if penalty_grad is not None:  # a function of the parameters alone, so it costs no privacy
            grads = jax.tree.map(jnp.add, grads, penalty_grad(params))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        diverged = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
        loss = jnp.where(jnp.isfinite(clipped.loss), clipped.loss, 0).sum() / mechanism.expected
        loss = jnp.where(diverged, jnp.nan, loss)  # report divergence, which would silently drop every example
        average = _update_average(average, params, state.epoch * num_steps + i, spec)
        return (params, opt_state, average, dropped + clipped.dropped), loss

    carry = (state.params, state.opt_state, state.average, state.dropped)
    carry, losses = lax.scan(step, carry, jnp.arange(num_steps))
    state = state._replace(**dict(zip(("params", "opt_state", "average", "dropped"), carry, strict=True)))
    return state, jnp.mean(losses)


def _update_average(average: Params | None, params: Params, step: jax.Array, spec: TrainSpec) -> Params | None:
    """Returns the running mean of the parameters after this step.

    The decay grows up to the recipe's, so that a short training does not return its initial weights.
    """
    if average is None:
        return None
    decay = jnp.minimum(spec.recipe.average, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, average, params)


def _check_stop(state: TrainState, loss: jax.Array, recipe: Recipe) -> TrainState:
    """Returns the state after an epoch with this mean loss, by Keras' EarlyStopping and the limit on epochs."""
    improved = loss < state.best - recipe.min_delta
    waited = jnp.where(improved, 0, state.waited + 1)
    epoch = state.epoch + 1
    stopped = jnp.array(False) if recipe.patience is None else ~improved & (waited >= recipe.patience)
    return state._replace(
        epoch=epoch,
        loss=loss,
        best=jnp.where(improved, loss, state.best),
        waited=waited,
        running=~stopped & (epoch < recipe.max_epochs),
    )


def run_block(
    state: TrainState, inputs: MemberInputs, x_pool: jax.Array, y_pool: jax.Array, spec: TrainSpec
) -> TrainState:
    """Returns the state after the epochs of a block, or after the epoch in which the member stopped."""
    num_epochs = max(1, _BLOCK_PAIRS // epoch_sizes(spec, len(inputs.rows), x_pool).num_pairs)

    def epoch_or_nothing(state, _):
        run = functools.partial(run_epoch, spec=spec)
        # Under vmap the cond computes both branches and selects one, so a stopped member stays unchanged.
        return lax.cond(state.running, run, _unchanged, state, inputs, x_pool, y_pool), None

    return lax.scan(epoch_or_nothing, state, length=min(num_epochs, _BLOCK_EPOCHS, spec.recipe.max_epochs))[0]


def _unchanged(state: TrainState, *_) -> TrainState:
    return state
