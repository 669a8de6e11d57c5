"""Limits on what a model may leak, and whether an audit keeps them: for a release that depends on it.

A limit is checked on all attacks that see labels alone. Choosing the strongest of m attacks on the very points that
judge it flatters it, so every interval has the confidence 1 - 0.05 / m (Bonferroni). A limit is broken where the lower
end of some interval is above it, kept where no upper end is, and undecided between.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mi_jax.evaluation import exposed, low_rates, metrics

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
        in_range = 0 <= limit.value < math.inf and (measure == "exposed" or limit.value <= 1)
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


def corrected_level(record: dict) -> float:
    """The confidence of each interval, so that those of all attacks on labels together hold at 95 %."""
    return 1 - _ERROR / max(len(label_attacks(record)), 1)


def label_attacks(record: dict) -> list[str]:
    """The attacks of an audit that see labels alone."""
    return [name for name, entry in record["attacks"].items() if entry["access"] == "label"]


def advantage(record: dict, scores: dict[str, np.ndarray], name: str, level: float) -> dict[str, float]:
    """2 * balanced accuracy - 1 of an attack, {"mean", "low", "high"}: over targets, or over points of a single one.

    Over points too where all targets have the same value: Student's interval of these has no width, and says nothing.
    """
    if _over(record)[name] == "targets":
        found: Any = metrics.summary(record["attacks"][name]["balanced_accuracy"]["values"], level)
    else:
        thresholds = map(float, record["attacks"][name]["tuned"]["threshold"])  # "inf" where it was read from a file
        trials = zip(scores[f"attack/{name}/scores"], scores["is_member"], thresholds, strict=True)
        found = metrics.accuracy_over_points([(s[~np.isnan(s)], m[~np.isnan(s)], at) for s, m, at in trials], level)
    return {end: 2 * found[end] - 1 for end in ("mean", "low", "high")}


def _over(record: dict) -> dict[str, str]:
    """What the interval of each attack's advantage is over: targets that differ, or points."""
    values = {name: entry["balanced_accuracy"]["values"] for name, entry in record["attacks"].items()}
    return {name: "targets" if np.ptp(one) > 1e-9 else "points" for name, one in values.items()}


def _advantage(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    names = label_attacks(record)
    level, over = corrected_level(record), _over(record)
    found = {name: (advantage(record, scores, name, level), over[name]) for name in names}
    return _strongest(limit, found, names, level, "there is no attack on labels")


def _tpr(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    """The TPR over targets, or of all their points at one threshold where single ones do not resolve the rate."""
    found, level, fpr = {}, corrected_level(record), limit.fpr or 0.0
    for name in label_attacks(record):
        values, known = scores[f"attack/{name}/scores"], ~np.isnan(scores[f"attack/{name}/scores"])
        by_target = [[one[k] for one, k in zip(side, known, strict=True)] for side in (values, scores["is_member"])]
        measured, over = low_rates.tpr_over_targets(by_target[0], by_target[1], fpr, level), "targets"
        if measured is None:
            measured, over = low_rates.tpr_over_points(values[known], scores["is_member"][known], fpr, level), "points"
        if measured is not None:
            found[name] = measured, over
    others = int((~scores["is_member"]).sum())
    return _strongest(
        limit,
        found,
        label_attacks(record),
        level,
        f"{others:,} non-members, or those that an attack finished, do not resolve a rate of {fpr:g}",
    )


def _exposed(record: dict, scores: dict[str, np.ndarray], limit: Limit) -> Checked:
    """How many members are named beyond those that chance names, at the list's false discovery rate.

    Chance is what happens to as many non-members. No more than all that are named can be: that is the upper end.
    """
    found = exposed.leading_records(record, scores)
    if found is None:
        reason = "no attack on labels judges every point, so that nobody can be named (shadow models make some)"
        return Checked(limit, UNDECIDED, None, None, reason)
    counts = exposed.count_named(found.rows)
    inside, outside = counts["tpr"], counts["fpr"]
    if inside is None or outside is None:
        return Checked(limit, UNDECIDED, found.name, None, "there are no members, or no non-members")
    excess = metrics.independent_difference(inside, outside)
    measured = {end: max(0.0, counts["members"] * excess[end]) for end in ("mean", "low")}
    measured["high"] = float(counts["named_members"])
    named = f"{counts['named_members']:,} of {counts['members']:,} members and {counts['named_nonmembers']:,} of "
    named += f"{counts['nonmembers']:,} non-members named at a false discovery rate of {100 * found.level:g} %"
    return Checked(limit, _verdict(limit, measured), found.name, measured, named)


def _strongest(
    limit: Limit, found: dict[str, tuple[dict[str, float], str]], names: list[str], level: float, without: str
) -> Checked:
    """The verdict of the attack that decides: the strongest that breaks the limit, else leaves it open, else keeps it.

    An attack of `names` without a number leaves it open.
    """
    verdicts = {name: _verdict(limit, measured) for name, (measured, _) in found.items()}
    verdict = next((one for one in (BROKEN, UNDECIDED, KEPT) if one in verdicts.values()), UNDECIDED)
    if not found or (verdict == KEPT and len(found) < len(names)):
        return Checked(limit, UNDECIDED, None, None, without)
    name = max((name for name in found if verdicts[name] == verdict), key=lambda one: found[one][0]["mean"])
    measured, over = found[name]
    chosen = f"the strongest of {len(names)} attacks on labels; " if len(names) > 1 else ""
    if limit.measure == "tpr" and not any(one["mean"] for one, _ in found.values()):
        chosen = "no attack on labels calls anybody a member at so low a rate; "
    return Checked(limit, verdict, name, measured, f"{chosen}interval over {over} at {100 * level:.3g} %")


def _verdict(limit: Limit, measured: dict[str, float]) -> str:
    return BROKEN if measured["low"] > limit.value else KEPT if measured["high"] <= limit.value else UNDECIDED


_MEASURES = {"advantage": _advantage, "tpr": _tpr, "exposed": _exposed}
