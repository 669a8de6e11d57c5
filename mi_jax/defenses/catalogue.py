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

import numpy as np

from mi_jax import perturbations, privacy
from mi_jax.defenses.adversarial import opponent
from mi_jax.defenses.outputs import ldl, ldl_fresh, memguard, rounding, top_k
from mi_jax.defenses.penalties import l1, l1_all, l2, l2_all, weight_decay
from mi_jax.models import pretrained
from mi_jax.training import checks
from mi_jax.types import Defense, Model, Params, Recipe

_SHIFTS = range(6)  # pixels, as in the paper


class Task(NamedTuple):
    """What a defense may know of the training it steps into."""

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
    epochs: int = 30  # of private training, which nothing but their number ends
    rate: float | None = None  # learning rate of private training; None: the defense's own


class Kind(NamedTuple):
    """A line of DEFENSES."""

    make: Callable[..., Defense]  # (strength) or (), and with `of_task` the Task after it
    default: float | None  # strength where none is written; None: it takes none
    of_task: bool = False


def build(text: str, task: Task | None = None) -> Defense:
    """The defense written in `text`; `task` is needed by those whose `Kind` says so. ValueError names what is wrong."""
    if not text:
        raise ValueError(f"unknown defense '': known are {', '.join(DEFENSES)}")
    return functools.reduce(compose, [_one(part, task) for part in parts(text)])


def parts(text: str) -> list[str]:
    """The defenses that `text` joins, each as written."""
    # The + of an exponent (1e+3) stands between digits, that of a second defense before a letter.
    return re.split(r"\+(?![\d.])", text)


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
    with np.errstate(over="ignore"):
        if not 0 <= np.float32(strength) < math.inf:  # as it is trained with
            raise ValueError(f"defense {text!r}: expected a strength >= 0 that is finite in float32")
    return make(strength, *rest)._replace(name=f"{name}:{strength:g}")


_OF_STRENGTH = ("begin", "frozen", "model", "penalty", "mechanism", "output")  # whose function is given the strength


def compose(a: Defense, b: Defense) -> Defense:
    """Both at once. ValueError where they take the same place, or where what one does would undo the other."""
    names, (of_a, of_b) = f"{a.name}+{b.name}", map(checks.taken, (a, b))
    checks.check_places(names, of_a | of_b)
    for place in (place for place in Defense._fields if place in of_a & of_b):
        raise ValueError(f"defense {names}: both take the place {place!r}, expected two that do not")
    both = {}
    for place in Defense._fields[2:-1]:
        i, function = (0, getattr(a, place)) if getattr(a, place) is not None else (1, getattr(b, place))
        if function is not None:
            both[place] = _at(i, function) if place in _OF_STRENGTH or place == "opponent" else function
    return Defense(names, (a.strength, b.strength), **both, random=a.random or b.random)


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
    """The same, and only the last layer is trained: the rest never learns from the private rows.

    The layers that stand still see each row once, without dropout or augmentation; neither goes with this defense.
    """
    return Defense(strength=pretrained.load(task), frozen=_itself)


def _body_of(body: dict, fresh: Params) -> Params:
    return {**fresh, **body}


def _itself(body: dict) -> dict:
    return body


def dp_sgd(strength: float, task: Task) -> Defense:
    """DP-SGD to epsilon = strength at delta = 1/n: Poisson samples, clipped per-example gradients, Gaussian noise.

    The number of steps is fixed and the noise is solved for the epsilon (`privacy.py`); nothing is decided by the
    loss, which would not be private. Its learning rate of 1, at a clip of 1, was chosen on digits (one hidden
    layer, n = 100, epsilon 8, 30 epochs: test accuracy 0.60 / 0.72 / 0.77 with 0.5 / 1 / 2; at epsilon 1 0.37 / 0.34 /
    0.26), which epsilon does not count. Source: arXiv 1607.00133.
    """
    return _private(strength, task, optimizer="sgd", learning_rate=1.0)


def dp_adam(strength: float, task: Task) -> Defense:
    """The same gradients given to Adam, as in the paper's code. Rates of 0.003 / 0.01 / 0.03 gave 0.25 / 0.54 / 0.75
    on the digits above."""
    return _private(strength, task, optimizer="adam", learning_rate=0.01)


def _private(target_epsilon: float, task: Task, **changes) -> Defense:
    recipe = task.recipe._replace(max_epochs=task.epochs, patience=None, **changes)
    recipe = recipe if task.rate is None else recipe._replace(learning_rate=task.rate)
    mechanism = mechanism_for(task.n_train, recipe, clip=task.clip, delta=task.delta)
    return of_mechanism(privacy.solve(mechanism, target_epsilon), recipe)


def mechanism_for(
    n: int, recipe: Recipe, *, clip: float = 1.0, noise: float = 1.0, delta: float | None = None
) -> privacy.Mechanism:
    """The mechanism of a training on n rows by `recipe`; delta is 1/n if nothing else is said."""
    batch = min(recipe.batch_size, n)
    steps = recipe.max_epochs * -(-n // batch)
    return privacy.Mechanism(n, batch, steps, clip, noise, 1 / n if delta is None else delta)


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
    leaves a random penalty; here it is. Training stops after 100 epochs without improvement, because two networks
    that learn from each other improve slowly (the authors' code looks at no loss before epoch 100 either).
    Source: Nasr et al. 2018 (arXiv 1807.05852), algorithm 1; the paper, A.2.
    """
    return Defense(strength=strength, recipe=_patient, opponent=opponent())


def _patient(recipe: Recipe) -> Recipe:
    return recipe if recipe.patience is None else recipe._replace(patience=max(recipe.patience, 100))


def double_dip(strength: float, task: Task) -> Defense:
    """Transfer of all layers and, where it is asked, `ldl` with this noise. Source: arXiv 2402.01114, whose frozen
    depth and noise are not said: here all layers go on and the noise is the strength."""
    return compose(transfer_full(task), ldl(strength, task))


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
    "ldl": Kind(ldl, 0.1, of_task=True),
    "double_dip": Kind(double_dip, 0.1, of_task=True),
    "ldl_fresh": Kind(ldl_fresh, 0.1, of_task=True),
}
