"""DEFENSES: name -> a function of a strength that returns a `Defense`. A new defense is one function, one line.

Written NAME, NAME:STRENGTH or, for two at once, NAME:STRENGTH+NAME:STRENGTH, as in `--defense=dropout:0.5+l2:0.01`.
Each takes places of its own in `types.Defense`; two that want the same place are refused.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mi_jax import adversary, measures, perturbations, pretrained, privacy, randomness
from mi_jax.types import Array, Defense, Model, Params, Recipe

_SHIFTS = range(6)  # pixels, as in the paper
_LDL_COPIES = 20
_LDL_DEFAULT = 0.1


class Task(NamedTuple):
    """What a defense may know of the training it steps into."""

    n_train: int
    model: Model
    example_shape: tuple[int, ...]
    num_classes: int
    binary: np.ndarray | None = None  # [features] bool; None: an image
    recipe: Recipe = Recipe()
    checkpoint: str | None = None  # file that `experiments.pretrain` wrote; None: where it writes by default


class Kind(NamedTuple):
    """A line of DEFENSES."""

    make: Callable[..., Defense]  # (strength) or (), and with `of_task` the Task after it
    default: float | None  # strength where none is written; None: it takes none
    of_task: bool = False


def build(text: str, task: Task | None = None) -> Defense:
    """The defense written in `text`; `task` is needed by those whose `Kind` says so. ValueError names what is wrong."""
    if not text:
        raise ValueError(f"unknown defense '': known are {', '.join(DEFENSES)}")
    # The + of an exponent (1e+3) stands between digits, that of a second defense before a letter.
    return functools.reduce(compose, [_one(part, task) for part in re.split(r"\+(?![\d.])", text)])


def _one(text: str, task: Task | None) -> Defense:
    name, colon, written = text.partition(":")
    if name not in DEFENSES:
        raise ValueError(f"unknown defense {name!r}: known are {', '.join(DEFENSES)}")
    make, default, of_task = DEFENSES[name]
    if colon and default is None:
        raise ValueError(f"defense {text!r}: {name} takes no strength")
    try:
        strength = float(written) if colon else default
    except ValueError:
        raise ValueError(f"defense {text!r}: expected a number after the colon") from None
    if of_task and task is None:
        raise ValueError(f"defense {text!r}: expected the task it is for, defenses.build(text, Task(...))")
    rest = (task,) if of_task else ()
    if strength is None:
        return make(*rest)._replace(name=name)
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"defense {text!r}: expected a finite strength >= 0")
    return make(strength, *rest)._replace(name=f"{name}:{strength:g}")


_OF_STRENGTH = ("begin", "model", "penalty", "mechanism", "output")  # places whose function is given the strength


def compose(a: Defense, b: Defense) -> Defense:
    """Both at once. ValueError where they take the same place, or where what one does would undo the other."""
    for place in ("recipe", "begin", "trainable", "expand", "model", "penalty", "opponent", "mechanism", "output"):
        if getattr(a, place) is not None and getattr(b, place) is not None:
            raise ValueError(f"defense {a.name}+{b.name}: both take the place {place!r}, expected two that do not")
    names, private = f"{a.name}+{b.name}", a.mechanism is not None or b.mechanism is not None
    for place in ("expand", "opponent"):
        if private and (getattr(a, place) or getattr(b, place)):
            raise ValueError(
                f"defense {names}: {place} makes gradients of several rows, which privacy clips one by one"
            )
    both = {}
    for place in Defense._fields[2:-1]:
        i, function = (0, getattr(a, place)) if getattr(a, place) is not None else (1, getattr(b, place))
        if function is not None:
            both[place] = _at(i, function) if place in _OF_STRENGTH or place == "opponent" else function
    return Defense(f"{a.name}+{b.name}", (a.strength, b.strength), **both, random=a.random or b.random)


@functools.lru_cache(maxsize=256)  # one object for the same two, so that compiled programs are found again
def _at(i: int, place: Any) -> Any:
    """A place of the i-th of two composed defenses, which takes its own strength out of the pair."""
    if isinstance(place, tuple):
        return place._replace(loss=_at(i, place.loss))
    return lambda strengths, *arguments: place(strengths[i], *arguments)


def mechanism_of(defense: Defense) -> privacy.Mechanism:
    """The mechanism of a private defense with its clip and noise, as `privacy.epsilon` takes it."""
    return defense.mechanism(defense.strength)


def none() -> Defense:
    """No defense."""
    return Defense()


def l1(strength: float) -> Defense:
    """strength * sum |w| over dense kernels, added to every training loss (the placement of the paper's code)."""
    return Defense(strength=strength, penalty=_l1)


def l2(strength: float) -> Defense:
    """strength * sum w^2 over dense kernels, added to every training loss (the placement of the paper's code)."""
    return Defense(strength=strength, penalty=_l2)


def l1_all(strength: float) -> Defense:
    """strength * sum |w| over all weights, biases and convolutions included, as the paper's text has it."""
    return Defense(strength=strength, penalty=_l1_all)


def l2_all(strength: float) -> Defense:
    """strength * sum w^2 over all weights, as the paper's text has it."""
    return Defense(strength=strength, penalty=_l2_all)


def weight_decay(strength: float) -> Defense:
    """strength / 2 * sum w^2 over the kernels of all layers, as FixMatch has it with 5e-4."""
    return Defense(strength=strength, penalty=_weight_decay)


def _weight_decay(strength, params: Params) -> jax.Array:
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "kernel" in str(path[-1])]
    return strength / 2 * sum(jnp.square(kernel).sum() for kernel in kernels)


def _l1(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.abs(kernel).sum() for kernel in _dense_kernels(params))


def _l2(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.square(kernel).sum() for kernel in _dense_kernels(params))


def _l1_all(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params))


def _l2_all(strength, params: Params) -> jax.Array:
    return strength * sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))


def _dense_kernels(params: Params) -> list[jax.Array]:
    return [leaf for path, leaf in jax.tree.leaves_with_path(params) if leaf.ndim == 2 and "kernel" in str(path[-1])]


def dropout(strength: float) -> Defense:
    """Each hidden unit at the model's dropout slots is 0 with this probability in every training step.

    The slots are those of the authors' code: behind each pooling of the CNN, behind each hidden layer of an MLP.
    """
    if not 0 <= strength < 1:
        raise ValueError(f"defense dropout:{strength:g}: expected a probability in [0, 1)")
    return Defense(strength=strength, model=_with_dropout)


def _with_dropout(rate, model: Model) -> Model:
    if "dropout" not in inspect.signature(model.apply).parameters:
        raise ValueError(f"model {model.name}: its apply takes no `dropout`, expected one with dropout slots")
    return model._replace(apply=functools.partial(model.apply, dropout=rate))


def augmentation(strength: float) -> Defense:
    """Every epoch trains on each image and on its shifts by all (i, j) with |i| + |j| = strength, 0 to 5 pixels.

    These 4 strength + 1 images are what the translation attack of the same d asks about; shifts by fewer pixels are
    not among them. Shadow models are trained like their target. It raises test accuracy and closes the gap between
    train and test, and makes the target easier to read for whoever asks about shifts (the paper, figure 3).

    Source: section 6.1, "all translations of each image" in an epoch, with the translations of section 3.3.
    """
    if strength not in _SHIFTS:
        raise ValueError(f"defense augmentation:{strength:g}: expected a whole number in 0..{_SHIFTS[-1]}")
    return Defense(expand=perturbations.translate(strength))


def random_augmentation(strength: float) -> Defense:
    """Every epoch sees each image once, mirrored or not, shifted by up to `strength` pixels and with a square cut out.

    Source: the augmentations of FixMatch's supervised part (figure 4 of the paper), with 4 pixels.
    """
    return Defense(expand=perturbations.mirror_shift_cutout(strength))


def transfer_full(task: Task) -> Defense:
    """Training begins with the layers of a network trained on other data, its last layer new; all of them go on.

    Source: the paper, section 6.2, its network pre-trained on CIFAR-100 (`python -m experiments.pretrain`).
    """
    return Defense(strength=pretrained.load(task), begin=_body_of)


def transfer_last(task: Task) -> Defense:
    """The same, and only the last layer is trained: the rest has never seen the private rows."""
    return transfer_full(task)._replace(trainable=pretrained.in_last_layer_of(task.model, task.example_shape))


def _body_of(body: dict, fresh: Params) -> Params:
    return {**fresh, **body}


def dp_sgd(strength: float, task: Task) -> Defense:
    """DP-SGD to epsilon = strength at delta = 1/n: Poisson samples, clipped per-example gradients, Gaussian noise.

    The number of steps is fixed and the noise is solved for the epsilon (`privacy.py`); nothing is decided by the
    loss, which would not be private. Source: arXiv 1607.00133.
    """
    return _private(strength, task, optimizer="sgd", learning_rate=0.5)


def dp_adam(strength: float, task: Task) -> Defense:
    """The same gradients given to Adam, as in the paper's code."""
    return _private(strength, task, optimizer="adam", learning_rate=1e-3)


_DP_CLIP, _DP_EPOCHS = 1.0, 30


def _private(target_epsilon: float, task: Task, **changes) -> Defense:
    recipe = task.recipe._replace(max_epochs=_DP_EPOCHS, patience=None, **changes)
    return of_mechanism(privacy.solve(mechanism_for(task.n_train, recipe), target_epsilon), recipe)


def mechanism_for(n: int, recipe: Recipe, delta: float | None = None) -> privacy.Mechanism:
    """The mechanism of a training of n rows by `recipe`, its noise 1 and its delta 1/n if nothing else is said."""
    batch = min(recipe.batch_size, n)
    return privacy.Mechanism(n, batch, recipe.max_epochs * -(-n // batch), _DP_CLIP, 1.0, delta or 1 / n)


def of_mechanism(mechanism: privacy.Mechanism, recipe: Recipe) -> Defense:
    """Training by `recipe` whose every gradient is made by `mechanism`; its clip and noise are the strength."""
    return Defense(
        strength={"clip": mechanism.clip, "noise": mechanism.noise},
        recipe=_always(recipe),
        mechanism=_mechanism(mechanism._replace(clip=None, noise=None)),
    )


@functools.cache
def _always(recipe: Recipe) -> Callable[[Recipe], Recipe]:
    return lambda asked: recipe


@functools.cache
def _mechanism(shape: privacy.Mechanism) -> Callable[[dict], privacy.Mechanism]:
    return lambda strength: shape._replace(**strength)


def adversarial(strength: float) -> Defense:
    """Adversarial regularisation: the loss has strength * log of what an attack network gives for membership.

    The attack network is trained beside the model, one step a step, on members and on the reference rows of the
    split, after three epochs without it. In the authors' code with the paper's k = 1 it is never trained, which
    leaves a random penalty; here it is. Source: Nasr et al. 2018 (arXiv 1807.05852), algorithm 1; the paper, A.2.
    """
    return Defense(strength=strength, opponent=adversary.opponent())


def memguard(strength: float) -> Defense:
    """MemGuard at its strongest: 1/C + strength on the predicted class, the rest shared; the label never changes.

    Source: arXiv 2007.14321v2, section 7.1, with strength 1e-3. The confidence vector then says nothing beyond the
    label. The predicted class is taken from the logits, so that no tie of rounded probabilities can move it.
    Strengths that float32 would lose, and those that could make a probability negative (C = 2), are refused.
    """
    if not 1e-6 <= strength <= 0.5:
        raise ValueError(f"defense memguard:{strength:g}: expected a strength in 1e-6..0.5")
    return Defense(strength=strength, output=_memguard)


def _memguard(strength, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    C = logits.shape[-1]
    predicted = jax.nn.one_hot(logits.argmax(-1), C)
    shown = 1 / C + strength * jnp.where(predicted == 1, 1.0, -1 / (C - 1))
    return jnp.where(jnp.isnan(logits).any(-1, keepdims=True), jnp.nan, shown)


def top_k(strength: float) -> Defense:
    """The `strength` largest probabilities, the others shown as 0 and the rest rescaled; the label never changes."""
    if not strength == int(strength) >= 1:
        raise ValueError(f"defense top_k:{strength:g}: expected a whole number of classes, at least 1")
    return Defense(strength=jnp.int32(strength), output=_top_k)


def _top_k(k, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rank = jnp.argsort(jnp.argsort(-logits, -1), -1)  # both stable: among equals the first, which is the label, leads
    probabilities = jnp.where(rank < k, jax.nn.softmax(logits), 0)
    return _keeping_the_label(logits, probabilities / probabilities.sum(-1, keepdims=True))


def rounding(strength: float) -> Defense:
    """Probabilities to `strength` decimals, rescaled to sum to 1; the label never changes."""
    if strength != int(strength) or strength > 6:
        raise ValueError(f"defense rounding:{strength:g}: expected a whole number of decimals in 0..6")
    return Defense(strength=10.0**strength, output=_rounding)


def _rounding(scale, key, predict, x: Array) -> jax.Array:
    logits = predict(x)
    rounded = jnp.round(jax.nn.softmax(logits) * scale) / scale
    sums = rounded.sum(-1, keepdims=True)
    even = jnp.full_like(rounded, 1 / rounded.shape[-1])
    return _keeping_the_label(logits, jnp.where(sums > 0, rounded / jnp.where(sums > 0, sums, 1), even))


def _keeping_the_label(logits: jax.Array, shown: jax.Array) -> jax.Array:
    """`shown` with the predicted class lifted by two units in the last place, so that no tie moves the label."""
    predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    return jnp.where(predicted == 1, shown.max(-1, keepdims=True) * (1 + 2e-7), shown)


def ldl(strength: float, task: Task) -> Defense:
    """The label most of 20 noisy copies of the question get, noise fixed by the question itself.

    Images get Gaussian noise of deviation `strength`, bits flip with that probability. The same question always
    gets the same answer, so asking again is no way around it. Where confidences are shown they are the shares of
    the votes. Source: Rajabi et al. 2023 (arXiv 2212.01688), who average logits of 200 copies with fresh noise;
    a majority of labels is what their text describes, and 20 copies are what a service may pay.
    """
    return Defense(strength=strength, output=_voted(_ldl_noise(strength, task), False))


def ldl_fresh(strength: float, task: Task) -> Defense:
    """The same with fresh noise for every question, as the authors' code has it: whoever asks again may learn more."""
    return ldl(strength, task)._replace(output=_voted(_ldl_noise(strength, task), True), random=True)


def _ldl_noise(strength: float, task: Task) -> Any:
    bits = task.binary is not None and task.binary.any()
    if bits and strength > 0.5:
        raise ValueError(f"defense ldl:{strength:g}: expected a probability of at most 1/2, with which bits flip")
    return measures.by_column(task.binary)


@functools.cache
def _voted(noise: Callable, fresh: bool) -> Callable:
    def output(strength, key, predict, x: Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x)) if fresh else _digest(x))
        both = {"sigma": strength, "p": strength}
        copies = jax.vmap(lambda key, one: noise(both, key, one, _LDL_COPIES))(keys, x)  # [B 20 *x]
        logits = jax.lax.map(predict, jnp.moveaxis(copies, 1, 0))  # [20 B C]
        votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).mean(0)
        return jnp.where(jnp.isnan(logits).any((0, 2))[:, None], jnp.nan, votes)

    return output


def _digest(x: Array) -> jax.Array:
    """A number [B] uint32 of each example, which changes with any bit of it."""
    words = jax.lax.bitcast_convert_type(x.reshape(len(x), -1).astype(jnp.float32), jnp.uint32)
    odd = randomness.bits(jax.random.key(1), words.shape[1]) | 1
    return (words * odd).sum(1, dtype=jnp.uint32)


DEFENSES: dict[str, Kind] = {
    "none": Kind(none, None),
    "l1": Kind(l1, 1e-4),
    "l2": Kind(l2, 0.01),
    "l1_all": Kind(l1_all, 1e-4),
    "l2_all": Kind(l2_all, 0.01),
    "weight_decay": Kind(weight_decay, 5e-4),
    "dropout": Kind(dropout, 0.5),
    "augmentation": Kind(augmentation, 1),
    "random_augmentation": Kind(random_augmentation, 4),
    "transfer_full": Kind(transfer_full, None, of_task=True),
    "transfer_last": Kind(transfer_last, None, of_task=True),
    "dp_sgd": Kind(dp_sgd, 8, of_task=True),
    "dp_adam": Kind(dp_adam, 8, of_task=True),
    "adversarial": Kind(adversarial, 2),
    "memguard": Kind(memguard, 1e-3),
    "top_k": Kind(top_k, 3),
    "rounding": Kind(rounding, 1),
    "ldl": Kind(ldl, _LDL_DEFAULT, of_task=True),
    "ldl_fresh": Kind(ldl_fresh, _LDL_DEFAULT, of_task=True),
}
