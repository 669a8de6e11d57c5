"""The verdict of a report, for who signs off a model: what was established, what was not, and what it costs."""

import html
from collections.abc import Sequence

import numpy as np

from mi_jax.evaluation import exposed, gate, paired
from mi_jax.evaluation.text import counted, percent, printable, spoken

_FPRS = (0.001, 0.01, 0.1)
_NAMES = (
    "Named by the words of NIST AI 100-2: membership inference, a privacy compromise, by black-box queries; "
    "“label-only” where an answer is the class alone. OWASP AISVS C11.3, membership inference. MITRE ATLAS "
    "AML.T0024.000, infer training data membership, under AML.T0024, exfiltration via an inference API."
)
_LEAKS = (
    "Training that memorises less lowers every attack: early stopping, stronger regularisation, more rows. "
    "Differential privacy alone bounds attacks that were not run. Hiding or changing probabilities does not stop "
    "attacks on labels. Named records are the first to look at: one that is wrongly labelled, or like no other, may be "
    "left out. Limits on queries make an attack slower; one with few queries is not stopped."
)
_OPEN = (
    "These data do not decide. Attack more rows or more targets, and run attacks that judge every point by shadow "
    "models."
)
_KEPT = (
    "No attack of this audit shows a leak above this. Another may: one who trains models like it on the candidates is "
    "stronger than one with a single threshold. Repeat the audit when the model, its data or its training change."
)
_FAMILIES = {
    "distances to the decision boundary": ("boundary", "rays", "combined", "calibrated_boundary", "calibrated_rays"),
    "queries chosen or crafted for each point": ("chosen", "oslo", "yoqo", "calibrated_oslo", "calibrated_yoqo"),
}


def checked_limits(record: dict, scores: dict[str, np.ndarray]) -> list[gate.Checked]:
    """The limits that a record states (`limits`, text as in `gate.parse_limits`), checked."""
    return gate.check_limits(record, scores, gate.parse_limits(record.get("limits", [])))


def sentences(record: dict, scores: dict[str, np.ndarray]) -> dict[str, str]:
    """What the verdict says, by subject: labels, records, confidences, threat model, cost, sample, not tested."""
    if not gate.label_attacks(record):
        return {"Labels alone": "No attack of this audit sees labels alone.", "Not tested": _untested(record)}
    said = {
        "Labels alone": _labels(record, scores),
        "Records": _records(record, scores),
        "Confidences": _confidences(record, scores),
        "Threat model": _threat_model(record),
        "Cost": _costs(record),
        "Sample": _sample(record, scores),
        "Not tested": _untested(record),
    }
    return {subject: sentence for subject, sentence in said.items() if sentence}


def _labels(record: dict, scores: dict[str, np.ndarray]) -> str:
    """The strongest attack on labels, with intervals corrected for having chosen it."""
    (found,) = gate.check_limits(record, scores, [gate.Limit("advantage", 0.0)])
    if found.measured is None or found.attack is None:
        return "No attack on labels has a number."
    queries = round(record["attacks"][found.attack]["queries_per_example"])
    leaks = "can tell members from non-members" if found.verdict == gate.BROKEN else "is not shown to beat guessing"
    said = f"An attacker who sees labels alone {leaks}: an advantage of {percent(found.measured)} (0 is guessing) by "
    said += f"the attack “{spoken(found.attack)}” with {queries:,} {'query' if queries == 1 else 'queries'} a point"
    for fpr in _FPRS:
        (at,) = gate.check_limits(record, scores, [gate.Limit("tpr", fpr, fpr)])
        if at.measured is not None and at.measured["mean"] > 0 and at.attack:
            guess = "" if at.verdict == gate.BROKEN else ", which guessing may find as well"
            named = f"{percent(at.measured)} of members at {100 * fpr:g} % false positives"
            return f"{said}; “{spoken(at.attack)}” finds {named}{guess}.{_corrected(record)}"
    return f"{said}.{_corrected(record)}"


def _corrected(record: dict) -> str:
    number = len(gate.label_attacks(record))
    level = f"{100 * gate.corrected_level(record):.3g} %"
    return f" Intervals are at {level}, since the strongest of {number} attacks was chosen." if number > 1 else ""


def _records(record: dict, scores: dict[str, np.ndarray]) -> str:
    found = exposed.leading_records(record, scores)
    if found is None:
        return (
            "No attack on labels judged every point by shadow models: nobody could be named, whatever the model leaks."
        )
    said, named = exposed.exposed_sentences(found)[0], [row for row in found.rows if row["named"]]
    for key in ("group", "label"):
        most = sorted(exposed.by_group(found.rows, key), key=lambda one: -one["named_members"])
        if named and len(most) > 1:
            noun = {"group": "group", "label": "class"}[key]
            said += f" Most of one {noun}: {most[0]['named_members']:,} of {most[0]['members']:,} members of {noun} "
            return f"{said}“{printable(str(most[0]['value']))}”."
    return said


def _confidences(record: dict, scores: dict[str, np.ndarray]) -> str:
    """What the strongest attack on probabilities adds to the strongest on labels, on the points that both finished."""
    sees = [name for name, entry in record["attacks"].items() if entry["access"] == "confidence"]
    if not sees:
        return ""
    by_labels, by_scores = (
        max(names, key=lambda one: record["attacks"][one]["balanced_accuracy"]["mean"])
        for names in (gate.label_attacks(record), sees)
    )
    own = percent(gate.advantage(record, scores, by_scores, 0.95))
    said = f"An attacker who sees probabilities has an advantage of {own} by “{spoken(by_scores)}”"
    if "rows" not in scores:
        return f"{said}."
    more = paired.difference(*(paired.hits(name, record, scores) for name in (by_scores, by_labels)))
    low, mean, high = (f"{200 * more[end]:+.1f}" for end in ("low", "mean", "high"))
    return f"{said}: {mean} [{low}, {high}] percentage points beside “{spoken(by_labels)}”, on the same points."


def _threat_model(record: dict) -> str:
    number = record["config"]["num_shadows"]
    online = any(entry.get("every_point", {}).get("online") for entry in record["attacks"].values())
    said = "The attacker knows the true labels of the candidates and asks the model as any user does"
    if not number:
        return f"{said}; thresholds come from known members and non-members of the model, which an attacker seldom has."
    models = f"{counted(number, 'shadow model')} like the target{', some of them with each candidate' * online}"
    return f"{said}; it has rows like those of the training, and trains {models}."


def _costs(record: dict) -> str:
    queries = record.get("queries", {})
    if "by_attack" not in queries:
        return ""
    targets = len(record["models"]["train_accuracy"]["values"])
    names = [name for name in gate.label_attacks(record) if name in queries["by_attack"]]
    put = sum(queries["by_attack"][name]["target"] for name in names) / targets
    said = f"All attacks on labels together put {put:,.0f} queries to {'the' if targets == 1 else 'each'} target"
    price = record.get("price_per_1000")
    return f"{said}." if price is None else f"{said}, {put / 1000 * price:,.2f} at {price:g} for 1,000."


def _sample(record: dict, scores: dict[str, np.ndarray]) -> str:
    members, others = int(scores["is_member"].sum()), int((~scores["is_member"]).sum())
    targets = counted(len(record["models"]["train_accuracy"]["values"]), "target")
    return (
        f"{counted(members, 'member')} and {counted(others, 'non-member')} of {targets} were attacked: "
        f"no false positive rate below 1 in {others:,} is resolved."
    )


def _untested(record: dict) -> str:
    """Kinds of access and families of attacks that were not run; single attacks stand in the findings."""
    attacks = record["attacks"]
    run, seen = {name.partition(":")[0] for name in attacks}, {entry["access"] for entry in attacks.values()}
    kinds = {"label": "labels alone", "confidence": "probabilities", "gradient": "parameters and gradients"}
    missing = [f"an attacker who sees {what}" for kind, what in kinds.items() if kind not in seen]
    if not any("every_point" in entry for entry in attacks.values()):
        missing.append("attacks that judge every point by shadow models")
    missing += [
        what
        for what, names in _FAMILIES.items()
        if not any(name == one or name.startswith(f"{one}_") for name in run for one in names)
    ]
    missing += ["an attacker who poisons the training data", "attribute inference", "reconstruction"]
    listed = ", ".join(missing)
    return f"{listed[0].upper()}{listed[1:]}. A low number bounds the attacks that were run, no others."


def box(record: dict, scores: dict[str, np.ndarray]) -> str:
    """The verdict as an HTML section; every text in it is escaped."""
    checked = checked_limits(record, scores)
    limits = "".join(
        f'<li class="{one.verdict}"><b>{one.verdict}</b> {html.escape(_limit(one))}</li>' for one in checked
    )
    said = sentences(record, scores)
    items = "".join(f"<li><b>{subject}.</b> {html.escape(sentence)}</li>" for subject, sentence in said.items())
    head = f'<p class="{_worst(checked)}"><b>{html.escape(_headline(checked))}</b></p>'
    advice = html.escape(_advice(record, scores, checked))
    return (
        f'<section class="verdict"><h2>Verdict</h2>{head}{f"<ul>{limits}</ul>" if limits else ""}<ul>{items}</ul>'
        f'<p>{advice}</p><p class="note">{html.escape(_NAMES)}</p></section>'
    )


def _advice(record: dict, scores: dict[str, np.ndarray], checked: Sequence[gate.Checked]) -> str:
    """By the limits that are stated; without one, by whether labels are shown to leak at all."""
    judged = checked or gate.check_limits(record, scores, [gate.Limit("advantage", 0.0)])
    return {gate.BROKEN: _LEAKS, gate.UNDECIDED: _OPEN, gate.KEPT: _KEPT}[_worst(judged)]


def _worst(checked: Sequence[gate.Checked]) -> str:
    verdicts = {one.verdict for one in checked}
    return next((one for one in (gate.BROKEN, gate.UNDECIDED, gate.KEPT) if one in verdicts), "")


def _headline(checked: Sequence[gate.Checked]) -> str:
    if not checked:
        return "No limit was stated, so nothing passes or fails."
    broken, undecided = (sum(one.verdict == verdict for one in checked) for verdict in (gate.BROKEN, gate.UNDECIDED))
    limits = counted(len(checked), "limit")
    if broken:
        return f"{broken} of {limits} broken."
    if undecided:
        return f"No limit is broken; {undecided} of {len(checked)} undecided by these data."
    return "The limit is kept." if len(checked) == 1 else f"All {limits} are kept."


def _limit(checked: gate.Checked) -> str:
    return str(checked).replace(f": {checked.verdict},", ":", 1)
