"""DEFENSES: name -> a function of one strength that returns a `Defense`. A new defense is one function, one line."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mi_jax import perturbations
from mi_jax.types import Defense, Params

_SHIFTS = range(6)  # pixels, as in the paper


def build(text: str) -> Defense:
    """The defense written NAME or NAME:STRENGTH, as in `--defense=l2:0.01`."""
    name, colon, written = text.partition(":")
    if name not in DEFENSES:
        raise ValueError(f"unknown defense {name!r}: known are {', '.join(DEFENSES)}")
    make, default = DEFENSES[name]
    if colon and default is None:
        raise ValueError(f"defense {text!r}: {name} takes no strength")
    try:
        strength = float(written) if colon else default
    except ValueError:
        raise ValueError(f"defense {text!r}: expected a number after the colon") from None
    if strength is None:
        return make()
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"defense {text!r}: expected a finite strength >= 0")
    return make(strength)._replace(name=f"{name}:{strength:g}")


def none() -> Defense:
    """No defense."""
    return Defense()


def l1(strength: float) -> Defense:
    """strength * sum |w| over dense kernels, added to every training loss (the placement of the paper's code)."""
    return Defense(penalty=lambda params: strength * _over_dense_kernels(params, jnp.abs))


def l2(strength: float) -> Defense:
    """strength * sum w^2 over dense kernels, added to every training loss (the placement of the paper's code)."""
    return Defense(penalty=lambda params: strength * _over_dense_kernels(params, jnp.square))


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


def memguard(strength: float) -> Defense:
    """MemGuard at its strongest: 1/C + strength on the predicted class, the rest shared; the label never changes.

    Source: arXiv 2007.14321v2, section 7.1, with strength 1e-3. The confidence vector then says nothing beyond the
    label. The predicted class is taken from the logits, so that no tie of rounded probabilities can move it.
    Strengths that float32 would lose, and those that could make a probability negative (C = 2), are refused.
    """
    if not 1e-6 <= strength <= 0.5:
        raise ValueError(f"defense memguard:{strength:g}: expected a strength in 1e-6..0.5")

    def output(logits: jax.Array) -> jax.Array:
        C = logits.shape[-1]
        predicted = jax.nn.one_hot(logits.argmax(-1), C)
        return 1 / C + strength * jnp.where(predicted == 1, 1.0, -1 / (C - 1))

    return Defense(output=output)


def _over_dense_kernels(params: Params, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if leaf.ndim == 2 and "kernel" in str(path[-1])]
    return sum(function(kernel).sum() for kernel in kernels)


# name -> (function, default strength; None: takes none)
DEFENSES: dict[str, tuple[Callable[..., Defense], float | None]] = {
    "none": (none, None),
    "l1": (l1, 1e-4),
    "l2": (l2, 0.01),
    "memguard": (memguard, 1e-3),
    "augmentation": (augmentation, 1),
}
