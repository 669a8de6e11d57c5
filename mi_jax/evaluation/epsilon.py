"""A lower bound of epsilon from one attack on many models, half of them trained with a canary and half without."""

import numpy as np

from mi_jax.evaluation import metrics


def lower_bound(scores: np.ndarray, is_member: np.ndarray, delta: float, level: float) -> dict:
    """The bound of scores [K] of the canary: the first half of the models has its threshold, the rest its rates.

    Each model is an independent trial; `is_member` [K] says which were trained with the canary. Returns
    {"threshold", "epsilon", "true", "members", "false", "nonmembers"}: `epsilon` at this confidence level, and the true
    and false positives with the numbers of models that they are counted on.
    """
    half = len(scores) // 2
    threshold = best_bound_threshold(scores[:half], is_member[:half], delta, level)
    return {"threshold": threshold, **bound_at(threshold, scores[half:], is_member[half:], delta, level)}


def bound_at(threshold: float, scores: np.ndarray, is_member: np.ndarray, delta: float, level: float) -> dict:
    """The bound of all these models at a threshold."""
    called = scores >= threshold
    masks = called & is_member, is_member, called & ~is_member, ~is_member
    true, members, false, nonmembers = (int(mask.sum()) for mask in masks)
    epsilon = metrics.epsilon_lower_bound(true, members, false, nonmembers, delta, level)
    return {"epsilon": epsilon, "true": true, "members": members, "false": false, "nonmembers": nonmembers}


def best_bound_threshold(scores: np.ndarray, is_member: np.ndarray, delta: float, level: float) -> float:
    """The threshold with the largest bound on these models."""
    bounds = {one: bound_at(one, scores, is_member, delta, level)["epsilon"] for one in np.unique(scores).tolist()}
    return max(bounds, key=lambda threshold: bounds[threshold])
