"""Two audits, before and after a defense for example: what changed, with intervals."""

import html
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mi_jax.evaluation import entries, low_rates, metrics, paired, report, text
from mi_jax.evaluation.markup import cards, document, note

Audit = tuple[dict, dict[str, np.ndarray]]  # what `report.read` returns
_RATES = {str(fpr): f"TPR at {100 * fpr:g} % FPR" for fpr in entries.FPRS}
_PAIRED = (
    "Both audits attacked the same points of as many targets: intervals are of paired differences. TPRs and accuracies "
    "of a single target, and of targets that agree, are compared as if independent, which is wider."
)
_INDEPENDENT = "The audits attacked other points ({why}): intervals are of differences of independent audits."


def compare_audits(before: Audit, after: Audit) -> dict[str, Any]:
    """What the second audit measures less the first, for every attack that both have.

    {"paired": bool, "why": text, "models": {NAME: I}, "only": [[NAME of the first], [of the second]],
     "attacks": {NAME: {"balanced_accuracy": I, "auc": I, "tpr_at_fpr": {FPR: I}}}}
    with I = {"mean", "low", "high"}, a difference with its 95 % interval; low and high are None where it has none, and
    I is None where a rate is not resolved. `why`: what differs, "" where the audits are paired.

    Paired: the same split (digest, rows, labels, membership). Then balanced accuracies are compared point by point, and
    the rest target by target. Of a single target, AUCs are compared point by point (DeLong et al. 1988, Biometrics 44,
    837); accuracies of the model and TPRs as if they were independent, which makes the interval wider. TPRs that single
    targets do not resolve are those of all their points. Otherwise all are taken as independent.

    ValueError for two audits without a common attack.
    """
    (a, a_scores), (b, b_scores) = before, after
    names = [name for name in a["attacks"] if name in b["attacks"]]
    if not names:
        first, second = (", ".join(one["attacks"]) for one in (a, b))
        raise ValueError(f"the first audit has the attacks {first}, the second {second}: expected a common one")
    why = _what_differs(before, after)
    found = {}
    for name in names:
        one, other = a["attacks"][name], b["attacks"][name]
        accuracy = _accuracy(name, before, after, not why)
        auc = _less(one["auc"], other["auc"], not why) or _auc_over_points(name, a_scores, b_scores, not why)
        rates = {fpr: _rate(name, fpr, before, after, not why) for fpr in _RATES}
        found[name] = {"balanced_accuracy": accuracy, "auc": auc, "tpr_at_fpr": rates}
    models = {side: _model_accuracy(side, before, after, not why) for side in ("train_accuracy", "test_accuracy")}
    only = [[name for name in one["attacks"] if name not in names] for one in (a, b)]
    return {"paired": not why, "why": why, "models": models, "only": only, "attacks": found}


def _what_differs(before: Audit, after: Audit) -> str:
    """What keeps two audits from being paired; "" where nothing does."""
    (a, a_scores), (b, b_scores) = before, after
    if a.get("split_digest") != b.get("split_digest"):
        return "another split"
    for array, words in (("rows", "other rows"), ("labels", "other labels"), ("is_member", "other members")):
        one, other = a_scores.get(array), b_scores.get(array)
        if one is None or other is None or not np.array_equal(one, other):
            return words
    return ""


def _less(before: dict | None, after: dict | None, same: bool) -> dict | None:
    """The second mean less the first, target by target or as independent; None without an interval over targets."""
    if before is None or after is None:
        return None
    values = before["values"], after["values"]
    if same and len(values[0]) > 1:
        found = metrics.paired_interval(values[1], values[0])
    elif text.has_interval(before) and text.has_interval(after):
        found = metrics.independent_difference(after, before)
    else:
        return None
    interval = {end: found[end] for end in ("mean", "low", "high")}
    return interval if text.has_interval(interval) else None


def _accuracy(name: str, before: Audit, after: Audit, same: bool) -> dict | None:
    if same:
        difference = paired.difference(paired.hits(name, *after), paired.hits(name, *before))
        return {end: difference[end] for end in ("mean", "low", "high")}
    one, other = (record["attacks"][name] for record, _ in (before, after))
    by_target = _less(one["balanced_accuracy"], other["balanced_accuracy"], same)
    if by_target or not ("over_points" in one and "over_points" in other):
        return by_target or _without_interval(one["balanced_accuracy"], other["balanced_accuracy"])
    return metrics.independent_difference(other["over_points"], one["over_points"])


def _model_accuracy(side: str, before: Audit, after: Audit, same: bool) -> dict:
    """Of a model on the attacked members or non-members; over points where there is one target, or all are equal."""
    if by_target := _less(before[0]["models"][side], after[0]["models"][side], same):
        return by_target
    over_points = []
    for record, scores in (before, after):
        mean, points = record["models"][side]["mean"], int((scores["is_member"] == (side == "train_accuracy")).sum())
        low, high = metrics.clopper_pearson(round(mean * points), points)
        over_points.append({"mean": mean, "low": min(low, mean), "high": max(high, mean)})
    return metrics.independent_difference(over_points[1], over_points[0])


def _rate(name: str, fpr: str, before: Audit, after: Audit, same: bool) -> dict | None:
    """The TPR target by target, else of all points of each audit, as if they were independent."""
    one, other = (record["attacks"][name]["tpr_at_fpr"][fpr] for record, _ in (before, after))
    if by_target := _less(one, other, same):
        return by_target
    over_points = []
    for _, scores in (before, after):
        values = scores[f"attack/{name}/scores"]
        known = ~np.isnan(values)
        over_points.append(low_rates.tpr_over_points(values[known], scores["is_member"][known], float(fpr)))
    first, second = over_points
    return None if first is None or second is None else metrics.independent_difference(second, first)


def _auc_over_points(name: str, before: dict[str, np.ndarray], after: dict[str, np.ndarray], same: bool) -> dict:
    """The difference of the AUCs of all points, from the share of the other side that each point beats (DeLong)."""
    values = [scores[f"attack/{name}/scores"] for scores in (before, after)]
    known = [~np.isnan(value) for value in values]
    known = [known[0] & known[1]] * 2 if same else known
    beats = [_beats(v[k], s["is_member"][k]) for v, k, s in zip(values, known, (before, after), strict=True)]
    mean = float(beats[1][0].mean() - beats[0][0].mean())
    variance = 0.0
    for first, second in zip(*beats, strict=True):  # members, then non-members
        parts = [second - first] if same else [first, second]
        variance += sum(float(part.var(ddof=1)) / part.size if part.size > 1 else np.inf for part in parts)
    half = float(stats.norm.ppf(0.975)) * float(np.sqrt(variance))
    shown = {"mean": mean, "low": max(mean - half, -1.0), "high": min(mean + half, 1.0)}
    return shown if half > 0 else {"mean": mean, "low": None, "high": None}


def _beats(scores: np.ndarray, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each member the share of non-members with a lower score, ties half; for each non-member that of members
    with a higher one: the mean of either is the AUC.
    """
    ranks, members, others = stats.rankdata(scores), int(is_member.sum()), int((~is_member).sum())
    below = (ranks[is_member] - stats.rankdata(scores[is_member])) / others
    return below, 1 - (ranks[~is_member] - stats.rankdata(scores[~is_member])) / members


def _without_interval(before: dict, after: dict) -> dict:
    return {"mean": after["mean"] - before["mean"], "low": None, "high": None}


def comparison_table(found: dict[str, Any]) -> str:
    """The differences as plain text, in percentage points."""
    rows = _rows(found)
    lines = text.aligned([list(rows[0]), *(list(row.values()) for row in rows)])
    said = "Second audit less the first, in percentage points [95 % interval]."
    return "\n\n".join([said, "\n".join(_notes(found)), lines])


def comparison_page(found: dict[str, Any], names: tuple[str, str]) -> str:
    """The same as a self-contained HTML page; `names` are those of the two audits."""
    first, second = names
    said = f"“{second}” less “{first}”, in percentage points [95 % interval]. Below 0: less than before."
    body = f"<p>{html.escape(said)}</p>{cards(_rows(found))}"
    return document(f"Compared: {first} and {second}", body + "".join(map(note, _notes(found))))


def _rows(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "attack": text.spoken(name),
            "balanced accuracy": _points(entry["balanced_accuracy"]),
            "AUC": _points(entry["auc"]),
            **{rate: _points(entry["tpr_at_fpr"][fpr]) for fpr, rate in _RATES.items()},
        }
        for name, entry in found["attacks"].items()
    ]


def _notes(found: dict[str, Any]) -> list[str]:
    """What the models did, whether the audits are paired, and which attacks only one of them has."""
    train, test = (_points(found["models"][name]) for name in ("train_accuracy", "test_accuracy"))
    said = [f"Accuracy of the models on members: {train}; on non-members: {test}."]
    said.append(_PAIRED if found["paired"] else _INDEPENDENT.format(why=found["why"]))
    for which, names in zip(("first", "second"), found["only"], strict=True):
        said += [f"Only in the {which} audit: {', '.join(map(text.spoken, names))}."] if names else []
    return said


def compare_folders(before: Path | str, after: Path | str) -> dict[str, Any]:
    """`compare_audits` of the audits in two folders. ValueError, which names the folder, where there is none."""
    return compare_audits(report.read(before), report.read(after))


def _points(interval: dict | None) -> str:
    if interval is None:
        return "not resolvable"
    return text.points(interval) if interval["low"] is not None else f"{100 * interval['mean'] + 0.0:+.1f}"
