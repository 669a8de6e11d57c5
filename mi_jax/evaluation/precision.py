"""The precision of an attack on one group of points against that on everybody, at thresholds from shadow models.

Precision is that at as many members as non-members (`metrics.balanced_precision`): of a few points, somewhat more than
half may be members by chance alone, which the plain precision would take for a better attack.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mi_jax.evaluation import metrics


class Scored(NamedTuple):
    """Points of one model or several, with an attack's scores."""

    scores: np.ndarray  # [P]
    is_member: np.ndarray  # [P] bool


def count(scored: Scored, threshold: float) -> dict[str, int]:
    """Members and non-members, and how many of each a threshold calls members."""
    called, counts = scored.scores >= threshold, {}
    for name, side in (("members", scored.is_member), ("nonmembers", ~scored.is_member)):
        counts |= {name: int(side.sum()), f"called_{name}": int((called & side).sum())}
    return counts


def precision(counts: dict[str, int]) -> dict[str, float] | None:
    """The precision of such counts with its exact interval; None if no point is called a member."""
    called, false = counts["called_members"], counts["called_nonmembers"]
    return metrics.balanced_precision(called, counts["members"], false, counts["nonmembers"])


def total_precision(trials: Sequence[dict], group: str) -> dict[str, float] | None:
    """The precision that the counts of a group in all trials together have."""
    names = ("members", "called_members", "nonmembers", "called_nonmembers")
    return precision({name: sum(trial[group][name] for trial in trials) for name in names})


def most_precise(shadows: Scored, share: float) -> float:
    """The threshold of the best precision on shadow models that calls at least this share of their points members."""
    return metrics.most_precise_threshold(*shadows, least=max(1, int(share * len(shadows.scores))))


def evaluate_threshold(target: Scored, shadows: Scored, threshold: float) -> dict:
    """A threshold's precision and counts on the target, and its counts on the shadow models it was chosen on."""
    counts, called = count(target, threshold), target.scores >= threshold
    plain = float(target.is_member[called].mean()) if called.any() else None
    return {"threshold": threshold, "precision": precision(counts), "plain_precision": plain, **counts,
            "shadows": count(shadows, threshold)}  # fmt: skip


def compare(trials: Sequence[dict], group: str, everybody: str = "everybody") -> dict:
    """Mean precision on a group and on everybody over trials, and the `improvement` of the former on the latter.

    A trial holds an `evaluate_threshold` of each. `over_points` has the intervals about other points, of the trials'
    counts together. All are None where a trial calls no point a member.
    """
    groups = (group, everybody)
    if any(trial[name]["precision"] is None for trial in trials for name in groups):
        return dict.fromkeys((*groups, "improvement", "over_points"))
    values = {name: [trial[name]["precision"]["mean"] for trial in trials] for name in groups}
    over_points: dict[str, Any] = {name: total_precision(trials, name) for name in groups}
    over_points["improvement"] = metrics.independent_difference(over_points[group], over_points[everybody])
    means = {name: metrics.summary(values[name]) for name in groups}
    improvement = metrics.paired_interval(values[group], values[everybody])
    return means | {"improvement": improvement, "over_points": over_points}
