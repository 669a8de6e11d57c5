"""Attacks with one threshold for all points, those of the paper: their candidates, tuned on shadow models.

An attack has three parts: the neighbours of an example, the queries made for each of them, and a score of the answers.
A new attack is a function that chooses the three, and a line in `catalogue.ATTACKS`.

An attack with a strength (an angle, a sigma) is a grid of candidates. All of them are tried on the trial's shadow
models; the target answers only the queries of the chosen one (`trials.one_threshold`).
"""

from collections.abc import Callable

import numpy as np

from mi_jax import perturbations
from mi_jax.attacks import classifiers, measures
from mi_jax.attacks.boundary import boundary_distance
from mi_jax.attacks.confidence import logits_of
from mi_jax.attacks.context import AttackContext, in_units
from mi_jax.attacks.rays import ray_distance
from mi_jax.attacks.schedules import schedule
from mi_jax.types import Attack, Fitted, Measure, Perturbation, Score

# Strengths of Gaussian noise by their unit: the range of all pixels, or the standard deviation of each column.
# The paper's grid is 0.02, 0.03 .. 0.10, with the best near 0.06 on CIFAR-10. On digits (8x8) the best is near 0.15.
SIGMAS = {
    "range": (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3),
    "standard deviation": (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
}
# A strength is chosen with a share of the budget, but at least so many queries: the paper takes 1,000 of 10,000.
TUNING_BUDGET, TUNING_SHARE = 100, 0.1
FLIPS = (1, 2, 3, 5, 10)  # expected number of flipped bits per row; p = flips / bits (the paper's grid)
# In tables with bits and real columns both strengths are tuned together, on a coarse grid. On Adult a third or half of
# all bits flipped (the paper's p of 30 and 50 in 107) is too much: two models of n = 2,000, at their best thresholds
# and sigma <= 0.1, gave 53 to 56 % where the gap is 57.7; 0 (only real columns change) to 5 flips gave 57.7 to 58.8.
# There sigma matters little: with 0 flips, four shadow models give 57.7 to 58.0 % from 0.05 to 4 deviations, and their
# AUC rises from .578 at 0.05 to .584 at 2 and .595 at 4.
MIXED_FLIPS = (0, 1, 5, 20)
MIXED_SIGMAS = {"range": (0.02, 0.05, 0.2, 0.4), "standard deviation": (0.1, 0.5, 2.0, 4.0)}


def gap(context: AttackContext) -> tuple[Attack, ...]:
    """Member iff labelled correctly: accuracy 1/2 + (train - test) / 2, one query, never tuned (Yeom et al. 2018)."""
    return (
        Attack("gap", "label", perturbations.only_itself, measures.label_is_correct(), last_feature, threshold=0.5),
    )


def noise(context: AttackContext) -> tuple[Attack, ...]:
    """The share of noisy copies still labelled y (paper, 4.3): bit flips, or Gaussian noise on images and real columns.

    Noise of a real column is in units of its standard deviation, that of pixels in units of their range. For a table
    with both kinds of columns, the grid has every p with every sigma.
    """
    bits, reals = context.num_discrete, context.num_real
    unit = "standard deviation" if np.ndim(context.spread) else "range"
    flips, sigmas = (MIXED_FLIPS, MIXED_SIGMAS) if bits and reals else (FLIPS, SIGMAS)
    p_grid = [{"p": p} for p in sorted({min(count / bits, 0.5) for count in flips})] if bits else [{}]
    sigma_grid = [{"sigma": sigma, "unit": unit} for sigma in sigmas[unit]] if reals else [{}]
    grid = [p | sigma for p in p_grid for sigma in sigma_grid]

    def candidate(strength: dict, queries: int) -> Attack:
        measure, settings = noisy_hit_rate(context, strength, queries), strength | {"queries": queries}
        return Attack("noise", "label", perturbations.only_itself, measure, last_feature, settings=settings)

    tuning = min(context.budget, max(TUNING_BUDGET, int(TUNING_SHARE * context.budget)))
    if tuning == context.budget:
        return tuple(candidate(strength, tuning) for strength in grid)
    return tuple(
        candidate(strength, tuning)._replace(full_budget=candidate(strength, context.budget)) for strength in grid
    )


def noisy_hit_rate(context: AttackContext, settings: dict, queries: int | tuple[int, ...]) -> Measure:
    """`measures.hit_rate` at the strengths of these settings: `p`, and `sigma` in units of the context's `spread`."""
    units = {"p": 1.0, "sigma": context.spread / (np.asarray(context.high) - context.low)}
    strength = {name: settings[name] * unit for name, unit in units.items() if name in settings}
    copies = perturbations.column_noise(context.binary, context.categorical)
    return in_units(measures.hit_rate(copies, strength, queries), context)


def confidence_threshold(context: AttackContext) -> tuple[Attack, ...]:
    """A threshold on log(p / (1 - p)) for the true label's probability p, or for the largest one.

    Shadow models choose between the two. The logit distinguishes probabilities that are 1 in float32. Source: the loss
    of Yeom et al. 2018, with the scale of Carlini et al. 2022 (arXiv 2112.03570).
    """
    measure, neighbours = measures.confidences(), perturbations.only_itself
    statistics = {"logit of the true label": _true_label, "logit of the largest probability": _largest}
    return tuple(
        Attack("confidence_threshold", "confidence", neighbours, measure, fit, settings={"statistic": name})
        for name, fit in statistics.items()
    )


def confidence_network(context: AttackContext) -> tuple[Attack, ...]:
    """Shokri's attack as the paper runs it: for each class a network with 64 hidden units on the probabilities."""
    fit = _fit_on(np.exp, classifiers.network((64,), per_class=True))
    return (Attack("confidence_network", "confidence", perturbations.only_itself, measures.confidences(), fit),)


def boundary(context: AttackContext) -> tuple[Attack, ...]:
    """The L2 distance to the decision boundary, by HopSkipJump from labels alone (paper, 4.4)."""
    settings = {"queries": context.budget}
    return (
        Attack("boundary", "label", perturbations.only_itself, _distance(context), last_feature, settings=settings),
    )


def rays(context: AttackContext) -> tuple[Attack, ...]:
    """The shortest distance to another label along random rays: fewer queries than `boundary` at small budgets."""
    measure, settings = in_units(ray_distance(context.budget), context), {"queries": context.budget}
    return (Attack("rays", "label", perturbations.only_itself, measure, last_feature, settings=settings),)


def combined(context: AttackContext) -> tuple[Attack, ...]:
    """The boundary distances of the image and of its four shifts by one pixel, and a 10-10-2 network on the five.

    Every correctly labelled copy uses the whole budget, so the query count is up to five times that of `boundary`.
    Source: the paper, 4.4 and A.1.
    """
    measure, settings = _distance(context), {"queries": context.budget}
    neighbours = perturbations.translate(1)
    return (Attack("combined", "label", neighbours, measure, _network_on_last, settings=settings),)


def white_box(context: AttackContext) -> tuple[Attack, ...]:
    """The boundary distance by Carlini and Wagner's attack: a baseline with gradients, not a label-only attack."""
    return (Attack("white_box", "gradient", perturbations.only_itself, None, last_feature),)


def _distance(context: AttackContext) -> Measure:
    return in_units(boundary_distance(schedule(context.budget, int(np.prod(context.example_shape)))), context)


def perturbation_attack(name: str, candidates: dict[str, Perturbation]) -> tuple[Attack, ...]:
    """The paper's augmentation attack for any perturbation: a bit per neighbour (labelled correctly or not), and a
    10-10-2 network on the bits. `candidates`: setting -> perturbation; one is chosen on shadow models.

    Deviation: one network for all classes. The bits mean the same in every class, and with 100 training rows the
    authors' network per class would be trained on about twenty rows.
    """
    return tuple(
        Attack(name, "label", neighbours, measures.label_is_correct(), _ten_ten, settings={"perturbation": setting})
        for setting, neighbours in candidates.items()
    )


def random_augmentation(context: AttackContext) -> tuple[Attack, ...]:
    """A bit for the example and each of budget - 1 random augmentations, labelled correctly or not, and a logistic
    regression on the bits.

    Source: figure 4 of the paper, 1,000 augmentations as in FixMatch training. The paper does not name the classifier.
    """
    measure = in_units(measures.label_bits(perturbations.mirror_shift_cutout(_SHIFT), context.budget), context)
    settings, neighbours = {"pixels": _SHIFT, "queries": context.budget}, perturbations.only_itself
    return (Attack("random_augmentation", "label", neighbours, measure, classifiers.logistic, settings=settings),)


_SHIFT = 4  # pixels, as in FixMatch


def perturbation_family(name: str) -> Callable[[AttackContext], tuple[Attack, ...]]:
    """Returns the function that makes the attack of a family of PERTURBATIONS, at every strength of its grid."""

    def candidates(context: AttackContext) -> tuple[Attack, ...]:
        del context  # a perturbation checks the shape of examples itself
        family = perturbations.PERTURBATIONS[name]
        return perturbation_attack(name, {f"{name} {strength}": family.make(strength) for strength in family.grid})

    return candidates


def fixed_score(score: Score) -> Callable[..., Fitted]:
    """A `fit` that learns nothing: the score is this function (features [P M F], y [P]) -> [P] of the features."""
    return lambda key, features, y, is_member: Fitted(score, score(features, y))


last_feature = fixed_score(lambda features, y: features[:, 0, -1])  # of several checkpoints the last: the full budget
_true_label = fixed_score(lambda features, y: logits_of(features[:, 0], y))
_largest = fixed_score(lambda features, y: logits_of(features[:, 0], features[:, 0].argmax(1)))


def _fit_on(view: Callable[[np.ndarray], np.ndarray], fit: Callable[..., Fitted]) -> Callable[..., Fitted]:
    """The `fit` for a view of the features."""

    def fit_on_view(key, features: np.ndarray, y: np.ndarray, is_member: np.ndarray) -> Fitted:
        score, held_out = fit(key, view(features), y, is_member)
        return Fitted(lambda features, y: score(view(features), y), held_out)

    return fit_on_view


_ten_ten = classifiers.network((10, 10), per_class=False)
_network_on_last = _fit_on(lambda features: features[:, :, -1:], _ten_ten)  # the paper's, on the last of each copy
