"""DEFENSES: name -> a function of a strength that returns a `Defense`. A new defense is one function and one line.

A defense is written NAME or NAME:STRENGTH, and two together NAME:STRENGTH+NAME:STRENGTH, as in
`--defense=dropout:0.5+l2:0.01`. Each sets fields of `types.Defense`; two that set the same field are refused.
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
from mi_jax.models import heads, pretrained
from mi_jax.training import checks
from mi_jax.types import AdversarialRegularizer, Defense, Model, Params, Recipe

_SHIFTS = range(6)  # pixels, as in the paper


class DefenseContext(NamedTuple):
    """What a defense may know about the training that it changes."""

    n_train: int
    model: Model
    example_shape: tuple[int, ...]
    num_classes: int
    binary: np.ndarray | None = None  # [features] bool; None: an image
    recipe: Recipe = Recipe()
    dataset: str = ""
    checkpoint: str | None = None  # file written by `experiments.pretrain`; None: its default path
    clip: float = 1.0  # of private gradients
    delta: float | None = None  # of private training; None: 1/n
    epochs: int = 30  # of private training, which has no early stopping
    rate: float | None = None  # learning rate of private training; None: the defense's own


class Factory(NamedTuple):
    """An entry of DEFENSES."""

    make: Callable[..., Defense]  # (strength) or (); with `needs_context` also the DefenseContext
    default: float | None  # default strength; None: the defense has no strength
    needs_context: bool = False


def build(text: str, context: DefenseContext | None = None) -> Defense:
    """Returns the defense written in `text`; some need a `context`. Raises ValueError for an invalid text."""
    if not text:
        raise ValueError(f"unknown defense '': known are {', '.join(DEFENSES)}")
    return functools.reduce(compose, [_build_single(part, context) for part in split_names(text)])


def split_names(text: str) -> list[str]:
    """Returns the defenses that `text` joins by +, each as written."""
    # A + before a digit is that of an exponent (1e+3); a second defense begins with a letter.
    return re.split(r"\+(?![\d.])", text)


def _build_single(text: str, context: DefenseContext | None) -> Defense:
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
        raise ValueError(f"defense {text!r}: expected a context, defenses.build(text, DefenseContext(...))")
    arguments = (context,) if needs_context else ()
    if strength is None:
        return make(*arguments)._replace(name=name)
    with np.errstate(over="ignore"):
        if not 0 <= np.float32(strength) < math.inf:  # float32 is the precision of training
            raise ValueError(f"defense {text!r}: expected a strength >= 0 that is finite in float32")
    return make(strength, *arguments)._replace(name=f"{name}:{strength:g}")


_TAKE_STRENGTH = ("init_params", "frozen", "model", "loss", "penalty", "mechanism", "output")


def compose(a: Defense, b: Defense) -> Defense:
    """Returns both defenses as one. Raises ValueError if they set the same field, or fields that exclude each other."""
    name, (set_by_a, set_by_b) = f"{a.name}+{b.name}", map(checks.fields_set, (a, b))
    checks.check_exclusive(name, set_by_a | set_by_b)
    for field in (field for field in Defense._fields if field in set_by_a & set_by_b):
        raise ValueError(f"defense {name}: both set the field {field!r}, expected different fields")
    fields = {}
    for field in Defense._fields[2:-1]:
        i, function = (0, getattr(a, field)) if field in set_by_a else (1, getattr(b, field))
        if function is not None:
            fields[field] = _with_strength(i, function) if field in _TAKE_STRENGTH or field == "adversary" else function
    return Defense(name, (a.strength, b.strength), **fields, random=a.random or b.random)


@functools.lru_cache(maxsize=256)  # the same arguments return one object, so compiled programs are reused
def _with_strength(i: int, function: Any) -> Any:
    """Returns a field of the i-th of two composed defenses, as a function of the pair of their strengths."""
    if isinstance(function, AdversarialRegularizer):
        return function._replace(loss=_with_strength(i, function.loss))
    return lambda strengths, *arguments: function(strengths[i], *arguments)


def defense_mechanism(defense: Defense) -> privacy.Mechanism:
    """Returns the mechanism of a private defense with its clip and noise, for `privacy.epsilon`."""
    if defense.mechanism is None:
        raise ValueError(f"defense {defense.name}: no mechanism, expected private training")
    return defense.mechanism(defense.strength)


def none() -> Defense:
    """Returns no defense: training and outputs are unchanged."""
    return Defense()


def dropout(strength: float) -> Defense:
    """Returns dropout with this probability at the model's dropout slots.

    The slots are those of the authors' code: before and after the CNN's layer of 512; the input and each hidden layer
    of an MLP.
    """
    if not 0 <= np.float32(strength) < 1:  # in the precision of training: float32 rounds 0.99999999 to 1
        raise ValueError(f"defense dropout:{strength:.10g}: expected a probability in [0, 1)")
    return Defense(strength=strength, model=_with_dropout)


def _with_dropout(rate, model: Model) -> Model:
    if "dropout" not in inspect.signature(model.apply).parameters:
        raise ValueError(f"model {model.name}: apply has no argument `dropout`, expected a model with dropout slots")
    return model._replace(apply=functools.partial(model.apply, dropout=rate))


def augmentation(strength: float) -> Defense:
    """Returns training on each image and its shifts by all (i, j) with |i| + |j| = strength, 0 to 5 pixels.

    Each epoch has all these 4 strength + 1 images. They are the queries of the translation attack with d = strength;
    shifts by fewer pixels are not included. Shadow models are trained like their target. This raises test accuracy and
    closes the gap between train and test accuracy, but the target leaks more to an attacker who queries shifts (the
    paper, figure 3).

    Source: section 6.1, "all translations of each image" in an epoch, with the translations of section 3.3.
    """
    if strength not in _SHIFTS:
        raise ValueError(f"defense augmentation:{strength:g}: expected a whole number in 0..{_SHIFTS[-1]}")
    return Defense(augmentation=perturbations.translate(strength))


def fixmatch_augmentation(strength: float) -> Defense:
    """Returns training on each image once per epoch, mirrored at random, shifted at random and with cutout.

    Shifts are up to `strength` pixels. Source: the augmentations of FixMatch's supervised part (figure 4 of the paper),
    with 4 pixels.
    """
    return Defense(augmentation=perturbations.mirror_shift_cutout(strength))


def transfer_full(context: DefenseContext) -> Defense:
    """Returns fine-tuning of all layers of a network that was pre-trained on other data, with a new last layer.

    Source: the paper, section 6.2, with pre-training on CIFAR-100 (`python -m experiments.pretrain`).
    """
    return Defense(strength=pretrained.load_body(context), init_params=_replace_body)


def transfer_last(context: DefenseContext) -> Defense:
    """Returns training of only the last layer; the pre-trained layers below it never learn from the private rows.

    The frozen layers see each row once, so this defense excludes dropout and augmentation.
    """
    return Defense(strength=pretrained.load_body(context), frozen=_body)


def _replace_body(body: dict, fresh: Params) -> Params:
    return heads.joined(fresh, body)


def _body(body: dict) -> dict:
    return body


def dp_sgd(strength: float, context: DefenseContext) -> Defense:
    """Returns DP-SGD with epsilon = strength at delta = 1/n: Poisson samples, clipped gradients, Gaussian noise.

    The number of steps is fixed, and the noise is solved for epsilon (`privacy.solve_noise`). There is no early
    stopping, which would not be private. The learning rate of 1, at a clip of 1, was chosen on digits, and epsilon does
    not account for that choice (one hidden layer, n = 100, 30 epochs; test accuracy with rates 0.5 / 1 / 2: 0.60 / 0.72
    / 0.77 at epsilon 8, 0.37 / 0.34 / 0.26 at epsilon 1).

    Source: arXiv 1607.00133.
    """
    return _private(strength, context, optimizer="sgd", learning_rate=1.0)


def dp_adam(strength: float, context: DefenseContext) -> Defense:
    """Returns Adam on the gradients of `dp_sgd`, as in the paper's code.

    Rates of 0.003 / 0.01 / 0.03 gave test accuracies of 0.25 / 0.54 / 0.75 on digits, in the setting of `dp_sgd`.
    """
    return _private(strength, context, optimizer="adam", learning_rate=0.01)


def _private(target_epsilon: float, context: DefenseContext, **changes) -> Defense:
    recipe = context.recipe._replace(max_epochs=context.epochs, patience=None, **changes)
    recipe = recipe if context.rate is None else recipe._replace(learning_rate=context.rate)
    mechanism = mechanism_for(context.n_train, recipe, clip=context.clip, delta=context.delta)
    return private_training(privacy.solve_noise(mechanism, target_epsilon), recipe)


def mechanism_for(
    n: int, recipe: Recipe, *, clip: float = 1.0, noise: float = 1.0, delta: float | None = None
) -> privacy.Mechanism:
    """Returns the mechanism of a training on n rows by `recipe`; delta is 1/n by default."""
    batch_size = min(recipe.batch_size, n)
    steps = recipe.max_epochs * -(-n // batch_size)
    return privacy.Mechanism(n, batch_size, steps, clip, noise, 1 / n if delta is None else delta)


def private_training(mechanism: privacy.Mechanism, recipe: Recipe) -> Defense:
    """Returns training by `recipe` with the gradients of `mechanism`, whose clip and noise are the strength."""
    return Defense(
        strength={"clip": mechanism.clip, "noise": mechanism.noise},
        recipe=_constant_recipe(recipe),
        mechanism=_mechanism_of_strength(mechanism._replace(clip=None, noise=None)),
    )


@functools.cache
def _constant_recipe(recipe: Recipe) -> Callable[[Recipe], Recipe]:
    return lambda _: recipe


@functools.cache
def _mechanism_of_strength(sampling: privacy.Mechanism) -> Callable[[dict], privacy.Mechanism]:
    return lambda strength: sampling._replace(**strength)


def adversarial(strength: float) -> Defense:
    """Returns adversarial regularisation: the loss has the term strength * log of an attack network's membership score.

    After a warm-up of three epochs the attack network takes one step per step of the model, on members and on the
    reference rows of the split. Early stopping waits for 100 epochs without improvement, because the two networks
    improve slowly together (the authors' code ignores the loss before epoch 100 too).

    Deviation: in the authors' code, with the paper's k = 1, the attack network is never trained, and the term is a
    random penalty. Here it is trained. Source: Nasr et al. 2018 (arXiv 1807.05852), algorithm 1; the paper, A.2.
    """
    return Defense(strength=strength, recipe=_patient, adversary=attack_network())


def _patient(recipe: Recipe) -> Recipe:
    return recipe if recipe.patience is None else recipe._replace(patience=max(recipe.patience, 100))


def double_dip(strength: float, context: DefenseContext) -> Defense:
    """Returns `transfer_full` together with `ldl` at this strength.

    Source: arXiv 2402.01114, which does not state the number of frozen layers and the noise. Here no layer is frozen.
    """
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
    "random_augmentation": Factory(fixmatch_augmentation, 4),
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
