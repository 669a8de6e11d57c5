"""The verdict of a report, for who signs off a model: what was established, what was not, and what it costs."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from mi_jax.evaluation import exposed, gate
from mi_jax.evaluation.text import percent, spoken

_FPRS = (0.001, 0.01, 0.1)
_NAMES = (
    "Membership inference, a privacy compromise by black-box queries (NIST AI 100-2); OWASP AISVS C11.3; "
    "MITRE ATLAS AML.T0024.000, infer training data membership by an inference API."
)
_ADVICE = {
    True: "Training that memorises less lowers all attacks: early stopping, regularisation, more rows, or differential "
    "privacy, which alone bounds them. Changing what is answered hides probabilities, not labels: attacks on labels "
    "are not stopped by it.",
    False: "No attack of this audit breaks the limit. Another attacker may: one who trains models like it on the "
    "candidates is stronger than one with a single threshold.",
}


def checked_limits(record: dict, scores: dict[str, np.ndarray]) -> list[gate.Checked]:
    """The limits that a record states (`limits`, text as in `gate.parse_limits`), checked."""
    return gate.check_limits(record, scores, gate.parse_limits(record.get("limits", [])))


def sentences(record: dict, scores: dict[str, np.ndarray]) -> list[str]:
    """What the verdict says: the strongest attack on labels, exposed records, confidences, cost, resolution, gaps."""
    names = gate.label_attacks(record)
    if not names:
        return ["No attack of this audit sees labels alone."]
    said = [_strongest(record, scores, names), *_exposed(record, scores), *_with_scores(record, scores)]
    return [*said, *_costs(record), _resolution(scores), _untested(record)]


def _strongest(record: dict, scores: dict[str, np.ndarray], names: list[str]) -> str:
    name = max(names, key=lambda one: record["attacks"][one]["balanced_accuracy"]["mean"])
    found, queries = gate.advantage(record, scores, name, 0.95), round(record["attacks"][name]["queries_per_example"])
    said = f"An attacker who sees labels alone has an advantage of {percent(found)} over guessing by the attack "
    said += f"“{spoken(name)}” ({queries:,} {'query' if queries == 1 else 'queries'} a point)"
    for fpr in _FPRS:
        (checked,) = gate.check_limits(record, scores, [gate.Limit("tpr", 0.0, fpr)])
        if checked.measured is not None and checked.attack:
            at = f"and names {percent(checked.measured)} of members at {100 * fpr:g} % false positives"
            return f"{said}, {at} by “{spoken(checked.attack)}”."
    return f"{said}."


def _exposed(record: dict, scores: dict[str, np.ndarray]) -> list[str]:
    found = exposed.leading_records(record, scores)
    if found is None:
        return ["No attack judged every point by shadow models: nobody could be named, whatever the model leaks."]
    return exposed.exposed_sentences(found)[:1]


def _with_scores(record: dict, scores: dict[str, np.ndarray]) -> list[str]:
    names = [name for name, entry in record["attacks"].items() if entry["access"] == "confidence"]
    if not names:
        return []
    name = max(names, key=lambda one: record["attacks"][one]["balanced_accuracy"]["mean"])
    found = gate.advantage(record, scores, name, 0.95)
    return [f"An attacker who sees probabilities has an advantage of {percent(found)} (“{spoken(name)}”)."]


def _costs(record: dict) -> list[str]:
    queries = record.get("queries", {})
    if "by_attack" not in queries:
        return []
    labels = gate.label_attacks(record)
    put = sum(queries["by_attack"][name]["target"] for name in labels if name in queries["by_attack"])
    targets = len(record["models"]["train_accuracy"]["values"])
    said = (
        f"All attacks on labels together put {put / targets:,.0f} queries to {'the' if targets == 1 else 'each'} target"
    )
    price = record.get("price_per_1000")
    return [f"{said}: {put / targets / 1000 * price:,.2f} at {price:g} for 1,000." if price is not None else f"{said}."]


def _resolution(scores: dict[str, np.ndarray]) -> str:
    members, others = int(scores["is_member"].sum()), int((~scores["is_member"]).sum())
    return f"{members:,} members and {others:,} non-members were attacked: no rate below 1 in {others:,} is resolved."


def _untested(record: dict) -> str:
    entries = record["attacks"]
    missing = []
    if not any("every_point" in entry for entry in entries.values()):
        missing.append("attacks that judge every point by shadow models")
    if not any(entry["access"] == "confidence" for entry in entries.values()):
        missing.append("attackers who see probabilities")
    if not any(
        name.split(":")[0] in ("boundary", "calibrated_boundary", "rays", "calibrated_rays") for name in entries
    ):
        missing.append("distances to the decision boundary")
    missing.append("attackers who know the model's parameters" if "white_box" not in entries else "training anew")
    return f"Not tested: {', '.join(missing)}; attributes, reconstruction and other privacy attacks."


def box(record: dict, scores: dict[str, np.ndarray]) -> str:
    """The verdict as an HTML section; every text in it is escaped."""
    checked = checked_limits(record, scores)
    limits = "".join(
        f'<li class="{one.verdict}"><b>{one.verdict}</b> {html.escape(_limit(one))}</li>' for one in checked
    )
    broken = gate.any_broken(checked)
    head = _headline(checked)
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences(record, scores))
    advice = f"<p>{html.escape(_ADVICE[broken])}</p>" if checked else ""
    return (
        f'<section class="verdict"><h2>Verdict</h2><p><b>{html.escape(head)}</b></p><ul>{limits}</ul><ul>{items}</ul>'
        f'{advice}<p class="note">{html.escape(_NAMES)}</p></section>'
    )


def _headline(checked: Sequence[gate.Checked]) -> str:
    if not checked:
        return "No limit was stated; --fail_above states one."
    counts: dict[str, Any] = {
        one: sum(found.verdict == one for found in checked) for one in (gate.BROKEN, gate.UNDECIDED)
    }
    if counts[gate.BROKEN]:
        return f"{counts[gate.BROKEN]} of {len(checked)} limits broken."
    if counts[gate.UNDECIDED]:
        return f"No limit is broken; {counts[gate.UNDECIDED]} of {len(checked)} are undecided by these data."
    return f"All {len(checked)} limits are kept."


def _limit(checked: gate.Checked) -> str:
    return str(checked).replace(f": {checked.verdict},", ":", 1)
