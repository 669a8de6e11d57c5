"""Entries of a record that follow from scores and answers: what `audit.audit` writes about each attack."""

from collections import Counter
from typing import Any

import numpy as np

from mi_jax.evaluation import metrics, paired
from mi_jax.types import Answers, Attack, PerExample

FPRS = (0.1, 0.01, 0.001)


def attack_entry(
    attack: Attack | PerExample, answers: list[Answers], scores: np.ndarray, is_member: np.ndarray, tuned: dict
) -> dict:
    """The entry of one attack in report.json; every number is a mean over targets with its interval.

    `answers` [T] are those of the targets, `scores` and `is_member` are [T 2n], and scores are NaN for points beyond a
    cap. `tuned` is the entry of that name.
    """
    finished = ~np.isnan(scores)
    pairs = [(s[f], m[f]) for s, m, f in zip(scores, is_member, finished, strict=True)]
    judged = [(*pair, threshold) for pair, threshold in zip(pairs, tuned["threshold"], strict=True)]
    rates = {str(fpr): [metrics.tpr_at_fpr(s, m, fpr) for s, m in pairs] for fpr in FPRS}
    tpr, achieved = (
        {fpr: metrics.summary([rate and rate[i] for rate in by_target]) for fpr, by_target in rates.items()}
        for i in (0, 1)
    )
    never_flipped = float(np.mean([np.isposinf(one.features[..., -1]).all(1) for one in answers]))
    return {
        "access": attack.access,
        "points": int(is_member[0].sum()),
        "queries_per_example": float(np.mean([one.queries.mean() for one in answers])),
        "phases": dict(sum((Counter(one.phases) for one in answers), Counter())),
        "balanced_accuracy": metrics.summary([metrics.balanced_accuracy(*one) for one in judged]),
        "over_points": metrics.accuracy_over_points(judged),
        "auc": metrics.summary([metrics.auc(s, m) for s, m in pairs]),
        "tpr_at_fpr": tpr,
        "achieved_fpr": achieved,
        "pooled": {str(fpr): pooled_rate(scores[finished], is_member[finished], fpr) for fpr in FPRS},
        "finished": float(finished.mean()),
        **({"never_flipped": never_flipped} if never_flipped else {}),
        **(_judged(attack) if isinstance(attack, PerExample) else {}),
        "tuned": tuned,
    }


def _judged(attack: PerExample) -> dict:
    """What an entry of an attack that judges every point says besides."""
    pool = attack.pool and {"kinds": list(attack.pool.kinds), "counts": list(attack.pool.counts)}
    return {"every_point": {"online": attack.online, "pool": pool}}


def pooled_rate(scores: np.ndarray, is_member: np.ndarray, fpr: float) -> dict | None:
    """The TPR of the points [P] of all targets at one threshold, {"mean", "low", "high", "fpr"}; None: not resolvable.

    The interval is the exact one for as many independent members. Targets of one ensemble share rows, so it is about
    these rows, and somewhat too narrow.
    """
    found = metrics.tpr_at_fpr(scores, is_member, fpr)
    if found is None:
        return None
    members = int(is_member.sum())
    low, high = metrics.clopper_pearson(round(found[0] * members), members)
    return {"mean": found[0], "low": low, "high": high, "fpr": found[1]}


def at_edge(chosen: Attack | PerExample, candidates: tuple[Any, ...]) -> str | None:
    """What says that a setting of the chosen attack is the first or last of at least three tried; None: none is."""
    found = []
    for name, value in chosen.settings.items():
        settings = {repr(one): one for one in (candidate.settings.get(name) for candidate in candidates)}  # any type
        tried, numbers = list(settings), [one for one in settings.values() if isinstance(one, int | float)]
        ends = ("first", "last")
        if len(numbers) == len(tried):
            ends, tried = ("smallest", "largest"), [repr(one) for one in sorted(numbers)]
        found += [f"{name}={value} is the {end} tried" for end, at in zip(ends, (0, -1), strict=True)
                  if len(tried) >= 3 and repr(value) == tried[at]]  # fmt: skip
    return "; ".join(found) or None


def all_queries(record: dict) -> int:
    """Every query that was put to any model. Gradient attacks make none."""
    queries, attacks = record["queries"], record["attacks"]
    by_attack = [q for name, q in queries["by_attack"].items() if attacks[name]["access"] != "gradient"]
    put = sum(q["target"] + q["shadow"] for q in by_attack)
    return put + sum(queries[name] for name in ("accuracy", "flip_test", "repeated", "failed"))


def add_gain_over_gap(record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes `gain_over_gap` of every attack: its balanced accuracy minus that of gap on the points both finished."""
    hits = {name: paired.hits(name, record, scores) for name in record["attacks"]}
    for name, entry in record["attacks"].items():
        entry["gain_over_gap"] = None
        if "gap" in hits and name != "gap":
            difference = paired.difference(hits[name], hits["gap"])
            entry["gain_over_gap"] = {end: difference[end] for end in ("mean", "low", "high")}
