"""What attacks are worth on points of the same models, and one less another on the points both were put to."""

import itertools
from typing import NamedTuple

import numpy as np

from mi_jax.evaluation import metrics


class Hits(NamedTuple):
    """What an attack made of each target: rows of the pool, who of them is a member, and was it right about them?"""

    rows: list[np.ndarray]  # [T] of [2P]
    is_member: list[np.ndarray]  # [T] of [2P] bool
    right: list[np.ndarray]  # [T] of [2P] bool


def hits(name: str, record: dict, scores: dict[str, np.ndarray]) -> Hits:
    """Of one attack in the record and scores of `audit.audit`, without the points a cap left unfinished."""
    thresholds, found = record["attacks"][name]["tuned"]["threshold"], Hits([], [], [])
    for t, threshold in enumerate(thresholds):
        own = scores[f"attack/{name}/scores"][t]
        done, is_member = ~np.isnan(own), scores["is_member"][t]
        found.rows.append(scores["rows"][t][done])
        found.is_member.append(is_member[done])
        found.right.append(((own >= threshold) == is_member)[done])
    return found


def difference(a: Hits, b: Hits) -> dict[str, float | int]:
    """{"mean", "low", "high", "points", "trials"}: balanced accuracy of a less that of b, and its 95 % interval.

    It is taken on the points both were asked about, of the trials both were put to; the interval is about other
    points of the same models (`metrics.paired_difference`). `points` are those of all these trials.
    """
    found, points = [], 0
    for t in range(min(len(a.rows), len(b.rows))):
        _, i, j = np.intersect1d(a.rows[t], b.rows[t], return_indices=True)
        found.append(metrics.paired_difference(a.right[t][i], b.right[t][j], a.is_member[t][i]))
        points += len(i)
    mean = float(np.mean([one["mean"] for one in found]))
    half = float(np.sqrt(np.sum([(one["high"] - one["mean"]) ** 2 for one in found])) / len(found))
    return {"mean": mean, "low": mean - half, "high": mean + half, "points": points, "trials": len(found)}


def accuracies(found: dict[str, Hits]) -> dict[str, dict]:
    """name -> balanced accuracy as `difference` tells it: its interval is about other points of the same models."""
    nothing = {name: one._replace(right=[np.zeros_like(right) for right in one.right]) for name, one in found.items()}
    return {name: difference(one, nothing[name]) for name, one in found.items()}


def differences(found: dict[str, Hits]) -> dict[str, dict]:
    """ "a - b" -> `difference` of every two attacks, the later one first."""
    return {f"{a} - {b}": difference(found[a], found[b]) for b, a in itertools.combinations(found, 2)}
