"""The report page: one HTML file with findings, tables and figures, for a screen, a phone and paper."""

import base64
import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mi_jax.evaluation import text
from mi_jax.evaluation.exposed import Exposed, by_group, count_named, exposed_sentences, strongest
from mi_jax.evaluation.findings import ACCESS, findings
from mi_jax.evaluation.markup import cards, document, note
from mi_jax.evaluation.plots import image_png

_SHORT = {
    "too coarse": "every threshold with a positive exceeds this rate, so that the TPR is 0.",
    "at chance": "the interval holds this rate itself, so that guessing does as well.",
    "not resolvable": "a single non-member is already more than this rate, since there are so few.",
}
SHOWN, SHOWN_GROUPS = 20, 30  # exposed records, and classes or groups of them, that stand in the page
_EXPOSED = (
    "Strongest first; each record on the target that names it most surely. Named: on how many of the targets trained "
    "with it. Likelihood ratio: how many times likelier the answers are from a model trained "
    "with the record. False positive rate: the probability that a model trained without this record gets so high a "
    "score, estimated from shadow models. False discovery rate: the expected share of non-members in a list of this "
    "target's points that ends here (Benjamini and Hochberg), if these rates are right. In fact: whether this target "
    "was trained with it. All points of all targets: exposed.csv."
)
_GROUPS = (
    "Shares with exact 95 % intervals over points, of all targets together. False among named: non-members among the "
    "named records."
)
_SHARED = "Attacks on the same questions ask shadow models once: these queries stand with the first of them."
_CAPTIONS = {
    "roc": "ROC curves. An attack with coarse scores attains few false positive rates: its curve begins at the first "
    "one that every target attains, stays at the lower of two between them, and may run below the line of chance.",
    "scores": "Scores of the attacked points. A point at or right of the threshold, chosen on shadow models, is called "
    "a member.",
}


def page(record: dict, figures: dict[str, Sequence[str]], exposed: Exposed | None = None, verdict: str = "") -> str:
    """A self-contained HTML page. `figures`: "roc" and "scores" -> <svg> elements, which stand in it as they are.

    `exposed`: `exposed.leading_records`; None: no such section. `verdict`: a `verdict.box`, which stands as it is.
    """
    title = f"Label-only membership audit: {record['config']['dataset']}"
    environment = record.get("environment") or {}
    sections = {
        "Findings": f"<ul>{''.join(f'<li>{html.escape(said)}</li>' for said in findings(record, exposed))}</ul>",
        "Attacks": _attacks(record),
        "Exposed records": _exposed(exposed) if exposed else "",
        "What each attack chose and cost": _costs(record),
        "Figures": "".join(_figure(name, svgs) for name, svgs in figures.items()),
        "Model": _list({key: of for key, of in (record.get("target") or {}).items() if key != "columns"}),
        "Threat model": _list(_threat_model(record)),
        "Data": _list(record.get("data") or {}),
        "Settings": _list(
            record["config"] | {"not set": [k for k, v in record["config"].items() if v is None] or None}
        ),
        "Environment": _list(environment, str),
        "Seconds": _list(record.get("seconds") or {}),
    }
    body = verdict + "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items() if content)
    first = f"{note(_origin(environment))}{note(environment.get('command', ''))}"
    return document(title, f"{first}{body}{note('Split ' + str(record.get('split_digest', 'unknown')))}")


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
            **{f"TPR at {rate} FPR": _rate(entry, fpr) for fpr, rate in text.RATES.items()},
        }
        for name, entry in record["attacks"].items()
    ]
    cells = {cell for row in rows for cell in row.values()}
    notes = [
        "Means over target models with 95 % intervals over targets; “over points” where there is one target, or where "
        "all are equal. Balanced accuracy is at a threshold chosen on shadow models; 50 % is chance. Points above gap: "
        "percentage points above the gap attack on the same points, with an interval over points. Queries: those to "
        "the target, misclassified points included. TPR: at the largest attainable FPR not above the named one. "
        "Pooled: of the points of all targets together, with an interval over points.",
        *(f"{word}: {meaning}" for word, meaning in _SHORT.items() if any(cell.endswith(word) for cell in cells)),
    ]
    return cards(rows) + "".join(note(said) for said in notes)


def _rate(entry: dict, fpr: str) -> str:
    return text.rate(entry, fpr) + (", at chance" if text.at_chance(entry, fpr) else "")


def _exposed(found: Exposed) -> str:
    """What the names are worth, the first of them, and how many of each class and group."""
    shown = [_exposed_cells(found, row) for row in strongest(found.rows, SHOWN)]
    groups = [{"records": "all", **_group_cells(count_named(found.rows))}]
    kinds = {"mislabelled": ("labelled correctly", "mislabelled"), "alone": ("not alone", "alone")}
    for key, names in kinds.items():
        groups += [{"records": names[one["value"]], **_group_cells(one)} for one in by_group(found.rows, key)]
    notes = []
    for key, name, plural in (("group", "group", "groups"), ("label", "class", "classes")):
        lines = by_group(found.rows, key)
        if len(lines) > SHOWN_GROUPS:
            notes.append(f"The {SHOWN_GROUPS} of {len(lines):,} {plural} with the most named members.")
            lines = sorted(lines, key=lambda one: -one["named_members"])[:SHOWN_GROUPS]
        groups += [{"records": f"{name} {one['value']}", **_group_cells(one)} for one in lines]
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in exposed_sentences(found))
    notes = "".join(note(said) for said in (_GROUPS, *notes))
    return f"{said}{cards(shown, elements=('image',))}{note(_EXPOSED)}<h3>By class and group</h3>{cards(groups)}{notes}"


def _exposed_cells(found: Exposed, row: dict) -> dict[str, str]:
    """One exposed record in words; `image` is an element."""
    one_target, image = found.rows[-1]["target"] == 0, found.images.get(row["row"])
    words = {None: "", True: "yes", False: "no"}
    return {
        "row": str(row["row"]),
        "image": "" if image is None else _image(image, f"row {row['row']}, label {row['label']}"),
        "target": "" if one_target else str(row["target"]),
        "label": str(row["label"]),
        "named": "" if one_target else _named_on(found, row["row"]),
        "likelihood ratio": _power_of_ten(row["score"] / math.log(10)),
        "false positive rate": _small_rate(row["false_positive_rate"]),
        "false discovery rate": _small_rate(row["fdr"]),
        "in fact": "member" if row["is_member"] else "non-member",
        "mislabelled": words[row["mislabelled"]],
        "alone": words[row["alone"]],
        "group": row["group"] or "",
    }


def _named_on(found: Exposed, row: int) -> str:
    of_members = [one["named"] for one in found.rows if one["row"] == row and one["is_member"]]
    return f"{sum(of_members)}\u00a0of\u00a0{len(of_members)}"


def _power_of_ten(exponent: float) -> str:
    return "> 10^6" if exponent > 6 else "< 10^-6" if exponent < -6 else f"10^{round(exponent, 1) + 0.0:.1f}"


def _small_rate(rate: float) -> str:
    return "< 0.0001 %" if rate < 1e-6 else f"{100 * rate:.2g} %" if rate < 0.095 else f"{100 * rate:.0f} %"


def _image(image: np.ndarray, words: str) -> str:
    data = base64.b64encode(image_png(image)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(words)}">'


def _group_cells(counts: dict) -> dict[str, str]:
    """What is named of one group of points, in words."""
    cells = {}
    for side, noun, share in (("members", "members", "tpr"), ("nonmembers", "non-members", "fpr")):
        number = counts[f"named_{side}"]
        cells[noun] = f"{counts[side]:,}"
        cells[f"named {noun}"] = f"{number:,}: {text.percent(counts[share])}" if counts[share] else ""
    proportion = counts["false_discovery_proportion"]
    return cells | {"false among named": text.percent(proportion) if proportion else ""}


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
    shared = any("every_point" in one for one in record["attacks"].values())
    return cards(rows) + (note(_SHARED) if shared and by_attack else "")


def _threat_model(record: dict) -> dict[str, Any]:
    """What the attacker sees and knows; null: the record does not say."""
    attacks, split = record["attacks"], record.get("split") or {}
    seen = {f"sees {what}": [text.spoken(name) for name, entry in attacks.items() if entry["access"] == access] or None
            for access, what in ACCESS.items()}  # fmt: skip
    overlap = split.get("shadow_overlap") or {}
    judging = {name: entry["every_point"] for name, entry in attacks.items() if "every_point" in entry}
    return seen | {
        "judges every point by itself": [text.spoken(name) for name in judging] or None,
        "of these offline": [text.spoken(name) for name, one in judging.items() if not one["online"]] or None,
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
