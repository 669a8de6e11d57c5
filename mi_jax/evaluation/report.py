"""A run on disk: `report.json`, `scores.npz`, and the table, figures, page and list drawn from these two alone.

report.json is stable, since other programs read it. M = {"mean", "low", "high", "values"}: the mean over targets, its
two-sided 95 % Student interval (null for a single target) and one value per target. I = {"mean", "low", "high"}: an
estimate with its 95 % interval about other points of the same models. Optional: what older records lack, or a record
made by hand.

    {"config": {"dataset", "num_shadows",         every flag of a command, resolved; `audit.audit` alone knows these two
                ...},
     "environment": {"mi_jax", "python", "jax", ..., "device", "commit", "date",      optional
                     "command",                   if a command of ours ran
                     "run_digest",                of a command: changes with settings, data, versions and code
                     "parts_found"},              cached results when the run began; `seconds` excludes their time
     "data": {"rows", "shape", "classes", "rows_per_class": [fewest, most], "classes_without_rows": [int],
              "duplicate_rows": int, "source", ...},             optional; `data.describe`
     "split": {"members": int, "nonmembers": int,                optional; rows of one model
               "shadow_overlap": {"members", "nonmembers"},      share of a target's that some shadow model trained on
               "note": str or null},
     "split_digest": "...",                       changes with any row of the split
     "models": {"train_accuracy": M, "test_accuracy": M,     on the attacked members and non-members
                "flip_rate": M,                              share of answers that changed when queried again
                "epochs": [one per model],
                "privacy": {"epsilon", "delta", "statement", "dropped"}},    with private training only
     "queries": {"total": int,                    optional; every query put to any model
                 "accuracy": int, "flip_test": int,                              to the targets, before any attack
                 "by_attack": {NAME: {"target": int, "shadow": int}},            of a pool that several attacks
                                                             share, the shadow queries stand with the first
                 "repeated": int,                 put again to compare stored answers with a target's
                 "failed": int},                  of this run and earlier ones, that got no answer
     "attacks": {NAME: {"access": "label" | "confidence" | "gradient",
                        "points": int,                       attacked members of each target; and as many non-members,
                                                             where `split` does not say otherwise
                        "queries_per_example": float,        mean number of queries, misclassified points included
                        "phases": {PHASE: int},              optional; queries to all targets, "gate": the first
                                                             label of every copy
                        "balanced_accuracy": M, "auc": M,
                        "over_points": I,                    optional; of the balanced accuracy
                        "gain_over_gap": I or null,          optional; balanced accuracy less that of the gap attack
                        "tpr_at_fpr": {"0.1": M, "0.01": M, "0.001": M},     null: not resolvable with so few
                        "achieved_fpr": {the same keys},                     non-members
                        "pooled": {the same keys: {"mean", "low", "high", "fpr"}},    optional; TPR of the points of
                                                             all targets at one threshold, the exact interval for
                                                             as many independent members, the achieved FPR; or null
                        "every_point": {"online": bool, "pool": {"kinds", "counts"} or null},   optional; attacks
                                                             that judge every point by shadow models with and
                                                             without it; online: with models trained with it
                        "finished": float,                   share of points finished before a cap on queries
                        "never_flipped": float,              distances, optional; share of points no query flipped
                        "tuned": {"settings": [one per target], "threshold": [one per target],
                                  "shadow_accuracy": [one per target, thresholds from the other half of rows],
                                  "at_edge": [one per target: null, or which strength is the last one tried]}}},
     "limits": [text], "price_per_1000": float,   optional; what `evaluation.gate` checks, and a price of queries
     "target": {"model", "answers", "classes", "known", "columns"},       optional; of a model trained elsewhere
     "seconds": {...}}                            optional

A TPR is that of the largest attainable FPR not above the named one; nothing is interpolated. Where scores are so coarse
that every threshold with a positive exceeds that FPR, TPR and achieved FPR are both 0. An infinite number is written
"inf" or "-inf", as a threshold above all scores.

scores.npz: `rows`, `labels`, `is_member` [T 2n]; `attack/NAME/scores`, `attack/NAME/queries` [T 2n]; and for the
shadow models that attacks with one threshold are tuned on `shadow/rows`, `shadow/labels`, `shadow/is_member` and
`shadow/attack/NAME/scores` (held out) [T S*2n].
A score is NaN where a cap left the point unfinished, and +inf where no query flipped the label.
Of attacks that are calibrated per example, whose scores are log likelihood ratios, also
`attack/NAME/false_positive_rate` [T 2n] in (0, 1]: the estimated probability that a model not trained with this very
row gets so high a score; NaN where the point is unfinished. Optional, for the list of exposed records: `alone` [T 2n]
bool, whether the row is an outlier; `group` [T 2n], text; `images` [M H W C] uint8 and their `image_rows` [M].

exposed.csv stands beside them if a label-only attack has such rates: the columns `exposed.FIELDS`, one line for each
finished point of each target, by target and false positive rate. See `exposed.exposed_records`.
"""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mi_jax import store
from mi_jax.evaluation import exposed, plots, verdict
from mi_jax.evaluation.findings import findings
from mi_jax.evaluation.page import page
from mi_jax.evaluation.text import aligned, percent, table

__all__ = ["EXPOSED", "FILES", "aligned", "draw", "findings", "jsonable", "percent", "read", "table", "write"]

FILES = ("report.json", "scores.npz", "roc.png", "scores.png", "report.html")
EXPOSED = "exposed.csv"  # only of runs with a per-example attack on labels
# What figures, table and page need.
_OF_RECORD = ("config/dataset", "config/num_shadows", "attacks", "models/train_accuracy", "models/test_accuracy")
_OF_RECORD += ("models/flip_rate",)
_OF_ATTACK = ("access", "queries_per_example", "balanced_accuracy", "auc", "tpr_at_fpr", "achieved_fpr", "finished")
_OF_ATTACK += ("tuned/threshold",)


def write(folder: Path | str, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes the files of a run, each completely or not at all; of any record of `audit.audit`.

    They are `FILES` and, with a per-example attack, `EXPOSED`; one that an earlier run left in the folder is removed.
    ValueError, before a file is written, for a record that lacks what a report needs or cannot be drawn.
    """
    buffer, text = io.BytesIO(), json.dumps(jsonable(record), indent=1, allow_nan=False)
    arrays: dict[str, Any] = scores  # np.savez_compressed has options among its keyword arguments
    np.savez_compressed(buffer, **arrays)
    files = {"scores.npz": buffer.getvalue(), "report.json": (text + "\n").encode()}
    drawn = _drawings("record", *_loaded("record", files, "what audit.audit returns"))
    _write(Path(folder), files | drawn)
    if EXPOSED not in drawn:
        (Path(folder) / EXPOSED).unlink(missing_ok=True)


def read(folder: Path | str) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of a finished run. ValueError, which names the folder, if it holds none."""
    folder = Path(folder)
    for name in FILES[:2]:
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: expected a folder with {' and '.join(FILES[:2])}, {name} is missing")
    return _loaded(str(folder), {name: (folder / name).read_bytes() for name in FILES[:2]}, "the record of a run")


def _loaded(label: str, files: dict[str, bytes], expected: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) in the content of the two files; a ValueError for others begins with `label`."""
    try:
        record = json.loads(files["report.json"])
        with np.load(io.BytesIO(files["scores.npz"]), allow_pickle=False) as arrays:
            scores = dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise many exceptions for a damaged file
        raise ValueError(f"{label}: the record cannot be read ({' '.join(str(error).split())})") from None
    with _drawing(label):
        missing = _missing(record, scores)
    if missing:
        raise ValueError(f"{label}: expected {expected}, {missing} is missing")
    with _drawing(label):
        table(record)
        page(record, {})  # all text
    return record, scores


@contextlib.contextmanager
def _drawing(label: str) -> Iterator[None]:
    """Raises ValueError, in one line, for what code that uses a record raises if the record is malformed."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{label}: report.json cannot be drawn ({text}), expected the record of a run") from error


def _missing(record: Any, scores: dict[str, np.ndarray]) -> str | None:
    """The first key or array that `draw` needs and that is missing; a key as the path that leads to it."""
    for path in _OF_RECORD:
        if not _has(record, path):
            return path
    for name, entry in record["attacks"].items():
        if missing := next((path for path in _OF_ATTACK if not _has(entry, path)), None):
            return f"attacks/{name}/{missing}"
    return next((a for a in ("is_member", *(f"attack/{a}/scores" for a in record["attacks"])) if a not in scores), None)


def _has(found: Any, path: str) -> bool:
    for key in path.split("/"):
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True


def draw(folder: Path | str, into: Path | str | None = None) -> dict:
    """The record in `folder`; draws its figures, page and list into `into` (default: the same folder)."""
    record, scores = read(folder)
    _write(Path(into or folder), _drawings(str(folder), record, scores))
    return record


def _drawings(label: str, record: dict, scores: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Figures, page and the list of exposed records, if there is one, by the names of their files."""
    with _drawing(label):
        roc, panels = plots.roc_curves(record, scores), plots.score_histograms(record, scores)
        by_attack = [plots.svg(plots.score_histograms(record, scores, [name])) for name in record["attacks"]]
        found = exposed.leading_records(record, scores)
        box = verdict.box(record, scores)
        html = page(record, {"roc": [plots.svg(roc)], "scores": by_attack}, found, verdict=box).encode()
        drawn = {"roc.png": plots.png(roc), "scores.png": plots.png(panels), "report.html": html}
        return drawn | ({EXPOSED: exposed.csv_bytes(found.rows)} if found else {})


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        store.write_file(folder / name, content)


def jsonable(value: Any) -> Any:
    """The record as JSON takes it: numbers of NumPy and JAX as Python's; infinities, NaN and other objects as text."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return [jsonable(item) for item in sorted(value, key=str)]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        with contextlib.suppress(TypeError):  # keys of random numbers have no values
            listed = np.asarray(value).tolist()
            return str(value) if isinstance(listed, np.generic) else jsonable(listed)  # long doubles stay as they are
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    return value if isinstance(value, str | int | None) else str(value)
