"""What training does to one member: its initial state, its epochs step by step, and when it stops.

The paper's recipe, as Keras runs it: Adam, shuffled batches with the smaller last one kept, a stop on the mean
training loss of an epoch, the last weights kept. `batches.py` has what an epoch goes over; under differential privacy
it is as many steps, each on a Poisson sample of its own (`privacy.py`).

Keras' epsilon of 1e-7 is added before the bias correction of Adam's second moment, optax adds it after: the first
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
from mi_jax.types import Array, Defense, Model, Params, Recipe

_BLOCK_EPOCHS, _BLOCK_PAIRS = 10, 100_000  # the most of a block: a large epoch is a block of its own
_EPSILON = 1e-7  # of Adam, as in Keras


class TrainSpec(NamedTuple):
    """What is compiled: no arrays, so equal specs share one program."""

    model: Model
    recipe: Recipe
    defense: Defense  # without its strength


class MemberInputs(NamedTuple):
    """What differs from member to member."""

    rows: jax.Array  # [n] of the pool, trained on
    reference: jax.Array  # [m] of the pool, which a defense may use besides
    strength: Any  # of the defense


class TrainState(NamedTuple):
    """A member between two epochs."""

    key: jax.Array
    params: Params
    moments: optax.OptState
    epoch: jax.Array  # [] int32
    loss: jax.Array  # [] of the last epoch
    best: jax.Array  # [] the lowest loss that counted as an improvement
    waited: jax.Array  # [] epochs since then
    running: jax.Array  # [] bool
    dropped: jax.Array  # [] int32, examples whose gradient was not finite; only privacy counts them
    average: Params | None  # of the parameters over the steps
    adversary: Any


def _cosine(rate: float, steps: int) -> optax.Schedule:
    return lambda step: rate * jnp.cos(7 * math.pi * step / (16 * steps))


# name -> (learning rate, steps in all) -> the optimizer
OPTIMIZERS: dict[str, Callable[[float, int], optax.GradientTransformation]] = {
    "adam": lambda rate, steps: optax.adam(rate, eps=_EPSILON),
    "sgd": lambda rate, steps: optax.sgd(rate),
    # FixMatch's: momentum 0.9, the rate falling to a fifth along a cosine.
    "nesterov_cosine": lambda rate, steps: optax.sgd(_cosine(rate, steps), momentum=0.9, nesterov=True),
}


def epoch_sizes(spec: TrainSpec, n: int, x_pool: Array) -> batches.Epoch:
    """The sizes of an epoch over n rows."""
    return batches.plan_epoch(n, spec.recipe.batch_size, spec.defense.augmentation, x_pool)


def _optimizer(spec: TrainSpec, n: int, x_pool: Array) -> optax.GradientTransformation:
    steps = spec.recipe.max_epochs * epoch_sizes(spec, n, x_pool).steps
    return OPTIMIZERS[spec.recipe.optimizer](spec.recipe.learning_rate, steps)


def init_state(
    key: jax.Array, inputs: MemberInputs, x_pool: jax.Array, y_pool: jax.Array, spec: TrainSpec
) -> TrainState:
    """The state of one untrained member; of the pool only shapes are looked at."""
    del y_pool
    init_key, key = jax.random.split(key)
    params = spec.model.init(init_key, x_pool[:1])
    if spec.defense.init_params is not None:
        params = spec.defense.init_params(inputs.strength, params)
    infinity, zero = jnp.array(jnp.inf, jnp.float32), jnp.array(0, jnp.int32)
    moments = _optimizer(spec, len(inputs.rows), x_pool).init(params)
    average = params if spec.recipe.average else None
    adversary = None
    if spec.defense.adversary is not None:
        num_classes = jax.eval_shape(spec.model.apply, params, x_pool[:1]).shape[-1]
        adversary = spec.defense.adversary.init(jax.random.fold_in(init_key, 1), num_classes)
    return TrainState(key, params, moments, zero, infinity, infinity, zero, jnp.array(True), zero, average, adversary)


def final_params(state: TrainState) -> Params:
    """The parameters that training ends with: the last ones, or their running mean."""
    return state.params if state.average is None else state.average


def run_epoch(
    state: TrainState, inputs: MemberInputs, x_pool: jax.Array, y_pool: jax.Array, spec: TrainSpec
) -> TrainState:
    """One pass over the member's rows of the pool, or over their neighbours, and whether to go on."""
    steps = _plain_steps if spec.defense.mechanism is None else _private_steps
    return _check_stop(*steps(state, inputs, x_pool, y_pool, spec), spec.recipe)


def _plain_steps(
    state: TrainState, inputs: MemberInputs, x_pool, y_pool, spec: TrainSpec
) -> tuple[TrainState, jax.Array]:
    """(the state after all batches, the mean loss).

    What an adversary adds is not in that loss: it rises while the adversary learns, and would end training early.
    """
    defense, sized, model = spec.defense, epoch_sizes(spec, len(inputs.rows), x_pool), _model(spec, inputs)
    optimizer = _optimizer(spec, len(inputs.rows), x_pool)
    epoch_key = jax.random.fold_in(state.key, state.epoch)
    shuffle_key, step_key = jax.random.split(epoch_key)
    pairs_key = jax.random.fold_in(epoch_key, 2)  # 0 and 1 may be what split folded in
    others = (
        batches.reference_rows(jax.random.fold_in(epoch_key, 3), inputs.reference, sized) if defense.adversary else None
    )
    read_pairs = batches.reader(pairs_key, inputs.rows, x_pool, y_pool, defense.augmentation, sized.copies)

    def loss_of(params, key, pairs, weight, adversary):
        x, y = read_pairs(pairs)
        logits = model.apply(params, x, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        mean = jnp.sum(weight * losses) / jnp.sum(weight)
        mean = mean if defense.penalty is None else mean + defense.penalty(inputs.strength, params)
        if adversary is None:
            return mean, mean
        extra = _adversary_loss(state, inputs, adversary, logits, y, spec)
        return mean + jnp.sum(weight * extra) / jnp.sum(weight), mean

    def step(carry, batch):
        params, moments, average, adversary = carry
        i, pairs, weight, other = batch
        if adversary is not None:
            members, reference = (*read_pairs(pairs), weight), (x_pool[other], y_pool[other], jnp.ones(sized.size))
            adversary = _update_adversary(state, adversary, params, members, reference, spec)
        grads, loss = jax.grad(loss_of, has_aux=True)(params, jax.random.fold_in(step_key, i), pairs, weight, adversary)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        average = _update_average(average, params, state.epoch * sized.steps + i, spec)
        return (params, moments, average, adversary), loss * jnp.sum(weight)

    carry = (state.params, state.moments, state.average, state.adversary)
    epoch = (jnp.arange(sized.steps), *batches.shuffled(shuffle_key, sized), others)
    carry, losses = lax.scan(step, carry, epoch)
    state = state._replace(**dict(zip(("params", "moments", "average", "adversary"), carry, strict=True)))
    return state, jnp.sum(losses) / sized.pairs


def _model(spec: TrainSpec, inputs: MemberInputs) -> Model:
    """The model whose loss is taken."""
    return spec.model if spec.defense.model is None else spec.defense.model(inputs.strength, spec.model)


def _adversary_loss(state: TrainState, inputs: MemberInputs, adversary: Any, logits, y, spec: TrainSpec) -> jax.Array:
    """What the adversary adds to the losses [B] of members."""
    losses = spec.defense.adversary.loss(inputs.strength, adversary, logits, y)
    return jnp.where(state.epoch < spec.defense.adversary.warm_up, 0.0, losses)


def _update_adversary(state: TrainState, adversary: Any, params: Params, members, reference, spec: TrainSpec) -> Any:
    """The adversary after its step; `members` and `reference` are (x, y, weight)."""
    logits = [(spec.model.apply(params, x), y, weight) for x, y, weight in (members, reference)]
    new, waits = spec.defense.adversary.update(adversary, *logits), state.epoch < spec.defense.adversary.warm_up
    return jax.tree.map(lambda old, new: jnp.where(waits, old, new), adversary, new)


def _private_steps(
    state: TrainState, inputs: MemberInputs, x_pool, y_pool, spec: TrainSpec
) -> tuple[TrainState, jax.Array]:
    """The same by the defense's mechanism: a Poisson sample a step, clipped, summed, with noise."""
    defense, mechanism = spec.defense, spec.defense.mechanism(inputs.strength)
    optimizer, model = _optimizer(spec, len(inputs.rows), x_pool), _model(spec, inputs)
    step_key, steps = jax.random.fold_in(state.key, state.epoch), epoch_sizes(spec, len(inputs.rows), x_pool).steps
    sum_of = per_example.clipped_sum_for(spec.model, state.params, x_pool[:1])

    def step(carry, i):
        params, moments, average, dropped = carry
        key, model_key = jax.random.split(jax.random.fold_in(step_key, i))

        def losses_of(params, batch):
            logits = model.apply(params, batch[0], model_key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

        def summed(batch, weight, clip):
            return sum_of(losses_of, params, batch, weight, clip)

        def batch_of(indices):
            rows = inputs.rows[indices]
            return x_pool[rows], y_pool[rows]

        grads, clipped = privacy.gradient(key, summed, batch_of, mechanism)
        if defense.penalty is not None:  # of the parameters alone, which are public: it costs no privacy
            more = jax.grad(lambda params: defense.penalty(inputs.strength, params))(params)
            grads = jax.tree.map(jnp.add, grads, more)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        diverged = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
        loss = jnp.where(jnp.isfinite(clipped.loss), clipped.loss, 0).sum() / mechanism.expected
        loss = jnp.where(diverged, jnp.nan, loss)  # else every example would be dropped, unseen
        average = _update_average(average, params, state.epoch * steps + i, spec)
        return (params, moments, average, dropped + clipped.dropped), loss

    carry = (state.params, state.moments, state.average, state.dropped)
    (params, moments, average, dropped), losses = lax.scan(step, carry, jnp.arange(steps))
    return state._replace(params=params, moments=moments, average=average, dropped=dropped), jnp.mean(losses)


def _update_average(average: Params | None, params: Params, step: jax.Array, spec: TrainSpec) -> Params | None:
    """The running mean after this many steps. Its decay grows to the recipe's, so that a short training does not end
    in the weights it began with."""
    if average is None:
        return None
    decay = jnp.minimum(spec.recipe.average, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, average, params)


def _check_stop(state: TrainState, loss: jax.Array, recipe: Recipe) -> TrainState:
    """The state after an epoch of this mean loss: Keras' EarlyStopping, and the limit on epochs."""
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
    """The state some epochs later, or at the epoch in which the member stopped."""
    fitting = _BLOCK_PAIRS // epoch_sizes(spec, len(inputs.rows), x_pool).pairs

    def one(state, _):
        run = functools.partial(run_epoch, spec=spec)
        # Under vmap the cond becomes a choice between both results, so a stopped member is frozen either way.
        return lax.cond(state.running, run, _unchanged, state, inputs, x_pool, y_pool), None

    return lax.scan(one, state, length=min(max(1, fitting), _BLOCK_EPOCHS, spec.recipe.max_epochs))[0]


def _unchanged(state: TrainState, *_) -> TrainState:
    return state
