"""Exposed records: whom a per-example attack names as a member, and how far each name can be trusted.

An attack that is calibrated per example gives every point a likelihood ratio and, from shadow models trained without
the very point, an estimated false positive rate: the probability that a model not trained with it gets so high a score.
One rate for all points would hide that some are far easier to name wrongly than others. A list made of many such tests
needs a rate of its own: the false discovery rate, the expected share of non-members among the named. Whether a named
record was in fact a member stands beside it, since an auditor knows. NumPy and SciPy only.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mi_jax.evaluation import metrics
from mi_jax.evaluation.text import counted, percent, printable, spoken

LEVEL = 0.1
FIELDS = ("target", "row", "label", "is_member", "score", "likelihood_ratio", "false_positive_rate", "fdr", "named")
FIELDS += ("mislabelled", "alone", "group")
_CHECKED_RATE = 0.01
_LARGEST = 1e300  # a spreadsheet reads no "inf"
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # and their full-width forms


class Exposed(NamedTuple):
    """The points of all targets as one attack judges them."""

    name: str
    level: float
    rows: list[dict]  # as `exposed_records` returns them
    images: dict[int, np.ndarray]  # row of the pool -> [H W C] uint8, of some rows or none


def false_discovery_rate(p: np.ndarray, *, method: str = "bh") -> np.ndarray:
    """Returns q [P]: the smallest false discovery rate at which each test is still named (adjusted p-values).

    Naming all with q <= level keeps the expected share of false names at or below level * (share of true nulls), so at
    half the level where half of the points are non-members. q rises with p; equal p have equal q.

    Assumptions: under the null (the model was not trained with the point) p is at most u with probability at most u,
    for every u. Few distinct scores only make it more careful. A rate estimated from few shadow models may be too small
    for a point, and then the level is not kept; the realised share in a report shows it. "bh" is proved for independent
    or positively dependent tests; points of one model share its weights, which is usually mild. "by" holds under any
    dependence and costs a factor 1 + 1/2 + ... + 1/P (8.4 for 2,400 points). Tests of another target belong in a call
    of their own.

    Source: Benjamini and Hochberg 1995 (JRSS B 57, 289), the step-up procedure; Benjamini and Yekutieli 2001 (Annals of
    Statistics 29, 1165). Deviation: NaN (a point that a cap left unfinished) is no test and stays NaN.

    Args:
      p: [P], in [0, 1] or NaN.
      method: "bh" or "by".

    Raises:
      ValueError: another shape, value or method.
    """
    p = np.asarray(p, np.float64)
    tested = ~np.isnan(p)
    if p.ndim != 1 or (p[tested] < 0).any() or (p[tested] > 1).any():
        worst = p[tested][np.argmax(np.abs(p[tested] - 0.5))] if tested.any() else "no value"
        raise ValueError(f"p of shape {p.shape} with {worst}, expected a vector of probabilities in [0, 1]")
    if method not in ("bh", "by"):
        raise ValueError(f"method={method!r}, expected 'bh' or 'by'")
    q = np.full(p.shape, np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested], method=method)
    return q


def leading_attack(record: dict, scores: dict[str, np.ndarray]) -> str | None:
    """The per-example attack on labels alone with the best mean accuracy on shadow models; None if there is none.

    Chosen by the shadow models, since the best on the targets would be chosen by what is reported. Of several the
    first; one without such an accuracy comes last.
    """
    found = {}
    for name, entry in record["attacks"].items():
        if entry["access"] == "label" and f"attack/{name}/false_positive_rate" in scores:
            accuracies = entry["tuned"].get("shadow_accuracy")
            found[name] = float(np.mean(accuracies)) if accuracies else -math.inf
    return max(found, key=lambda name: found[name]) if found else None


def exposed_records(record: dict, scores: dict[str, np.ndarray], name: str, *, level: float = LEVEL) -> list[dict]:
    """One dict with the keys `FIELDS` for every finished point of every target, by target, then by p-value.

    target: number of the target, from 0; row: of the pool; label; is_member: what was in fact true; score: the log
    likelihood ratio; likelihood_ratio: its exponential, inf where that overflows; false_positive_rate: estimated, of
    this point; fdr: `false_discovery_rate` of the target's points; named: whether fdr <= level. None where the arrays
    do not say: mislabelled (the target labels the point itself wrongly: the gap attack's score), alone (the row is an
    outlier), group. Equal p-values: the higher score first, then the lower row. Points with a NaN are left out.

    ValueError for an attack that has no such rates, arrays of other shapes, or rates outside [0, 1].
    """
    if name not in record["attacks"] or f"attack/{name}/false_positive_rate" not in scores:
        raise ValueError(f"attack {name!r}, expected one with an array attack/{name}/false_positive_rate")
    if not 0 < level < 1:
        raise ValueError(f"level={level}, expected a false discovery rate in (0, 1)")
    arrays, result = _arrays(scores, name), []
    for t in range(len(scores["is_member"])):
        columns = {field: array[t] for field, array in arrays.items()}
        kept = ~np.isnan(columns["score"]) & ~np.isnan(columns["false_positive_rate"])
        columns = {field: array[kept] for field, array in columns.items()}
        with np.errstate(over="ignore"):
            columns["likelihood_ratio"] = np.exp(columns["score"])
        columns["fdr"] = false_discovery_rate(columns["false_positive_rate"])
        columns["named"] = columns["fdr"] <= level
        columns["target"] = np.full(kept.sum(), t)
        order = np.lexsort((columns["row"], -columns["score"], columns["false_positive_rate"]))
        lists = [columns[field][order].tolist() for field in FIELDS]
        result += [dict(zip(FIELDS, values, strict=True)) for values in zip(*lists, strict=True)]
    return result


def _arrays(scores: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The stored columns by their fields, [T 2n] each; None in those that an audit did not store."""
    places = {"row": "rows", "label": "labels", "is_member": "is_member", "score": f"attack/{name}/scores"}
    places |= {"false_positive_rate": f"attack/{name}/false_positive_rate", "alone": "alone", "group": "group"}
    shape, found = scores["is_member"].shape, {}
    for field, place in places.items():
        optional = field in ("alone", "group") and place not in scores
        found[field] = np.full(shape, None) if optional else scores[place]
        if found[field].shape != shape:
            raise ValueError(f"{place} of shape {found[field].shape}, expected that of is_member, {shape}")
    found["score"] = found["score"].astype(np.float64)
    gap = scores.get("attack/gap/scores", np.full(shape, np.nan))
    found["mislabelled"] = (gap < 0.5).astype(object)
    found["mislabelled"][np.isnan(gap)] = None
    return found


def leading_records(record: dict, scores: dict[str, np.ndarray], *, level: float = LEVEL) -> Exposed | None:
    """The points as the `leading_attack` judges them; None if there is no such attack, or it finished no point.

    `scores` may hold `images` [M H W C] uint8 of the pool's rows `image_rows` [M].
    """
    name = leading_attack(record, scores)
    rows = exposed_records(record, scores, name, level=level) if name is not None else []
    if name is None or not rows:
        return None
    images, at = scores.get("images", np.zeros((0, 1, 1, 1), np.uint8)), scores.get("image_rows", np.zeros(0, int))
    if images.dtype != np.uint8 or images.ndim != 4 or at.shape != images.shape[:1]:
        raise ValueError(
            f"images {images.dtype} {images.shape} and image_rows {at.shape}, expected uint8 [M H W C] and [M]"
        )
    drawable = images.shape[-1] in (1, 3, 4)
    return Exposed(name, level, rows, dict(zip(at.tolist(), images, strict=True)) if drawable else {})


def strongest(rows: Sequence[dict], number: int) -> list[dict]:
    """The first `number` rows of the pool, each at its strongest: the lowest estimated false positive rate, then score.

    A row that stands in several targets is one record, and fills one place.
    """
    first: dict[int, dict] = {}
    for row in sorted(rows, key=lambda row: (row["false_positive_rate"], -row["score"])):
        first.setdefault(row["row"], row)
    return list(first.values())[:number]


def count_named(rows: Sequence[dict]) -> dict[str, Any]:
    """Members and non-members among the points, and how many of each are named.

    {"points", "members", "nonmembers", "named_members", "named_nonmembers": int,
     "tpr", "fpr": {"mean", "low", "high"}, the named share of each with its exact 95 % interval; None without points,
     "false_discovery_proportion": the same for the non-members among the named; None if nobody is named}

    The intervals are about other points, all taken as independent; a row may stand in several targets.
    """
    members = [row["named"] for row in rows if row["is_member"]]
    nonmembers = [row["named"] for row in rows if not row["is_member"]]
    true, false = sum(members), sum(nonmembers)
    return {
        "points": len(rows),
        "members": len(members),
        "nonmembers": len(nonmembers),
        "named_members": true,
        "named_nonmembers": false,
        "tpr": _share(true, len(members)),
        "fpr": _share(false, len(nonmembers)),
        "false_discovery_proportion": _share(false, true + false),
    }


def _share(k: int, n: int) -> dict[str, float] | None:
    return dict(zip(("mean", "low", "high"), (k / n, *metrics.clopper_pearson(k, n)), strict=True)) if n else None


def by_group(rows: Sequence[dict], key: str) -> list[dict]:
    """{"value", ...} of every value of a key, in order, with what `count_named` says of its points.

    `key`: "label", "group", "mislabelled" or "alone". Points where it is None are in no group.
    """
    if key not in ("label", "group", "mislabelled", "alone"):
        raise ValueError(f"key={key!r}, expected 'label', 'group', 'mislabelled' or 'alone'")
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        if row[key] is not None:
            groups.setdefault(row[key], []).append(row)
    return [{"value": value} | count_named(groups[value]) for value in sorted(groups)]


def exposed_sentences(found: Exposed) -> list[str]:
    """How many members are named and how many names are false; then a check of the estimated rates."""
    counts, targets = count_named(found.rows), counted(len({row["target"] for row in found.rows}), "target")
    true, false = counts["named_members"], counts["named_nonmembers"]
    said = f"At a false discovery rate of at most {100 * found.level:g} %, the attack “{spoken(found.name)}” names "
    if true + false:
        said += f"{true:,} of {counted(counts['members'], 'member')} of {targets}; {false:,} of the "
        said += f"{counted(true + false, 'record')} it names ({percent(counts['false_discovery_proportion'])}) "
        said += "is in fact a non-member." if false == 1 else "are in fact non-members."
    else:
        smallest = min(row["fdr"] for row in found.rows)
        said += f"no record of {targets}: the smallest it reaches is {100 * smallest:.3g} %."
    low = [row["false_positive_rate"] <= _CHECKED_RATE for row in found.rows if not row["is_member"]]
    if not low:
        return [said]
    rate, share = f"{100 * _CHECKED_RATE:g} %", percent(_share(sum(low), len(low)))
    check = f"The estimated false positive rate is at most {rate} for {sum(low):,} of "
    return [said, f"{check}{counted(len(low), 'non-member')} ({share}); {rate} or less is expected."]


def csv_bytes(rows: Sequence[dict]) -> bytes:
    """The points as UTF-8 text with commas: a line of `FIELDS`, then a line each.

    Made for spreadsheets: an unknown value is empty, numbers beyond 1e300 are 1e300, and text that a spreadsheet would
    take for a formula begins with an apostrophe.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([_plain(row[field]) for field in FIELDS] for row in rows)
    return buffer.getvalue().encode()


def _plain(value: Any) -> Any:
    """A value as a spreadsheet may read it; only text can be a formula."""
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    return max(-_LARGEST, min(_LARGEST, value)) if isinstance(value, float) else value
