"""The report page: one HTML file with findings, tables and figures, for a screen, a phone and paper."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from mi_jax.evaluation import text
from mi_jax.evaluation.findings import ACCESS, findings

RATES = {"0.1": "10 %", "0.01": "1 %", "0.001": "0.1 %"}
_COARSE = "too coarse: every threshold with a positive exceeds this rate, so that the TPR is 0."
_UNRESOLVED = "not resolvable: one of so few non-members is already more than this rate."
_CAPTIONS = {
    "roc": "ROC curves. An attack with coarse scores attains few false positive rates: its curve begins at its first "
    "one, stays at the lower of two between them, and may run below the line of chance.",
    "scores": "Scores of the attacked points. A point at or right of the threshold, chosen on shadow models, is called "
    "a member.",
}
_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{line-height:1.2;overflow-wrap:anywhere}h2{margin-top:2rem}h3{margin-bottom:.2rem}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:left}
th,td{vertical-align:top}td{overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.wide{width:100%}.wide th{vertical-align:bottom}.wide td:first-child{font-weight:600}
figure{margin:1rem 0;break-inside:avoid}figcaption,.note{color:#555;font-size:.9rem}
svg{max-width:100%;height:auto;display:block}.panels{display:flex;flex-wrap:wrap;gap:.5rem}
@media screen and (max-width:800px){
.wide tr:first-child{display:none}.wide tr,.wide td{display:block}.wide tr{margin-bottom:1rem}
.wide td{display:flex;justify-content:space-between;gap:1rem;text-align:right;padding:.2rem 0}
.wide td::before{content:attr(data-label);color:#555;font-weight:400;text-align:left;flex:none;max-width:50%}
}
@media print{
@page{margin:14mm}body{font-size:10.5pt;margin:0;max-width:none;padding:0}table{font-size:8pt}
th,td{padding:.15rem .35rem}tr,li,h2,h3,figure{break-inside:avoid}h1,h2,h3{break-after:avoid}
.panels svg{max-width:32%}
}
"""


def page(record: dict, figures: dict[str, Sequence[str]]) -> str:
    """A self-contained HTML page. `figures`: "roc" and "scores" -> <svg> elements, which stand in it as they are."""
    title = f"Label-only membership audit: {record['config']['dataset']}"
    notes = [f"{text.spoken(name)}: {value}" for name, value in _origin(record).items()]
    sections = {
        "Findings": "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in findings(record)) + "</ul>",
        "Attacks": _attacks(record),
        "What each attack chose and cost": _costs(record),
        "Figures": "".join(_figure(name, svgs) for name, svgs in figures.items()),
        "Threat model": _list(_threat_model(record)),
        "Data": _list(record.get("data") or {}),
        "Settings": _list(
            record["config"] | {"not set": [k for k, v in record["config"].items() if v is None] or None}
        ),
        "Environment": _list(record.get("environment") or {}),
        "Seconds": _list(record.get("seconds") or {}),
    }
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items() if content)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{_note('; '.join(notes))}{body}"
        f"{_note('Split ' + str(record.get('split_digest', 'unknown')))}</body></html>\n"
    )


def _origin(record: dict) -> dict[str, Any]:
    """When, with what and how the record was made, as far as it says."""
    environment = record.get("environment") or {}
    return {key: environment[key] for key in ("date", "mi_jax", "commit", "device", "command") if key in environment}


def _attacks(record: dict) -> str:
    """The table of results."""
    head = ["attack", "access", "queries per example", "balanced accuracy", "points above gap", "AUC"]
    head += [f"TPR at {rate} FPR" for rate in RATES.values()]
    rows = [
        [
            text.spoken(name), entry["access"], f"{entry['queries_per_example']:,.1f}", text.accuracy(entry),
            text.points(entry["gain_over_gap"]) if entry.get("gain_over_gap") else "", text.number(entry["auc"]),
            *(_rate(entry, fpr) for fpr in RATES),
        ]
        for name, entry in record["attacks"].items()
    ]  # fmt: skip
    cells = {cell for row in rows for cell in row}
    notes = [
        "Means over target models with 95 % intervals over targets; “over points” where there is one target, or where "
        "all are equal. Balanced accuracy is at a threshold chosen on shadow models; 50 % is chance. Points above gap: "
        "percentage points above the gap attack on the same points, with an interval over points. Queries: those to "
        "the target, misclassified points included. TPR: at the largest attainable FPR not above the named one.",
        *([_COARSE] if "too coarse" in cells else []),
        *([_UNRESOLVED] if "not resolvable" in cells else []),
    ]
    return _table(head, rows) + "".join(_note(note) for note in notes)


def _rate(entry: dict, fpr: str) -> str:
    return "too coarse" if text.too_coarse(entry, fpr) else text.percent(entry["tpr_at_fpr"][fpr])


def _costs(record: dict) -> str:
    """The table of what was chosen on shadow models, which points have no score, and where the queries went."""
    by_attack, rows = (record.get("queries") or {}).get("by_attack", {}), []
    for name, entry in record["attacks"].items():
        tuned, never, queries = entry["tuned"], entry.get("never_flipped"), by_attack.get(name, {})
        phases = [f"{text.spoken(phase)} {count:,}" for phase, count in entry.get("phases", {}).items() if count]
        edges = dict.fromkeys(text for text in tuned.get("at_edge") or [] if text)
        shadow = tuned.get("shadow_accuracy")
        rows.append([
            text.spoken(name), "; ".join([text.chosen_settings(tuned.get("settings", [])), *edges]),
            f"{100 * sum(shadow) / len(shadow):.1f} %" if shadow else "", f"{100 * entry['finished']:.4g} %",
            "" if never is None else f"{100 * never:.1f} %", ", ".join(phases),
            *(f"{queries[side]:,}" if side in queries else "" for side in ("target", "shadow")),
        ])  # fmt: skip
    head = ["attack", "chosen (for so many targets)", "accuracy on shadow models", "finished points", "never flipped",
            "queries by phase", "queries to targets", "to shadow models"]  # fmt: skip
    said = [i for i in range(len(head)) if any(row[i] for row in rows)]  # a column that no attack has is left out
    return _table([head[i] for i in said], [[row[i] for i in said] for row in rows])


def _threat_model(record: dict) -> dict[str, Any]:
    """What the attacker sees and knows."""
    attacks, split = record["attacks"], record.get("split") or {}
    seen = {access: [text.spoken(name) for name, entry in attacks.items() if entry["access"] == access]
            for access in ACCESS}  # fmt: skip
    overlap, config = split.get("shadow_overlap") or {}, record["config"]
    return {
        **{f"sees {ACCESS[access]}": names for access, names in seen.items() if names},
        "targets": len(record["models"]["train_accuracy"]["values"]),
        "shadow models of each": config["num_shadows"],
        **({"split": config["split"]} if "split" in config else {}),
        **{f"{side} of a target": split[key] for key, side in _SIDES.items() if key in split},
        **{f"{_SIDES[key]} seen by shadow models": f"{share:.1%}" for key, share in overlap.items()},
        **({"queries in all": record["queries"]["total"]} if "queries" in record else {}),
    }


_SIDES = {"members": "members", "nonmembers": "non-members"}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that a narrow screen shows as one card for each row."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f'<td data-label="{html.escape(name)}">{html.escape(cell)}</td>'
                         for name, cell in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table class=wide><tr>{cells}</tr>{lines}</table>"


def _list(entries: dict) -> str:
    """Names and values as a table of two columns, without what is null."""
    rows = "".join(
        f"<tr><td>{html.escape(text.spoken(str(name)))}</td><td>{html.escape(_words(value))}</td></tr>"
        for name, value in entries.items()
        if value is not None
    )
    return f"<table>{rows}</table>" if rows else ""


def _words(value: Any) -> str:
    """A value of a record as a reader would write it."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{text.spoken(str(name))} {_words(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(name: str, svgs: Sequence[str]) -> str:
    caption = f"<figcaption>{html.escape(_CAPTIONS[name])}</figcaption>"
    return f"<figure><div class=panels>{''.join(svgs)}</div>{caption}</figure>"


def _note(sentence: str) -> str:
    return f"<p class=note>{html.escape(sentence)}</p>" if sentence else ""
