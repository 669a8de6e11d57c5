"""Limits on what a model may leak, and whether an audit keeps them: for a release that depends on it.

A limit is checked on all attacks that see labels alone. Choosing the strongest of m attacks on the very points that
judge it flatters it, so every interval has the confidence 1 - 0.05 / m (Bonferroni). A limit is broken where the lower
end of some interval is above it, kept where no upper end is, and undecided between.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mi_jax.evaluation import exposed, metrics, paired

BROKEN, KEPT, UNDECIDED = "broken", "kept", "undecided"
EXPECTED = "expected advantage:NUMBER, tpr@RATE:NUMBER or exposed:NUMBER, as in advantage:0.1,tpr@0.001:0.01,exposed:0"
_ERROR = 0.05


class Limit(NamedTuple):
    """The most that may be leaked."""

    measure: str  # "advantage": 2 * balanced accuracy - 1; "tpr": at `fpr`; "exposed": members named
    value: float
    fpr: float | None = None

    def __str__(self) -> str:
        at = "" if self.fpr is None else f"@{self.fpr:g}"
        return f"{self.measure}{at}:{self.value:g}"


class Checked(NamedTuple):
    """A limit, and what an audit measured."""

    limit: Limit
    verdict: str
    attack: str | None  # whose number it is; None: no attack has one
    measured: dict[str, float] | None  # {"mean", "low", "high"}; None: the points do not resolve it
    reason: str

    def __str__(self) -> str:
        if self.measured is None:
            return f"{self.limit}: {self.verdict}, {self.reason}"
        mean, low, high = (f"{self.measured[end]:.4g}" for end in ("mean", "low", "high"))
        return f"{self.limit}: {self.verdict}, {mean} [{low}, {high}] by {self.attack}, {self.reason}"


def parse_limits(texts: Sequence[str]) -> list[Limit]:
    """Limits from text: `advantage:0.1`, `tpr@0.001:0.01`, `exposed:0`. ValueError, which names it, for other text."""
    limits = []
    for text in texts:
        name, colon, value = text.strip().partition(":")
        measure, at, fpr = name.partition("@")
        try:
            limit = Limit(measure, float(value), float(fpr) if at else None)
        except ValueError:
            raise ValueError(f"limit {text!r}: {EXPECTED}") from None
        in_range = limit.value >= 0 and (measure == "exposed" or limit.value <= 1)
        if (
            not (colon and in_range and measure in _MEASURES)
            or (measure == "tpr") != (limit.fpr is not None)
            or (limit.fpr is not None and not 0 < limit.fpr < 1)
        ):
            raise ValueError(f"limit {text!r}: {EXPECTED}")
        limits.append(limit)
    return limits


def check_limits(record: dict, scores: dict[str, np.ndarray], limits: Sequence[Limit]) -> list[Checked]:
    """Whether an audit keeps the limits, in their order."""
    return [_MEASURES[limit.measure](record, scores, limit) for limit in limits]


def any_broken(checked: Sequence[Checked]) -> bool:
    """Is a limit broken? A command then ends with exit code 1."""
    return any(one.verdict == BROKEN for one in checked)


def label_attacks(record: dict) -> list[str]:
    """The attacks of an audit that see labels alone."""
    return [name for name, entry in record["attacks"].items() if entry["access"] == "label"]


def advantage(record: dict, scores: dict[str, np.ndarray], name: str, level: float) -> dict[str, float]:
    """2 * balanced accuracy - 1 of an attack, {"mean", "low", "high"}: over targets, or over points of a single one."""
    entry = record["attacks"][name]
    values = entry["balanced_accuracy"]["values"]
    if len(values) > 1:
        found: Any = metrics.summary(values, level)
    else:
        _, is_member, correct = paired.hits(name, record, scores)
        called = [(hit == member, member, 1) for hit, member in zip(correct, is_member, strict=True)]
        found = metrics.accuracy_over_points(called, level)
    return {end: 2 * found[end] - 1 for end in ("mean", "low", "high")}


def _advantage(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    names = label_attacks(record)
    level, over = 1 - _ERROR / max(len(names), 1), _over(record)
    found = {name: advantage(record, scores, name, level) for name in names}
    return _strongest(limit, found, over, len(names), "there is no attack on labels")


def _tpr(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    """The TPR of all targets' points at one threshold: single targets rarely resolve a small rate."""
    names, is_member, assert_rate = label_attacks(record), scores["is_member"], limit.fpr
    assert assert_rate is not None
    level, found = 1 - _ERROR / max(len(names), 1), {}
    for name in names:
        values = scores[f"attack/{name}/scores"]
        known = ~np.isnan(values)
        rate = metrics.tpr_at_fpr(values[known], is_member[known], assert_rate)
        if rate is not None:
            members = int(is_member[known].sum())
            low, high = metrics.clopper_pearson(round(rate[0] * members), members, level)
            found[name] = {"mean": rate[0], "low": low, "high": high}
    smallest = f"{(~is_member).sum()} non-members do not resolve a rate of {assert_rate:g}"
    return _strongest(limit, found, "over points", len(names), smallest)


def _exposed(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    """How many more members are named than as many non-members would be, at the list's false discovery rate."""
    found = exposed.leading_records(record, scores)
    if found is None:
        reason = "no attack on labels judges every point, so that nobody can be named (shadow models make some)"
        return Checked(limit, UNDECIDED, None, None, reason)
    counts = exposed.count_named(found.rows)
    inside, outside = counts["tpr"], counts["fpr"]
    if inside is None or outside is None:
        return Checked(limit, UNDECIDED, found.name, None, "there are no members, or no non-members")
    excess = metrics.independent_difference(inside, outside)
    measured = {end: max(0.0, counts["members"] * excess[end]) for end in excess}
    named = f"{counts['named_members']} of {counts['members']} members and {counts['named_nonmembers']} of "
    named += f"{counts['nonmembers']} non-members named at a false discovery rate of {100 * found.level:g} %"
    return Checked(limit, _verdict(limit, measured), found.name, measured, named)


def _strongest(limit: Limit, found: dict[str, dict[str, float]], over: str, number: int, without: str) -> Checked:
    if not found:
        return Checked(limit, UNDECIDED, None, None, without)
    reason = f"the strongest of {number} attacks on labels; interval {over} at {100 * (1 - _ERROR / number):.3g} %"
    verdicts = {name: _verdict(limit, measured) for name, measured in found.items()}
    verdict = next(one for one in (BROKEN, UNDECIDED, KEPT) if one in verdicts.values())
    name = max((name for name in found if verdicts[name] == verdict), key=lambda one: found[one]["mean"])
    return Checked(limit, verdict, name, found[name], reason)


def _verdict(limit: Limit, measured: dict[str, float]) -> str:
    return BROKEN if measured["low"] > limit.value else KEPT if measured["high"] <= limit.value else UNDECIDED


def _over(record: dict) -> str:
    return "over targets" if len(record["models"]["train_accuracy"]["values"]) > 1 else "over points"


_MEASURES = {"advantage": _advantage, "tpr": _tpr, "exposed": _exposed}
