"""Balanced accuracies of attacks, and their differences, on points of the same models."""

import itertools
from typing import NamedTuple

import numpy as np

from mi_jax.evaluation import metrics


class Hits(NamedTuple):
    """The points of each target that an attack finished, and whether it predicted their membership correctly."""

    rows: list[np.ndarray]  # [T] of [2P], rows of the pool
    is_member: list[np.ndarray]  # [T] of [2P] bool
    correct: list[np.ndarray]  # [T] of [2P] bool


def hits(name: str, record: dict, scores: dict[str, np.ndarray]) -> Hits:
    """The hits of one attack in the record and scores of `audit.audit`, without points beyond a cap."""
    result = Hits([], [], [])
    for t, threshold in enumerate(record["attacks"][name]["tuned"]["threshold"]):
        target_scores, is_member = scores[f"attack/{name}/scores"][t], scores["is_member"][t]
        finished = ~np.isnan(target_scores)
        result.rows.append(scores["rows"][t][finished])
        result.is_member.append(is_member[finished])
        called = target_scores >= float(threshold)  # "inf" where a record was read from a file
        result.correct.append((called == is_member)[finished])
    return result


def difference(a: Hits, b: Hits) -> dict[str, float | int]:
    """{"mean", "low", "high", "points", "trials"}: balanced accuracy of a minus that of b, and its 95 % interval.

    Taken on the points and trials that both have, all together. The interval is about other points of the same models
    (`metrics.paired_difference`). `points` counts the points of all these trials.
    """
    common = []
    for t in range(min(len(a.rows), len(b.rows))):
        _, i, j = np.intersect1d(a.rows[t], b.rows[t], return_indices=True)
        common.append((a.correct[t][i], b.correct[t][j], a.is_member[t][i]))
    a_correct, b_correct, is_member = (np.concatenate(part) for part in zip(*common, strict=True))
    found = metrics.paired_difference(a_correct, b_correct, is_member)
    return {**found, "points": len(is_member), "trials": len(common)}


def accuracies(hits_by_attack: dict[str, Hits]) -> dict[str, dict]:
    """name -> balanced accuracy, in the form of `difference`, with the interval of `metrics.accuracy_over_points`."""
    found = {}
    for name, (rows, is_member, correct) in hits_by_attack.items():
        trials = [(hit == member, member, 1) for hit, member in zip(correct, is_member, strict=True)]  # called members
        found[name] = metrics.accuracy_over_points(trials)
        found[name] |= {"points": sum(map(len, rows)), "trials": len(trials)}
    return found


def differences(hits_by_attack: dict[str, Hits]) -> dict[str, dict]:
    """ "a - b" -> `difference` of every two attacks, the later one first."""
    pairs = itertools.combinations(hits_by_attack, 2)
    return {f"{a} - {b}": difference(hits_by_attack[a], hits_by_attack[b]) for b, a in pairs}
