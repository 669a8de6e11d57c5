"""A run on disk: `report.json`, `scores.npz`, and the table, figures and page drawn from these two alone.

report.json is stable, since other programs read it. M = {"mean", "low", "high", "values"}: the mean over targets, its
two-sided 95 % Student interval (null for a single target) and one value per target.

    {"config": {...},                         every flag of the run, resolved; `audit.audit` alone writes what it knows
     "environment": {"python", "jax", ..., "device", "commit",
                     "run_digest",            changes with settings, data, versions and code: the key of the cache
                     "parts_found"},          cached results when the run began; `seconds` excludes their time
     "split_digest": "...",                   changes with any row of the split
     "models": {"train_accuracy": M, "test_accuracy": M,     on the attacked members and non-members
                "flip_rate": M,                              share of answers that changed when queried again
                "epochs": [one per model],
                "privacy": {"epsilon", "delta", "statement", "dropped"}},    with private training only
     "attacks": {NAME: {"access": "label" | "confidence" | "gradient",
                        "points": int,                       attacked members of each target, and as many non-members
                        "queries_per_example": float,        mean number of queries, misclassified points included
                        "balanced_accuracy": M, "auc": M,
                        "tpr_at_fpr": {"0.1": M, "0.01": M, "0.001": M},     null: not resolvable with so few
                        "achieved_fpr": {the same keys},                     non-members
                        "finished": float,                   share of points finished before a cap on queries
                        "tuned": {"settings": [one per target], "threshold": [one per target],
                                  "shadow_accuracy": [one per target, thresholds from the other half of rows]}}},
     "seconds": {...}}

A TPR is that of the largest attainable FPR not above the named one; nothing is interpolated. Where scores are so coarse
that every threshold with a positive exceeds that FPR, TPR and achieved FPR are both 0. A threshold above all scores is
written "inf".

scores.npz: `rows`, `labels`, `is_member` [T 2n]; `attack/NAME/scores`, `attack/NAME/queries` [T 2n]; and for the
shadow models `shadow/rows`, `shadow/labels`, `shadow/is_member`, `shadow/attack/NAME/scores` [T S*2n] (held out).
"""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax import store
from mi_jax.evaluation import plots

FILES = ("report.json", "scores.npz", "roc.png", "scores.png", "report.html")


def write(folder: Path, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes the five files of a run, each completely or not at all."""
    buffer, text = io.BytesIO(), json.dumps(jsonable(record), indent=1, allow_nan=False)
    arrays: dict[str, Any] = scores  # np.savez_compressed has options among its keyword arguments
    np.savez_compressed(buffer, **arrays)
    folder.mkdir(parents=True, exist_ok=True)
    store.write_file(folder / "scores.npz", buffer.getvalue())
    store.write_file(folder / "report.json", (text + "\n").encode())
    draw(folder)


def read(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of a finished run."""
    for name in FILES[:2]:
        if not (folder / name).is_file():
            raise ValueError(f"--from={folder}: expected a folder with {' and '.join(FILES[:2])}, {name} is missing")
    try:
        record = json.loads((folder / "report.json").read_text())
        with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
            scores = dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise many exceptions for a damaged file
        raise ValueError(f"--from={folder}: the record cannot be read ({error})") from None
    missing = _missing(record, scores)
    if missing:
        raise ValueError(f"--from={folder}: expected the record of a run, {missing[0]} is missing")
    return record, scores


def _missing(record, scores: dict[str, np.ndarray]) -> list[str]:
    """The keys and arrays that `draw` needs and that are missing."""
    keys = ("config", "environment", "split_digest", "models", "attacks", "seconds")
    if not isinstance(record, dict) or not all(key in record for key in keys):
        return [key for key in keys if not isinstance(record, dict) or key not in record]
    return [name for name in ("is_member", *(f"attack/{a}/scores" for a in record["attacks"])) if name not in scores]


def draw(folder: Path, into: Path | None = None) -> dict:
    """The record in `folder`; draws its figures and page into `into` (default: the same folder)."""
    record, scores = read(folder)
    into = into or folder
    into.mkdir(parents=True, exist_ok=True)
    images = {
        "roc.png": plots.png(plots.roc_curves(record, scores)),
        "scores.png": plots.png(plots.score_histograms(record, scores)),
    }
    for name, image in images.items():
        store.write_file(into / name, image)
    store.write_file(into / "report.html", page(record, images).encode())
    return record


def table(record: dict) -> str:
    """The attacks as a plain-text table, one row each, mean and 95 % interval over targets."""
    return aligned([HEADER, *([name, *_cells(entry)] for name, entry in record["attacks"].items())])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as plain text; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


HEADER = ["attack", "access", "queries", "balanced accuracy", "AUC", "TPR at 1 % FPR"]


def _cells(entry: dict) -> list[str]:
    return [
        entry["access"],
        f"{entry['queries_per_example']:.1f}",
        percent(entry["balanced_accuracy"]),
        _number(entry["auc"]),
        _tpr(entry),
    ]


def _tpr(entry: dict) -> str:
    """The TPR at 1 % FPR, or why it is 0 or cannot be resolved."""
    return "0 at FPR <= 1 % (scores too coarse)" if _too_coarse(entry) else percent(entry["tpr_at_fpr"]["0.01"])


def _too_coarse(entry: dict) -> bool:
    """True where every threshold with a positive exceeds 1 % FPR, because too many points share the highest score."""
    achieved = entry["achieved_fpr"]["0.01"]
    return achieved is not None and max(achieved["values"]) == 0 and entry["tpr_at_fpr"]["0.01"]["mean"] == 0


def percent(m: dict | None) -> str:
    """An M as a percentage with its interval."""
    if m is None:
        return "not resolvable"
    interval = "" if m["low"] is None else f" [{100 * m['low']:.1f}, {100 * m['high']:.1f}]"
    return f"{100 * m['mean']:.1f} %{interval}"


def _number(m: dict) -> str:
    interval = "" if m["low"] is None else f" [{m['low']:.3f}, {m['high']:.3f}]"
    return f"{m['mean']:.3f}{interval}"


ACCESS = {
    "label": "predicted labels alone",
    "confidence": "the probability vector",
    "gradient": "parameters and gradients (a baseline, not a label-only attack)",
}


_SHADOW_ROWS = {
    "disjoint": " on rows disjoint from its own",
    "swap": " on its own rows with members and non-members exchanged (a stronger attacker than one without these rows)",
    "balanced": " on random halves of the rows it is attacked on (a stronger attacker than one without these rows)",
}


def findings(record: dict) -> list[str]:
    """The results by access, with their query counts, and what was not tested: one sentence each."""
    attacks, config, models = record["attacks"], record["config"], record["models"]
    T = len(models["train_accuracy"]["values"])
    sentences = [
        f"The {_count(T, 'target model')} label{'s' if T == 1 else ''} {percent(models['train_accuracy'])} of members "
        f"and {percent(models['test_accuracy'])} of non-members correctly."
    ]
    if "privacy" in models:
        sentences.append(f"Training was private: {models['privacy']['statement']}.")
    for access, description in ACCESS.items():
        entries = {name: entry for name, entry in attacks.items() if entry["access"] == access}
        if entries:
            best = max(entries, key=lambda name: entries[name]["balanced_accuracy"]["mean"])
            sentences.append(_best_attack(best, entries[best], description))
    sentences.append(_gap_baseline(attacks))
    capped = [f"{name} ({1 - e['finished']:.0%})" for name, e in attacks.items() if e["finished"] < 1]
    if capped:
        sentences.append(f"The cap on queries left points unfinished, which no number includes: {', '.join(capped)}.")
    if models["flip_rate"]["mean"] > 0:
        sentences.append(f"Queried again, targets changed {percent(models['flip_rate'])} of their answers.")
    return [*sentences, *_limits(attacks, config)]


def _limits(attacks: dict, config: dict) -> list[str]:
    """What the attacker knew, and what was not tested."""
    shadows = _count(config["num_shadows"], "shadow model")
    return [
        f"Attacks were tuned and thresholded on {shadows} per target, trained "
        f"like it{_SHADOW_ROWS.get(config.get('split', ''), '')}. An attacker with less data, or another "
        "architecture, may do worse.",
        f"Not tested: {_untested(attacks)}; {_untested_defenses(config.get('defense'))}; rows selected as outliers; an "
        "attacker who can poison the training set. A low number bounds leakage to these attacks, not to every attack.",
    ]


def _untested_defenses(defense: str | None) -> str:
    if defense is None:  # trained elsewhere
        return "defenses other than the targets' own"
    return "any defense" if defense == "none" else f"defenses other than {defense}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _best_attack(name: str, entry: dict, access: str) -> str:
    """The sentence about the best attack with an access."""
    accuracy = entry["balanced_accuracy"]
    verdict = "distinguishes members from non-members"
    if accuracy["low"] is None:
        verdict = "ran on one target, which does not show how reliably it distinguishes members from non-members"
    elif accuracy["low"] <= 0.5:
        verdict = "does not reliably distinguish members from non-members"
    return (
        f"From {access}, the best attack ({name.replace('_', ' ')}) {verdict}: {percent(accuracy)} balanced attack "
        f"accuracy (50 % is chance), with {entry['queries_per_example']:.1f} queries per example. {_low_fpr(entry)}"
    )


def _low_fpr(entry: dict) -> str:
    """The sentence about the TPR at 1 % FPR."""
    if entry["tpr_at_fpr"]["0.01"] is None:
        return "Its TPR at 1 % FPR is not resolvable: too few points were attacked."
    if _too_coarse(entry):
        return "Its TPR is 0 at FPR <= 1 %: its scores are too coarse, since too many points share the highest one."
    return f"At 1 % false positives it finds {_tpr(entry)} of the members."


def _gap_baseline(attacks: dict) -> str:
    if "gap" not in attacks:
        return "The gap attack (member iff labelled correctly) was not run, so there is no baseline for more queries."
    accuracy = attacks["gap"]["balanced_accuracy"]
    return (
        f"The gap attack (member iff labelled correctly) has {percent(accuracy)} balanced attack accuracy with one "
        "query; only accuracy above that is leakage beyond the train-test gap."
    )


def _untested(attacks: dict) -> str:
    known = ("gap", "rotation", "translation", "random_augmentation", "noise", "boundary", "rays", "combined")
    known += ("confidence_threshold", "confidence_network", "white_box")
    missing = [name.replace("_", " ") for name in known if name not in attacks]
    missing = ["distance to the decision boundary" if name == "boundary" else name for name in missing]
    return "the attacks " + ", ".join(missing) if missing else "attacks beyond those above"


def page(record: dict, images: dict[str, bytes]) -> str:
    """One self-contained HTML page: findings, table, figures, settings."""
    escape = html.escape
    body = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(record))
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in [name.replace("_", " "), *_cells(entry)]) + "</tr>"
        for name, entry in record["attacks"].items()
    )
    figures = "".join(f'<img alt="{escape(name)}" src="{plots.data_url(image)}">' for name, image in images.items())
    details = "".join(
        f"<h3>{title}</h3><table>{_rows(record[key])}</table>"
        for title, key in (("Settings", "config"), ("Environment", "environment"), ("Seconds", "seconds"))
    )
    title = f"Label-only membership audit: {escape(str(record['config']['dataset']))}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><h2>Findings</h2><ul>{body}</ul>"
        f"<h2>Attacks</h2><table class=attacks><tr>{head}</tr>{rows}</table>"
        "<p class=note>Means over target models with 95 % intervals. Queries: the mean number of queries per example, "
        "misclassified points included. TPR: at the largest attainable FPR not above 1 %.</p>"
        f"<h2>Figures</h2><p class=note>{_COARSE_CURVES}</p>{figures}<h2>Settings and environment</h2>{details}"
        f"<p class=note>Split {escape(record['split_digest'])}.</p></html>\n"
    )


_COARSE_CURVES = (
    "An attack with coarse scores attains few false positive rates: between them its curve stays at the lower one, "
    "and may run below the line of chance."
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    ".attacks{display:block;overflow-x:auto}.attacks td:not(:last-child){white-space:nowrap}"
    ".attacks td:nth-child(n+3),.attacks th:nth-child(n+3){text-align:right;font-variant-numeric:tabular-nums}"
    "img{max-width:100%}.note{color:#555;font-size:.9rem}h3{margin-bottom:.2rem}"
)


def _rows(entries: dict) -> str:
    texts = {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for k, v in entries.items()}
    return "".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(v)}</td></tr>" for k, v in texts.items())


def jsonable(value: Any) -> Any:
    """The record with infinite numbers as text, since JSON has no infinity."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
