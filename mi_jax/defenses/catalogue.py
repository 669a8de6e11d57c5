"""DEFENSES: name -> a function of a strength that returns a `Defense`. A new defense is one function, one line.

Written NAME, NAME:STRENGTH or, for two at once, NAME:STRENGTH+NAME:STRENGTH, as in `--defense=dropout:0.5+l2:0.01`.
Each sets fields of `types.Defense`; two that set the same field are refused.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mi_jax import perturbations, privacy
from mi_jax.defenses.adversarial import attack_network
from mi_jax.defenses.outputs import ldl, ldl_fresh, memguard, rounding, top_k
from mi_jax.defenses.penalties import l1, l1_all, l2, l2_all, weight_decay
from mi_jax.models import pretrained
from mi_jax.training import checks
from mi_jax.types import Defense, Model, Params, Recipe

_SHIFTS = range(6)  # pixels, as in the paper


class DefenseContext(NamedTuple):
    """What a defense may know of the training it changes."""

    n_train: int
    model: Model
    example_shape: tuple[int, ...]
    num_classes: int
    binary: np.ndarray | None = None  # [features] bool; None: an image
    recipe: Recipe = Recipe()
    dataset: str = ""
    checkpoint: str | None = None  # file that `experiments.pretrain` wrote; None: where it writes by default
    clip: float = 1.0  # of private gradients
    delta: float | None = None  # of private training; None: 1/n
    epochs: int = 30  # of private training, which ends after them
    rate: float | None = None  # learning rate of private training; None: the defense's own


class Factory(NamedTuple):
    """A line of DEFENSES."""

    make: Callable[..., Defense]  # (strength) or (); where `needs_context`, the DefenseContext after it
    default: float | None  # strength where none is written; None: it takes none
    needs_context: bool = False


def build(text: str, context: DefenseContext | None = None) -> Defense:
    """The defense written in `text`; those whose `Factory` says so need `context`. ValueError names what is wrong."""
    if not text:
        raise ValueError(f"unknown defense '': known are {', '.join(DEFENSES)}")
    return functools.reduce(compose, [_one(name, context) for name in split_names(text)])


def split_names(text: str) -> list[str]:
    """The defenses that `text` joins, each as written."""
    # The + of an exponent (1e+3) stands between digits, that of a second defense before a letter.
    return re.split(r"\+(?![\d.])", text)


def _one(text: str, context: DefenseContext | None) -> Defense:
    name, colon, number = text.partition(":")
    if name not in DEFENSES:
        raise ValueError(f"unknown defense {name!r}: known are {', '.join(DEFENSES)}")
    make, default, needs_context = DEFENSES[name]
    if colon and default is None:
        raise ValueError(f"defense {text!r}: {name} takes no strength")
    try:
        strength = float(number) if colon else default
    except ValueError:
        raise ValueError(f"defense {text!r}: expected a number after the colon") from None
    if needs_context and context is None:
        raise ValueError(f"defense {text!r}: expected its context, defenses.build(text, DefenseContext(...))")
    rest = (context,) if needs_context else ()
    if strength is None:
        return make(*rest)._replace(name=name)
    with np.errstate(over="ignore"):
        if not 0 <= np.float32(strength) < math.inf:  # as it is trained with
            raise ValueError(f"defense {text!r}: expected a strength >= 0 that is finite in float32")
    return make(strength, *rest)._replace(name=f"{name}:{strength:g}")


_TAKE_STRENGTH = ("init_params", "frozen", "model", "penalty", "mechanism", "output")


def compose(a: Defense, b: Defense) -> Defense:
    """Both at once. ValueError where they set the same field, or where what one does would undo the other."""
    name, (set_by_a, set_by_b) = f"{a.name}+{b.name}", map(checks.fields_set, (a, b))
    checks.check_exclusive(name, set_by_a | set_by_b)
    for field in (field for field in Defense._fields if field in set_by_a & set_by_b):
        raise ValueError(f"defense {name}: both set the field {field!r}, expected two that do not")
    both = {}
    for field in Defense._fields[2:-1]:
        i, function = (0, getattr(a, field)) if field in set_by_a else (1, getattr(b, field))
        if function is not None:
            both[field] = _with_strength(i, function) if field in _TAKE_STRENGTH or field == "adversary" else function
    return Defense(name, (a.strength, b.strength), **both, random=a.random or b.random)


@functools.lru_cache(maxsize=256)  # one object for the same two, so that compiled programs are found again
def _with_strength(i: int, function: Any) -> Any:
    """A field of the i-th of two composed defenses, which takes its strength out of the pair."""
    if isinstance(function, tuple):  # an AdversarialRegularizer
        return function._replace(loss=_with_strength(i, function.loss))
    return lambda strengths, *arguments: function(strengths[i], *arguments)


def defense_mechanism(defense: Defense) -> privacy.Mechanism:
    """The mechanism of a private defense with its clip and noise, as `privacy.epsilon` takes it."""
    return defense.mechanism(defense.strength)


def none() -> Defense:
    """No defense."""
    return Defense()


def dropout(strength: float) -> Defense:
    """Each hidden unit at the model's dropout slots is 0 with this probability in every training step.

    The slots are those of the authors' code: before and behind the CNN's layer of 512; of an MLP the input and each
    hidden layer.
    """
    if not 0 <= np.float32(strength) < 1:  # as it is trained with: float32 makes 1 of 0.99999999
        raise ValueError(f"defense dropout:{strength:.10g}: expected a probability in [0, 1)")
    return Defense(strength=strength, model=_with_dropout)


def _with_dropout(rate, model: Model) -> Model:
    if "dropout" not in inspect.signature(model.apply).parameters:
        raise ValueError(f"model {model.name}: its apply takes no `dropout`, expected one with dropout slots")
    return model._replace(apply=functools.partial(model.apply, dropout=rate))


def augmentation(strength: float) -> Defense:
    """Every epoch trains on each image and on its shifts by all (i, j) with |i| + |j| = strength, 0 to 5 pixels.

    These 4 strength + 1 images are those that the translation attack of the same d queries; shifts by fewer pixels are
    not among them. Shadow models are trained like their target. It raises test accuracy and closes the gap between
    train and test, and makes the target leak more to an attacker who queries shifts (the paper, figure 3).

    Source: section 6.1, "all translations of each image" in an epoch, with the translations of section 3.3.
    """
    if strength not in _SHIFTS:
        raise ValueError(f"defense augmentation:{strength:g}: expected a whole number in 0..{_SHIFTS[-1]}")
    return Defense(augmentation=perturbations.translate(strength))


def random_augmentation(strength: float) -> Defense:
    """Every epoch sees each image once, mirrored or not, shifted by up to `strength` pixels and with a square cut out.

    Source: the augmentations of FixMatch's supervised part (figure 4 of the paper), with 4 pixels.
    """
    return Defense(augmentation=perturbations.mirror_shift_cutout(strength))


def transfer_full(context: DefenseContext) -> Defense:
    """Training begins with the layers of a network trained on other data, its last layer new; all of them go on.

    Source: the paper, section 6.2, its network pre-trained on CIFAR-100 (`python -m experiments.pretrain`).
    """
    return Defense(strength=pretrained.load_body(context), init_params=_replace_body)


def transfer_last(context: DefenseContext) -> Defense:
    """The same, and only the last layer is trained: the rest never learns from the private rows.

    The layers that stand still see each row once, without dropout or augmentation; neither goes with this defense.
    """
    return Defense(strength=pretrained.load_body(context), frozen=_body)


def _replace_body(body: dict, fresh: Params) -> Params:
    return {**fresh, **body}


def _body(body: dict) -> dict:
    return body


def dp_sgd(strength: float, context: DefenseContext) -> Defense:
    """DP-SGD to epsilon = strength at delta = 1/n: Poisson samples, clipped per-example gradients, Gaussian noise.

    The number of steps is fixed and the noise is solved for the epsilon (`privacy.py`); nothing is decided by the
    loss, which would not be private. Its learning rate of 1, at a clip of 1, was chosen on digits (one hidden
    layer, n = 100, epsilon 8, 30 epochs: test accuracy 0.60 / 0.72 / 0.77 with 0.5 / 1 / 2; at epsilon 1 0.37 / 0.34 /
    0.26), which epsilon does not count. Source: arXiv 1607.00133.
    """
    return _private(strength, context, optimizer="sgd", learning_rate=1.0)


def dp_adam(strength: float, context: DefenseContext) -> Defense:
    """The same gradients with Adam, as in the paper's code. Rates of 0.003 / 0.01 / 0.03 gave 0.25 / 0.54 / 0.75
    on the digits above."""
    return _private(strength, context, optimizer="adam", learning_rate=0.01)


def _private(target_epsilon: float, context: DefenseContext, **changes) -> Defense:
    recipe = context.recipe._replace(max_epochs=context.epochs, patience=None, **changes)
    recipe = recipe if context.rate is None else recipe._replace(learning_rate=context.rate)
    mechanism = mechanism_for(context.n_train, recipe, clip=context.clip, delta=context.delta)
    return private_training(privacy.solve_noise(mechanism, target_epsilon), recipe)


def mechanism_for(
    n: int, recipe: Recipe, *, clip: float = 1.0, noise: float = 1.0, delta: float | None = None
) -> privacy.Mechanism:
    """The mechanism of a training on n rows by `recipe`; delta is 1/n if nothing else is said."""
    batch = min(recipe.batch_size, n)
    steps = recipe.max_epochs * -(-n // batch)
    return privacy.Mechanism(n, batch, steps, clip, noise, 1 / n if delta is None else delta)


def private_training(mechanism: privacy.Mechanism, recipe: Recipe) -> Defense:
    """Training by `recipe` whose every gradient is made by `mechanism`; its clip and noise are the strength."""
    return Defense(
        strength={"clip": mechanism.clip, "noise": mechanism.noise},
        recipe=_constant(recipe),
        mechanism=_mechanism(mechanism._replace(clip=None, noise=None)),
    )


@functools.cache
def _constant(recipe: Recipe) -> Callable[[Recipe], Recipe]:
    return lambda asked: recipe


@functools.cache
def _mechanism(shape: privacy.Mechanism) -> Callable[[dict], privacy.Mechanism]:
    return lambda strength: shape._replace(**strength)


def adversarial(strength: float) -> Defense:
    """Adversarial regularisation: the loss has strength * log of what an attack network gives for membership.

    The attack network is trained beside the model, one step a step, on members and on the reference rows of the
    split, after three epochs without it. In the authors' code with the paper's k = 1 it is never trained, which
    leaves a random penalty; here it is. Training stops after 100 epochs without improvement, because two networks
    that learn from each other improve slowly (the authors' code looks at no loss before epoch 100 either).
    Source: Nasr et al. 2018 (arXiv 1807.05852), algorithm 1; the paper, A.2.
    """
    return Defense(strength=strength, recipe=_patient, adversary=attack_network())


def _patient(recipe: Recipe) -> Recipe:
    return recipe if recipe.patience is None else recipe._replace(patience=max(recipe.patience, 100))


def double_dip(strength: float, context: DefenseContext) -> Defense:
    """Transfer of all layers and, where it is asked, `ldl` with this noise. Source: arXiv 2402.01114, whose frozen
    depth and noise are not said: here all layers go on and the noise is the strength."""
    return compose(transfer_full(context), ldl(strength, context))


DEFENSES: dict[str, Factory] = {
    "none": Factory(none, None),
    "l1": Factory(l1, 1e-4),
    "l2": Factory(l2, 0.01),
    "l1_all": Factory(l1_all, 1e-4),
    "l2_all": Factory(l2_all, 0.01),
    "weight_decay": Factory(weight_decay, 5e-4),
    "dropout": Factory(dropout, 0.5),
    "augmentation": Factory(augmentation, 1),
    "random_augmentation": Factory(random_augmentation, 4),
    "transfer_full": Factory(transfer_full, None, needs_context=True),
    "transfer_last": Factory(transfer_last, None, needs_context=True),
    "dp_sgd": Factory(dp_sgd, 8, needs_context=True),
    "dp_adam": Factory(dp_adam, 8, needs_context=True),
    "adversarial": Factory(adversarial, 2),
    "memguard": Factory(memguard, 1e-3),
    "top_k": Factory(top_k, 3),
    "rounding": Factory(rounding, 1),
    "ldl": Factory(ldl, 0.1, needs_context=True),
    "double_dip": Factory(double_dip, 0.1, needs_context=True),
    "ldl_fresh": Factory(ldl_fresh, 0.1, needs_context=True),
}
