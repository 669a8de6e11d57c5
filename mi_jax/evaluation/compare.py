"""Two audits of the same points, before and after a defense for example: what changed, with intervals."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.evaluation import entries, metrics, paired, report, text

Audit = tuple[dict, dict[str, np.ndarray]]  # what `report.read` returns
_RATES = {str(fpr): f"TPR at {100 * fpr:g} % FPR" for fpr in entries.FPRS}


def compare_audits(before: Audit, after: Audit) -> dict[str, Any]:
    """What the second audit measures less the first, for every attack that both have.

    {"paired": bool, "models": {NAME: I}, "attacks": {NAME: {"balanced_accuracy": I, "auc": I, "tpr_at_fpr": {FPR: I}}}}
    with I = {"mean", "low", "high"}, a difference with its 95 % interval, or None where it has none. Paired: both
    audits attack the same rows of as many targets. Then balanced accuracies are compared point by point, and the rest
    target by target; otherwise both are taken as independent. A single target has intervals of balanced accuracies
    alone.

    ValueError for two audits without a common attack.
    """
    (a, a_scores), (b, b_scores) = before, after
    names = [name for name in a["attacks"] if name in b["attacks"]]
    if not names:
        first, second = (", ".join(one["attacks"]) for one in (a, b))
        raise ValueError(f"the first audit has the attacks {first}, the second {second}: expected a common one")
    rows = a_scores.get("rows"), b_scores.get("rows")
    same = rows[0] is not None and rows[1] is not None and np.array_equal(rows[0], rows[1])
    same &= np.array_equal(a_scores["is_member"], b_scores["is_member"])
    found = {}
    for name in names:
        one, other = a["attacks"][name], b["attacks"][name]
        rates = {fpr: _less(one["tpr_at_fpr"][fpr], other["tpr_at_fpr"][fpr], same) for fpr in _RATES}
        accuracy = _less(one["balanced_accuracy"], other["balanced_accuracy"], same)
        if same:
            difference = paired.difference(paired.hits(name, b, b_scores), paired.hits(name, a, a_scores))
            accuracy = {end: difference[end] for end in ("mean", "low", "high")}
        elif accuracy and accuracy["low"] is None and "over_points" in one and "over_points" in other:
            accuracy = metrics.independent_difference(other["over_points"], one["over_points"])
        found[name] = {"balanced_accuracy": accuracy, "auc": _less(one["auc"], other["auc"], same), "tpr_at_fpr": rates}
    models = {name: _less(a["models"][name], b["models"][name], same) for name in ("train_accuracy", "test_accuracy")}
    return {"paired": bool(same), "models": models, "attacks": found}


def _less(before: dict | None, after: dict | None, same: bool) -> dict | None:
    """The second mean less the first, target by target or as independent; None where one of them is unknown."""
    if before is None or after is None:
        return None
    values = before["values"], after["values"]
    if same and len(values[0]) > 1:
        interval = metrics.paired_interval(values[1], values[0])
        return {end: interval[end] for end in ("mean", "low", "high")}
    if before["low"] is None or after["low"] is None:
        return {"mean": after["mean"] - before["mean"], "low": None, "high": None}
    return metrics.independent_difference(after, before)


def comparison_table(found: dict[str, Any]) -> str:
    """The differences as plain text, in percentage points."""
    head = ["attack", "balanced accuracy", "AUC", *_RATES.values()]
    rows = [[text.spoken(name), _points(entry["balanced_accuracy"]), _points(entry["auc"]),
             *map(_points, entry["tpr_at_fpr"].values())] for name, entry in found["attacks"].items()]  # fmt: skip
    train, test = (_points(found["models"][name]) for name in ("train_accuracy", "test_accuracy"))
    kind = "the same points" if found["paired"] else "other points: differences of independent audits"
    said = f"second audit less the first, percentage points [95 % interval]; {kind}"
    return f"{said}\n\ntrain accuracy {train}, test accuracy {test}\n\n{text.aligned([head, *rows])}"


def comparison_page(found: dict[str, Any], names: tuple[str, str]) -> str:
    """The same as a self-contained HTML page; `names` are those of the two audits."""
    title = " and ".join(map(html.escape, names))
    body = html.escape(comparison_table(found))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Compared: {title}</title><body style='font:16px system-ui;margin:2rem;max-width:70rem'>"
        f"<h1>Compared: {title}</h1><pre style='overflow-x:auto'>{body}</pre></body></html>"
    )


def compare_folders(before: Path | str, after: Path | str) -> dict[str, Any]:
    """`compare_audits` of the audits in two folders. ValueError, which names the folder, where there is none."""
    return compare_audits(report.read(before), report.read(after))


def _points(interval: dict | None) -> str:
    if interval is None:
        return "not resolvable"
    mean = f"{100 * interval['mean']:+.1f}"
    if interval["low"] is None:
        return mean
    return f"{mean} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"
