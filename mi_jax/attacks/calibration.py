"""Likelihood ratios of one point: what the target says against what shadow models trained with and without it say.

Every function takes a `types.Reference`: features of K models for P points, and for every point as many models
inside (trained with it) as outside. Offline, without models inside, members are assumed to exceed non-members by some
standard deviations (`SHIFTS`).

Few models know a variance badly. The variance of c models is therefore shrunk towards its mean over points, which
counts as much as PRIOR models do (the conjugate prior of a normal variance). The likelihood is the predictive one,
Student's t with c + PRIOR degrees of freedom, so that 8 models and 127 are both believed as far as they deserve.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats

from mi_jax.types import PointScores, Reference

PRIOR = 31  # models that the mean variance over points counts for
SHIFTS = (1.0, 2.0, 3.0)  # standard deviations by which a member may exceed a non-member, equally likely
_LEAST_VARIANCE = 1e-6  # relative to the mean square of all features
_LARGEST_DEVIATION = 1e6
_AT_ONCE = 64  # points whose features are held once more


class Side(NamedTuple):
    """The distribution of F features of each point over the models of one side."""

    count: np.ndarray  # [P 1] number of models
    mean: np.ndarray  # [P F]; 0 for no model
    variance: np.ndarray  # [P F] unbiased; 0 for fewer than two models


def side(features: np.ndarray, models: np.ndarray) -> Side:
    """Returns the moments of features [P K F] over the `models` [P K] (bool) of every point."""
    count = models.sum(1)[:, None].astype(float)
    weight = models[:, None].astype(features.dtype)  # [P 1 S]
    mean, squares = np.empty((len(features), features.shape[2])), np.empty((len(features), features.shape[2]))
    for start in range(0, len(features), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        mean[part] = (weight[part] @ features[part])[:, 0] / np.maximum(count[part], 1)
        centred = features[part] - mean[part, None].astype(features.dtype)
        squares[part] = (weight[part] @ centred**2)[:, 0]
    return Side(count, mean, squares / np.maximum(count - 1, 1))


def shrunk(one: Side, pooled: np.ndarray) -> np.ndarray:
    """Returns the variances [P F], with those in `pooled`, which broadcasts, counting as PRIOR models."""
    least = _LEAST_VARIANCE * (1e-12 + np.mean(one.mean**2) + np.mean(one.variance))
    return np.maximum((one.count * one.variance + PRIOR * pooled) / (one.count + PRIOR), least)


def student(value: np.ndarray, reference: Reference, *, typical: float = 0.0) -> PointScores:
    """Returns the log likelihood ratio of a statistic [P] against features [P K 1], and its rate outside.

    The statistic should be roughly normal over models: a logit, the logarithm of a distance. `typical` is the number
    of models that the mean of a side over all points counts for: above 0 where some points have no model on a side.
    Without models inside, the score rises with the statistic, however large.

    Source: LiRA (Carlini et al. 2022, arXiv 2112.03570), whose statistic is the logit of a confidence. Deviations:
    shrunk variances and Student's likelihood; LiRA has normal ones, of each point or, with few models, of all.
    """

    def standardised(models: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(deviation of `value`, its scale, degrees of freedom), each [P]."""
        one = side(reference.features, models)
        weight, several = one.count + typical, one.count > 1
        pooled = np.asarray(one.variance.mean(where=several) if several.any() else 1.0)
        centre = (one.count * one.mean + typical * _mean_over_points(one)) / weight
        scale = np.sqrt(shrunk(one, pooled) * (1 + 1 / weight))[:, 0]
        return (value - centre[:, 0]) / scale, scale, one.count[:, 0] + PRIOR

    z, scale, degrees = standardised(reference.outside)
    if not reference.inside.any():
        normal = _normal_score(z, degrees)[:, None]
        shifted = special.logsumexp(normal * SHIFTS - np.square(SHIFTS) / 2, axis=1) - np.log(len(SHIFTS))
        return PointScores(shifted, stats.t.sf(z, degrees))
    outside = stats.t.logpdf(z, degrees) - np.log(scale)
    within, width, of_members = standardised(reference.inside)
    inside = stats.t.logpdf(within, of_members) - np.log(width)
    return PointScores(inside - outside, stats.t.sf(z, degrees))


def _normal_score(z: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """The normal deviate with the tail probability of Student's z: the ratio of two shifted t falls again beyond 8."""
    tail = stats.t.logsf(np.minimum(np.abs(z), _LARGEST_DEVIATION), degrees)
    return np.sign(z) * -special.ndtri_exp(tail)


def _mean_over_points(one: Side) -> np.ndarray:
    """The mean feature [1 F] of all models and points of a side."""
    return (one.count * one.mean).sum(0, keepdims=True) / np.maximum(one.count.sum(), 1)


def hurdle(value: np.ndarray, reference: Reference) -> PointScores:
    """Returns the log likelihood ratio of a distance [P] to the decision boundary, 0 where the target mislabels.

    Two parts: whether the point is labelled correctly, with smoothed rates of both sides; and if it is, the logarithm
    of its distance, as in `student`, over the models that label it correctly. An infinite distance (no query flipped
    the label) counts as the largest finite one.
    """
    distances, correct = reference.features[..., 0], reference.features[..., 0] > 0
    used = (reference.inside | reference.outside) & correct
    finite = np.concatenate([distances[used & np.isfinite(distances)], value[(value > 0) & np.isfinite(value)], [1.0]])

    def logarithm(distance: np.ndarray) -> np.ndarray:
        return np.log(np.clip(np.nan_to_num(distance, nan=0.0), finite.min(), finite.max()))

    def rate_of(models: np.ndarray) -> np.ndarray:
        return ((models & correct).sum(1) + 0.5) / (models.sum(1) + 1)

    outside = rate_of(reference.outside)
    inside = rate_of(reference.inside) if reference.inside.any() else (1 + outside) / 2
    known = Reference(logarithm(distances)[..., None], reference.inside & correct, reference.outside & correct)
    distance = student(logarithm(value), known, typical=1.0)
    score = np.where(value > 0, np.log(inside / outside) + distance.score, np.log((1 - inside) / (1 - outside)))
    return PointScores(score, np.where(value > 0, outside * distance.false_positive_rate, 1.0))
