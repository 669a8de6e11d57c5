"""The report page: one HTML file with findings, tables and figures, for a screen, a phone and paper."""

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

from mi_jax.evaluation import text
from mi_jax.evaluation.findings import ACCESS, findings

RATES = {"0.1": "10 %", "0.01": "1 %", "0.001": "0.1 %"}
_SHORT = {
    "too coarse": "every threshold with a positive exceeds this rate, so that the TPR is 0.",
    "not resolvable": "one of so few non-members is already more than this rate.",
}
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
th,td{vertical-align:top;overflow-wrap:break-word}td{font-variant-numeric:tabular-nums}
table:not(.wide) td:last-child,.note{overflow-wrap:anywhere}
.wide{width:100%}.wide th{vertical-align:bottom}.wide td:first-child{font-weight:600}
figure{margin:1rem 0;break-inside:avoid}figcaption,.note{color:#555;font-size:.9rem}
svg{max-width:100%;height:auto;display:block}.panels{display:flex;flex-wrap:wrap;gap:.5rem}
@media screen and (max-width:800px){
.wide tr:first-child{display:none}.wide tr,.wide td{display:block}.wide tr{margin-bottom:1rem}
.wide td{display:flex;justify-content:space-between;gap:1rem;text-align:right;padding:.2rem 0}
.wide td:empty{display:none}
.wide td::before{content:attr(data-label);color:#555;font-weight:400;text-align:left;flex:none;max-width:50%}
}
@media print{
@page{margin:14mm}body{font-size:10.5pt;margin:0;max-width:none;padding:0}table{font-size:8pt}
th,td{padding:.15rem .35rem}tr,li,h2,h3,figure{break-inside:avoid}h1,h2,h3{break-after:avoid}
.scores svg{max-width:32%}.roc svg{max-width:70%}
}
"""


def page(record: dict, figures: dict[str, Sequence[str]]) -> str:
    """A self-contained HTML page. `figures`: "roc" and "scores" -> <svg> elements, which stand in it as they are."""
    title = f"Label-only membership audit: {record['config']['dataset']}"
    environment = record.get("environment") or {}
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
        "Environment": _list(environment, str),
        "Seconds": _list(record.get("seconds") or {}),
    }
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items() if content)
    return text.printable(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{_note(_origin(environment))}{_note(environment.get('command', ''))}{body}"
        f"{_note('Split ' + str(record.get('split_digest', 'unknown')))}</body></html>\n"
    )


def _origin(environment: dict) -> str:
    """When, with what and where a run was made, as far as its record says."""
    named = {"date": "", "mi_jax": "mi_jax ", "commit": "commit ", "device": ""}
    return "; ".join(f"{name}{environment[key]}" for key, name in named.items() if key in environment)


def _attacks(record: dict) -> str:
    """The table of results."""
    rows = [
        {
            "attack": text.spoken(name),
            "access": entry["access"],
            "queries per example": f"{entry['queries_per_example']:,.1f}",
            "balanced accuracy": text.accuracy(entry),
            "points above gap": text.points(entry["gain_over_gap"]) if entry.get("gain_over_gap") else "",
            "AUC": text.number(entry["auc"]),
            **{f"TPR at {rate} FPR": _rate(entry, fpr) for fpr, rate in RATES.items()},
        }
        for name, entry in record["attacks"].items()
    ]
    cells = {cell for row in rows for cell in row.values()}
    notes = [
        "Means over target models with 95 % intervals over targets; “over points” where there is one target, or where "
        "all are equal. Balanced accuracy is at a threshold chosen on shadow models; 50 % is chance. Points above gap: "
        "percentage points above the gap attack on the same points, with an interval over points. Queries: those to "
        "the target, misclassified points included. TPR: at the largest attainable FPR not above the named one.",
        *(f"{word}: {meaning}" for word, meaning in _SHORT.items() if word in cells),
    ]
    return _table(rows) + "".join(_note(note) for note in notes)


def _rate(entry: dict, fpr: str) -> str:
    return "too coarse" if text.too_coarse(entry, fpr) else text.percent(entry["tpr_at_fpr"][fpr])


def _costs(record: dict) -> str:
    """The table of what was chosen on shadow models, which points have no score, and where the queries went."""
    by_attack, rows = (record.get("queries") or {}).get("by_attack", {}), []
    for name, entry in record["attacks"].items():
        tuned, put = entry["tuned"], by_attack.get(name, {})
        edges = dict.fromkeys(edge for edge in tuned.get("at_edge") or [] if edge)
        shadow, never = tuned.get("shadow_accuracy"), entry.get("never_flipped")
        phases = [f"{text.spoken(phase)} {count:,}" for phase, count in entry.get("phases", {}).items() if count]
        rows.append(
            {
                "attack": text.spoken(name),
                "chosen (for so many targets)": "; ".join([text.chosen_settings(tuned.get("settings", [])), *edges]),
                "accuracy on shadow models": f"{100 * sum(shadow) / len(shadow):.1f} %" if shadow else "",
                "finished points": f"{100 * entry['finished']:.4g} %",
                "never flipped": f"{100 * never:.1f} %" if never is not None else "",
                "queries by phase": ", ".join(phases),
                **{f"queries to {side} models": f"{count:,}" for side, count in put.items()},
            }
        )
    return _table(rows)


def _threat_model(record: dict) -> dict[str, Any]:
    """What the attacker sees and knows; null: the record does not say."""
    attacks, split = record["attacks"], record.get("split") or {}
    seen = {f"sees {what}": [text.spoken(name) for name, entry in attacks.items() if entry["access"] == access] or None
            for access, what in ACCESS.items()}  # fmt: skip
    overlap = split.get("shadow_overlap") or {}
    return seen | {
        "targets": len(record["models"]["train_accuracy"]["values"]),
        "shadow models of each": record["config"]["num_shadows"],
        "split": record["config"].get("split"),
        "members of a target": split.get("members"),
        "non-members of a target": split.get("nonmembers"),
        "members that shadow models were trained on": _share(overlap.get("members")),
        "non-members that shadow models were trained on": _share(overlap.get("nonmembers")),
        "queries in all": (record.get("queries") or {}).get("total"),
    }


def _share(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of named cells as a table, without columns that are empty; a narrow screen shows a card for each row."""
    head = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)]
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>"
        + "".join(f'<td data-label="{html.escape(name)}">{_cell(row.get(name, ""))}</td>' for name in head)
        + "</tr>"
        for row in rows
    )
    return f"<table class=wide><tr>{cells}</tr>{lines}</table>"


def _cell(value: str) -> str:
    """A cell that breaks before an interval, not within it."""
    return re.sub(r" (?=%)|(?<=,) (?=[-+\d.]+\])", "\u00a0", html.escape(value))


def _list(entries: dict, said: Callable[[str], str] = text.spoken) -> str:
    """Names, as they are said, and values as a table of two columns, without what is null."""
    rows = "".join(
        f"<tr><td>{html.escape(said(str(name)))}</td><td>{html.escape(_words(value))}</td></tr>"
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
    return f"<figure><div class='panels {name}'>{''.join(svgs)}</div>{caption}</figure>"


def _note(sentence: str) -> str:
    return f"<p class=note>{html.escape(sentence)}</p>" if sentence else ""
