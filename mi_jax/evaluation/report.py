"""A run on disk: `report.json`, `scores.npz`, and the table, figures and page drawn from these two alone.

report.json, stable: others read it. M = {"mean", "low", "high", "values"}: the mean over targets, its two-sided
95 % Student interval (null for a single target) and one value per target.

    {"config": {...},                         every flag of the run, as resolved; of `audit.audit` alone what it knows
     "environment": {"python", "jax", ..., "device", "commit",
                     "run_digest",            changes with settings, data, versions and code: the key of resumption
                     "parts_found"},          finished parts a resumed run began with; `seconds` leaves theirs out
     "split_digest": "...",                   changes with any row of the split
     "models": {"train_accuracy": M, "test_accuracy": M,     of the evaluated members and non-members
                "flip_rate": M,                              answers that changed when asked again
                "epochs": [one per model],
                "privacy": {"epsilon", "delta", "statement", "dropped"}},    of a private training only
     "attacks": {NAME: {"access": "label" | "confidence" | "gradient",
                        "points": int,                       members of each target it was put to, and as many others
                        "queries_per_example": float,        mean bill of the target, misclassified points included
                        "balanced_accuracy": M, "auc": M,
                        "tpr_at_fpr": {"0.1": M, "0.01": M, "0.001": M},     null: cannot be resolved with the
                        "achieved_fpr": {the same keys},                     non-members at hand
                        "finished": float,                   share of points a cap on queries left finished
                        "tuned": {"settings": [one per target], "threshold": [one per target],
                                  "shadow_accuracy": [one per target, by thresholds of the other half of its rows]}}},
     "seconds": {...}}

A TPR is that of the largest attainable FPR not above the one asked for; nothing is interpolated. Where an attack's
scores are so tied that only "nobody" is below it, TPR and achieved FPR are both 0. A threshold that predicts nobody
a member is written "inf".

scores.npz: `rows`, `labels`, `is_member` [T 2n]; `attack/NAME/scores`, `attack/NAME/queries` [T 2n]; and of the
shadow models `shadow/rows`, `shadow/labels`, `shadow/is_member`, `shadow/attack/NAME/scores` [T S*2n] (held out).
"""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mi_jax import store
from mi_jax.evaluation import plots

FILES = ("report.json", "scores.npz", "roc.png", "scores.png", "report.html")


def write(folder: Path, record: dict, scores: dict[str, np.ndarray]) -> None:
    """Writes the five files of a run; each appears whole or not at all."""
    buffer, text = io.BytesIO(), json.dumps(jsonable(record), indent=1, allow_nan=False)
    np.savez_compressed(buffer, **scores)
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
    except Exception as error:  # a damaged file makes zipfile, zlib and NumPy raise whatever they come across
        raise ValueError(f"--from={folder}: the record cannot be read ({error})") from None
    missing = _missing(record, scores)
    if missing:
        raise ValueError(f"--from={folder}: the record of a run lacks {missing[0]}")
    return record, scores


def _missing(record, scores: dict[str, np.ndarray]) -> list[str]:
    """What `draw` needs and is not there."""
    keys = ("config", "environment", "split_digest", "models", "attacks", "seconds")
    if not isinstance(record, dict) or not all(key in record for key in keys):
        return [key for key in keys if not isinstance(record, dict) or key not in record]
    return [name for name in ("is_member", *(f"attack/{a}/scores" for a in record["attacks"])) if name not in scores]


def draw(folder: Path, into: Path | None = None) -> dict:
    """Draws the figures and the page from the record in `folder`, and returns the record."""
    record, scores = read(folder)
    into = into or folder
    into.mkdir(parents=True, exist_ok=True)
    images = {
        "roc.png": plots.png(plots.roc(record, scores)),
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
    """Rows of cells as plain text, the first of them the header."""
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
    """The TPR at 1 % FPR, or why there is none."""
    achieved = entry["achieved_fpr"]["0.01"]
    if achieved is not None and max(achieved["values"]) == 0 and entry["tpr_at_fpr"]["0.01"]["mean"] == 0:
        return "none (tied scores)"
    return percent(entry["tpr_at_fpr"]["0.01"])


def percent(m: dict | None) -> str:
    """An M as a percentage with its interval."""
    if m is None:
        return "not resolvable"
    interval = "" if m["low"] is None else f" [{100 * m['low']:.1f}, {100 * m['high']:.1f}]"
    return f"{100 * m['mean']:.1f} %{interval}"


def _number(m: dict) -> str:
    interval = "" if m["low"] is None else f" [{m['low']:.3f}, {m['high']:.3f}]"
    return f"{m['mean']:.3f}{interval}"


SEEN = {
    "label": "predicted labels alone",
    "confidence": "the probability vector",
    "gradient": "parameters and gradients (no label-only attack, a bound on them)",
}


_SHADOW_ROWS = {
    "disjoint": " on rows disjoint from its own",
    "swap": " on its own rows with members and non-members exchanged (stronger than an attacker without these rows)",
    "balanced": " on random halves of the rows it is attacked on (stronger than an attacker without these rows)",
}


def findings(record: dict) -> list[str]:
    """What was found, with what access, at what cost, and what was not tested: one plain sentence each."""
    attacks, config, models = record["attacks"], record["config"], record["models"]
    T = len(models["train_accuracy"]["values"])
    said = [
        f"The {_count(T, 'target model')} label{'s' if T == 1 else ''} {percent(models['train_accuracy'])} of members "
        f"and {percent(models['test_accuracy'])} of non-members rightly."
    ]
    if "privacy" in models:
        said.append(f"Training was private: {models['privacy']['statement']}.")
    for access, seen in SEEN.items():
        found = {name: entry for name, entry in attacks.items() if entry["access"] == access}
        if found:
            best = max(found, key=lambda name: found[name]["balanced_accuracy"]["mean"])
            said.append(_said(best, found[best], seen))
    said.append(_against_gap(attacks))
    cut = [f"{name} ({1 - e['finished']:.0%})" for name, e in attacks.items() if e["finished"] < 1]
    if cut:
        said.append(f"The cap on queries left points unfinished, which count nowhere: {', '.join(cut)}.")
    if record["models"]["flip_rate"]["mean"] > 0:
        said.append(f"Asked again, targets changed {percent(record['models']['flip_rate'])} of their answers.")
    said.append(
        f"Attacks were tuned and thresholded on {_count(config['num_shadows'], 'shadow model')} per target, trained "
        f"like it{_SHADOW_ROWS.get(config.get('split'), '')}. An attacker with less data, or another "
        "architecture, may do worse."
    )
    said.append(
        f"Not tested: {_untested(attacks)}; {_undefended(config.get('defense'))}; rows singled out as outliers; an "
        "attacker who can poison the training set. A low number here bounds these attacks, not every attack."
    )
    return said


def _undefended(defense: str | None) -> str:
    if defense is None:  # trained elsewhere
        return "defenses other than the targets' own"
    return "any defense" if defense == "none" else f"defenses other than {defense}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _said(name: str, entry: dict, seen: str) -> str:
    accuracy = entry["balanced_accuracy"]
    verdict = "tells members from non-members"
    if accuracy["low"] is None:
        verdict = "was tried on one target, which does not show how reliably it tells members from non-members"
    elif accuracy["low"] <= 0.5:
        verdict = "does not reliably tell members from non-members"
    tpr = _tpr(entry)
    low = f" At 1 % false positives it finds {tpr} of the members."
    if not tpr[0].isdigit():
        why = "so many points share its highest score" if tpr.startswith("none") else "too few points were attacked"
        low = f" Nothing can be said at 1 % false positives: {why}."
    return (
        f"From {seen}, the best attack ({name.replace('_', ' ')}) {verdict}: {percent(accuracy)} of balanced "
        f"guesses are right (50 % is chance), with {entry['queries_per_example']:.1f} queries per example.{low}"
    )


def _against_gap(attacks: dict) -> str:
    if "gap" not in attacks:
        return "The gap attack (member iff labelled rightly) was not run, so what more queries add cannot be said."
    accuracy = attacks["gap"]["balanced_accuracy"]
    return (
        f"Guessing 'member' whenever the label is right is right {percent(accuracy)} of the time and costs one query; "
        "only what is above that is leakage beyond the train-test gap."
    )


def _untested(attacks: dict) -> str:
    known = ("gap", "rotation", "translation", "noise", "boundary", "combined")
    known += ("confidence_threshold", "confidence_network", "white_box")
    missing = [name.replace("_", " ") for name in known if name not in attacks]
    missing = ["distance to the decision boundary" if name == "boundary" else name for name in missing]
    return "the attacks " + ", ".join(missing) if missing else "attacks beyond those above"


def page(record: dict, images: dict[str, bytes]) -> str:
    """One self-contained HTML page: findings, table, figures, how it was made."""
    escape = html.escape
    body = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(record))
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in [name.replace("_", " "), *_cells(entry)]) + "</tr>"
        for name, entry in record["attacks"].items()
    )
    figures = "".join(f'<img alt="{escape(name)}" src="{plots.data_url(image)}">' for name, image in images.items())
    made = "".join(
        f"<h3>{title}</h3><table>{_rows(record[key])}</table>"
        for title, key in (("Settings", "config"), ("Environment", "environment"), ("Seconds", "seconds"))
    )
    title = f"Label-only membership audit: {escape(str(record['config']['dataset']))}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><h2>What was found</h2><ul>{body}</ul>"
        f"<h2>Attacks</h2><table class=attacks><tr>{head}</tr>{rows}</table>"
        "<p class=note>Mean over target models, with 95 % intervals. Queries: the mean bill of the target per example, "
        "misclassified points included. TPR is that of the largest attainable FPR not above 1 %.</p>"
        f"<h2>Figures</h2>{figures}<h2>How it was made</h2>{made}"
        f"<p class=note>Split {escape(record['split_digest'])}.</p></html>\n"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    ".attacks td:nth-child(n+3),.attacks th:nth-child(n+3){text-align:right;font-variant-numeric:tabular-nums}"
    "img{max-width:100%}.note{color:#555;font-size:.9rem}h3{margin-bottom:.2rem}"
)


def _rows(entries: dict) -> str:
    shown = {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in entries.items()}
    return "".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in shown.items())


def jsonable(value):
    """The record with infinite numbers as text, which JSON has no other word for."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
