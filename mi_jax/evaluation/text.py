"""Numbers of a record as text: rates with their intervals, and the attacks as a table."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # controls and lone surrogates
RATES = {"0.1": "10 %", "0.01": "1 %", "0.001": "0.1 %"}
HEADER = ["attack", "access", "queries", "balanced accuracy", "AUC", "TPR at 10 % FPR", "at 1 % FPR", "at 0.1 % FPR"]
_CHANCE = "the interval holds the FPR itself, so that guessing does as well"
_WIDTH = 148


def table(record: dict) -> str:
    """The attacks as a plain-text table with notes: means with 95 % intervals over targets, or "over points"."""
    attacks = record["attacks"]
    lines = [aligned([HEADER, *([printable(name), *_cells(entry)] for name, entry in attacks.items())])]
    chance = {printable(name): [rate for fpr, rate in RATES.items() if at_chance(entry, fpr)]
              for name, entry in attacks.items()}  # fmt: skip
    if found := "; ".join(f"{name} at {', '.join(at)}" for name, at in chance.items() if at):
        lines += ["", *textwrap.wrap(f"at chance ({_CHANCE}): {found}", _WIDTH, subsequent_indent="  ")]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as plain text; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cells(entry: dict) -> list[str]:
    rates = [rate(entry, fpr) for fpr in RATES]
    return [entry["access"], f"{entry['queries_per_example']:.1f}", accuracy(entry), number(entry["auc"]), *rates]


def rate(entry: dict, fpr: str) -> str:
    """The TPR of an attack at this FPR: over targets; where these do not resolve it, or all agree, of all points."""
    if too_coarse(entry, fpr):
        return "too coarse"
    shown = _shown_rate(entry, fpr)
    alone = len(entry["balanced_accuracy"]["values"]) == 1
    return percent(shown) + (" over points" if alone else " pooled") * (shown is not entry["tpr_at_fpr"][fpr])


def at_chance(entry: dict, fpr: str) -> bool:
    """Whether the interval of the TPR that `rate` shows holds the FPR itself, so that guessing does as well."""
    shown = _shown_rate(entry, fpr)
    return shown is not None and not too_coarse(entry, fpr) and has_interval(shown) and shown["low"] <= float(fpr)


def _shown_rate(entry: dict, fpr: str) -> dict | None:
    own, pooled = entry["tpr_at_fpr"][fpr], (entry.get("pooled") or {}).get(fpr)
    return own if pooled is None or (own is not None and has_interval(own)) else pooled


def accuracy(entry: dict) -> str:
    """The balanced accuracy of an attack, with the interval that `accuracy_interval` says."""
    shown = accuracy_interval(entry)
    return percent(shown) + " over points" * (shown is not entry["balanced_accuracy"])


def accuracy_interval(entry: dict) -> dict:
    """The balanced accuracy with its interval over targets; over points if there is one target, or all are equal."""
    over_targets, over_points = entry["balanced_accuracy"], entry.get("over_points")
    return over_targets if over_points is None or has_interval(over_targets) else over_targets | over_points


def has_interval(m: dict) -> bool:
    """Whether the values of an M differ; of one, or of equal ones, Student's interval says nothing."""
    return m["low"] is not None and m["high"] - m["low"] > 1e-9  # the mean of equal values has a rounding error


def percent(m: dict | None) -> str:
    """An M as a percentage with its interval."""
    if m is None:
        return "not resolvable"
    interval = f" [{100 * m['low']:.1f}, {100 * m['high']:.1f}]" if has_interval(m) else ""
    return f"{100 * m['mean']:.1f} %{interval}"


def number(m: dict) -> str:
    """An M with its interval, in three digits."""
    interval = f" [{m['low']:.3f}, {m['high']:.3f}]" if has_interval(m) else ""
    return f"{m['mean']:.3f}{interval}"


def points(m: dict) -> str:
    """A difference of two rates in percentage points, with its interval."""
    mean, low, high = (100 * m[key] + 0.0 for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def too_coarse(entry: dict, fpr: str = "0.01") -> bool:
    """True where every threshold with a positive exceeds this FPR, because too many points share the highest score."""
    achieved, pooled = entry["achieved_fpr"][fpr], (entry.get("pooled") or {}).get(fpr)
    if achieved is None:
        return pooled is not None and pooled["mean"] == pooled["fpr"] == 0
    return max(achieved["values"]) == 0 and entry["tpr_at_fpr"][fpr]["mean"] == 0


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text with U+FFFD for every character that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)


def spoken(name: Any) -> str:
    """A name of an attack, a phase or a data set as words."""
    return printable(str(name)).replace("_", " ")


def chosen_settings(settings: Sequence[dict]) -> str:
    """What an attack chose for each target in words, and for how many targets if they differ; "" for no setting."""
    texts = []
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [_setting(key, one[key]) for one in settings if key in one]
        counts = {value: values.count(value) for value in sorted(dict.fromkeys(values), key=values.count, reverse=True)}
        alike = len(counts) == 1
        texts.append(", ".join(value if alike else f"{value} ({count})" for value, count in counts.items()))
    return "; ".join(texts)


def _setting(key: str, value) -> str:
    return f"{spoken(key)} {value:.4g}" if isinstance(value, float) else f"{spoken(key)} {value}"
