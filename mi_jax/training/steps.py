"""What training does to one member: where it begins, its epochs step by step, and the verdict when to stop.

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


class Plan(NamedTuple):
    """What is compiled: no arrays, so equal plans share one program."""

    model: Model
    recipe: Recipe
    defense: Defense  # without its strength


class Own(NamedTuple):
    """What is one member's own."""

    rows: jax.Array  # [n] of the pool, trained on
    reference: jax.Array  # [m] of the pool, which a defense may use besides
    strength: Any  # of the defense


class State(NamedTuple):
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
    opponent: Any


def _cosine(rate: float, steps: int) -> optax.Schedule:
    return lambda step: rate * jnp.cos(7 * math.pi * step / (16 * steps))


# name -> (learning rate, steps in all) -> the optimizer
OPTIMIZERS: dict[str, Callable[[float, int], optax.GradientTransformation]] = {
    "adam": lambda rate, steps: optax.adam(rate, eps=_EPSILON),
    "sgd": lambda rate, steps: optax.sgd(rate),
    # FixMatch's: momentum 0.9, the rate falling to a fifth along a cosine.
    "nesterov_cosine": lambda rate, steps: optax.sgd(_cosine(rate, steps), momentum=0.9, nesterov=True),
}


def sizes(plan: Plan, n: int, x_pool: Array) -> batches.Epoch:
    """The sizes of an epoch over n rows."""
    return batches.sizes(n, plan.recipe.batch_size, plan.defense.expand, x_pool)


def _optimizer(plan: Plan, n: int, x_pool: Array) -> optax.GradientTransformation:
    steps = plan.recipe.max_epochs * sizes(plan, n, x_pool).steps
    return OPTIMIZERS[plan.recipe.optimizer](plan.recipe.learning_rate, steps)


def begin(key: jax.Array, own: Own, x_pool: jax.Array, y_pool: jax.Array, plan: Plan) -> State:
    """The state of one untrained member; of the pool only shapes are looked at."""
    del y_pool
    init_key, key = jax.random.split(key)
    params = plan.model.init(init_key, x_pool[:1])
    if plan.defense.begin is not None:
        params = plan.defense.begin(own.strength, params)
    infinity, zero = jnp.array(jnp.inf, jnp.float32), jnp.array(0, jnp.int32)
    moments = _optimizer(plan, len(own.rows), x_pool).init(params)
    average = params if plan.recipe.average else None
    opponent = None
    if plan.defense.opponent is not None:
        num_classes = jax.eval_shape(plan.model.apply, params, x_pool[:1]).shape[-1]
        opponent = plan.defense.opponent.begin(jax.random.fold_in(init_key, 1), num_classes)
    return State(key, params, moments, zero, infinity, infinity, zero, jnp.array(True), zero, average, opponent)


def final(state: State) -> Params:
    """The parameters that training ends with: the last ones, or their running mean."""
    return state.params if state.average is None else state.average


def epoch(state: State, own: Own, x_pool: jax.Array, y_pool: jax.Array, plan: Plan) -> State:
    """One pass over the member's rows of the pool, or over their neighbours, and whether to go on."""
    steps = _plain_steps if plan.defense.mechanism is None else _private_steps
    return _judge(*steps(state, own, x_pool, y_pool, plan), plan.recipe)


def _plain_steps(state: State, own: Own, x_pool, y_pool, plan: Plan) -> tuple[State, jax.Array]:
    """(the state after all batches, the mean loss).

    What an opponent adds is not in that loss: it rises while the opponent learns, and would end training early.
    """
    defense, sized, model = plan.defense, sizes(plan, len(own.rows), x_pool), _model(plan, own)
    optimizer = _optimizer(plan, len(own.rows), x_pool)
    epoch_key = jax.random.fold_in(state.key, state.epoch)
    shuffle_key, step_key = jax.random.split(epoch_key)
    pairs_key = jax.random.fold_in(epoch_key, 2)  # 0 and 1 may be what split folded in
    others = batches.others(jax.random.fold_in(epoch_key, 3), own.reference, sized) if defense.opponent else None
    of_pairs = batches.reader(pairs_key, own.rows, x_pool, y_pool, defense.expand, sized.copies)

    def loss_of(params, key, pairs, weight, opponent):
        x, y = of_pairs(pairs)
        logits = model.apply(params, x, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        mean = jnp.sum(weight * losses) / jnp.sum(weight)
        mean = mean if defense.penalty is None else mean + defense.penalty(own.strength, params)
        if opponent is None:
            return mean, mean
        told = _told(state, own, opponent, logits, y, plan)
        return mean + jnp.sum(weight * told) / jnp.sum(weight), mean

    def step(carry, inputs):
        params, moments, average, opponent = carry
        i, pairs, weight, other = inputs
        if opponent is not None:
            seen, beside = (*of_pairs(pairs), weight), (x_pool[other], y_pool[other], jnp.ones(sized.size))
            opponent = _learned(state, opponent, params, seen, beside, plan)
        step_of = jax.grad(loss_of, has_aux=True)
        grads, loss = step_of(params, jax.random.fold_in(step_key, i), pairs, weight, opponent)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        average = _averaged(average, params, state.epoch * sized.steps + i, plan)
        return (params, moments, average, opponent), loss * jnp.sum(weight)

    carry = (state.params, state.moments, state.average, state.opponent)
    inputs = (jnp.arange(sized.steps), *batches.shuffled(shuffle_key, sized), others)
    carry, losses = lax.scan(step, carry, inputs)
    state = state._replace(**dict(zip(("params", "moments", "average", "opponent"), carry, strict=True)))
    return state, jnp.sum(losses) / sized.pairs


def _model(plan: Plan, own: Own) -> Model:
    """The model whose loss is taken."""
    return plan.model if plan.defense.model is None else plan.defense.model(own.strength, plan.model)


def _told(state: State, own: Own, opponent: Any, logits: jax.Array, y: jax.Array, plan: Plan) -> jax.Array:
    """What the opponent adds to the losses [B] of members."""
    told = plan.defense.opponent.loss(own.strength, opponent, logits, y)
    return jnp.where(state.epoch < plan.defense.opponent.warm_up, 0.0, told)


def _learned(state: State, opponent: Any, params: Params, seen: tuple, beside: tuple, plan: Plan) -> Any:
    """The opponent after its step; `seen` and `beside` are (x, y, weight) of members and of reference rows."""
    logits = [(plan.model.apply(params, x), y, weight) for x, y, weight in (seen, beside)]
    new, waits = plan.defense.opponent.learn(opponent, *logits), state.epoch < plan.defense.opponent.warm_up
    return jax.tree.map(lambda old, new: jnp.where(waits, old, new), opponent, new)


def _private_steps(state: State, own: Own, x_pool, y_pool, plan: Plan) -> tuple[State, jax.Array]:
    """The same by the defense's mechanism: a Poisson sample a step, clipped, summed, with noise."""
    defense, mechanism = plan.defense, plan.defense.mechanism(own.strength)
    optimizer, model = _optimizer(plan, len(own.rows), x_pool), _model(plan, own)
    step_key, steps = jax.random.fold_in(state.key, state.epoch), sizes(plan, len(own.rows), x_pool).steps
    sum_of = per_example.way(plan.model, state.params, x_pool[:1])

    def step(carry, i):
        params, moments, average, dropped = carry
        key, model_key = jax.random.split(jax.random.fold_in(step_key, i))

        def losses_of(params, batch):
            logits = model.apply(params, batch[0], model_key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

        def summed(batch, weight, clip):
            return sum_of(losses_of, params, batch, weight, clip)

        def batch_of(indices):
            rows = own.rows[indices]
            return x_pool[rows], y_pool[rows]

        grads, clipped = privacy.gradient(key, summed, batch_of, mechanism)
        if defense.penalty is not None:  # of the parameters alone, which are public: it costs no privacy
            more = jax.grad(lambda params: defense.penalty(own.strength, params))(params)
            grads = jax.tree.map(jnp.add, grads, more)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        lost = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
        loss = jnp.where(jnp.isfinite(clipped.loss), clipped.loss, 0).sum() / mechanism.expected
        loss = jnp.where(lost, jnp.nan, loss)  # else every example would be dropped, unseen
        average = _averaged(average, params, state.epoch * steps + i, plan)
        return (params, moments, average, dropped + clipped.dropped), loss

    carry = (state.params, state.moments, state.average, state.dropped)
    (params, moments, average, dropped), losses = lax.scan(step, carry, jnp.arange(steps))
    return state._replace(params=params, moments=moments, average=average, dropped=dropped), jnp.mean(losses)


def _averaged(average: Params | None, params: Params, step: jax.Array, plan: Plan) -> Params | None:
    """The running mean after this many steps. Its decay grows to the recipe's, so that a short training does not end
    in the weights it began with."""
    if average is None:
        return None
    decay = jnp.minimum(plan.recipe.average, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, average, params)


def _judge(state: State, loss: jax.Array, recipe: Recipe) -> State:
    """The state after an epoch of this mean loss: Keras' EarlyStopping, and the limit on epochs."""
    improved = loss < state.best - recipe.min_delta
    waited = jnp.where(improved, 0, state.waited + 1)
    epoch = state.epoch + 1
    tired = jnp.array(False) if recipe.patience is None else ~improved & (waited >= recipe.patience)
    return state._replace(
        epoch=epoch,
        loss=loss,
        best=jnp.where(improved, loss, state.best),
        waited=waited,
        running=~tired & (epoch < recipe.max_epochs),
    )


def block(state: State, own: Own, x_pool: jax.Array, y_pool: jax.Array, plan: Plan) -> State:
    """The state some epochs later, or at the epoch in which the member stopped."""
    fitting = _BLOCK_PAIRS // sizes(plan, len(own.rows), x_pool).pairs

    def one(state, _):
        run = functools.partial(epoch, plan=plan)
        # Under vmap the cond becomes a choice between both results, so a stopped member is frozen either way.
        return lax.cond(state.running, run, _unchanged, state, own, x_pool, y_pool), None

    return lax.scan(one, state, length=min(max(1, fitting), _BLOCK_EPOCHS, plan.recipe.max_epochs))[0]


def _unchanged(state: State, *_) -> State:
    return state
