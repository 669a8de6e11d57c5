"""The findings of an audit in sentences: what each access reveals, what it cost, and what was not tested.

The attack that is named for an access is the one with the best accuracy on shadow models. The best one on the targets
would be chosen by the numbers that it is reported with, which flatters it the more attacks there are.
"""

import numpy as np

from mi_jax.evaluation.text import (
    accuracy,
    accuracy_interval,
    at_chance,
    counted,
    has_interval,
    percent,
    points,
    rate,
    spoken,
    too_coarse,
)

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
    """The results by access, with their query counts, and what was not tested: one sentence or two each."""
    attacks, models = record["attacks"], record["models"]
    T = len(models["train_accuracy"]["values"])
    sentences = [
        f"The {counted(T, 'target model')} label{'s' if T == 1 else ''} {percent(models['train_accuracy'])} of members "
        f"and {percent(models['test_accuracy'])} of non-members correctly."
    ]
    if "privacy" in models:
        sentences.append(f"Training was private: {models['privacy']['statement']}.")
    for access, description in ACCESS.items():
        entries = {name: entry for name, entry in attacks.items() if entry["access"] == access}
        if entries:
            name, how = _chosen(entries)
            sentences.append(_attack(name, entries[name], description) + how)
    sentences += _every_point(attacks)
    sentences.append(_gap_baseline(attacks))
    if models["flip_rate"]["mean"] > 0:
        sentences.append(f"Queried again, targets changed {percent(models['flip_rate'])} of their answers.")
    return [*sentences, *_of_points(attacks), *_at_edge(attacks), *_of_queries(record), *_of_rows(record),
            *_limits(record)]  # fmt: skip


def _chosen(entries: dict[str, dict]) -> tuple[str, str]:
    """The attack that stands for an access, and the sentence that says how it was chosen."""
    if len(entries) == 1:
        return next(iter(entries)), ""
    if all("shadow_accuracy" in entry["tuned"] for entry in entries.values()):
        best = max(entries, key=lambda name: np.mean(entries[name]["tuned"]["shadow_accuracy"]))
        return best, f" Of {len(entries)} attacks it is the one with the best accuracy on shadow models."
    best = max(entries, key=lambda name: entries[name]["balanced_accuracy"]["mean"])
    how = "on the targets themselves, which flatters it: the record has no accuracies on shadow models"
    return best, f" Of {len(entries)} attacks it is the one with the best accuracy {how}."


def _attack(name: str, entry: dict, access: str) -> str:
    """The sentences about the attack that stands for an access."""
    gain = entry.get("gain_over_gap")
    above = f", which is {points(gain)} percentage points above the gap attack on the same points" if gain else ""
    return (
        f"From {access}, {spoken(name)} {_verdict(entry)}: with {entry['queries_per_example']:.1f} queries per example "
        f"its balanced attack accuracy is {accuracy(entry)} (50 % is chance){above}. {_low_fpr(entry)}"
    )


def _verdict(entry: dict) -> str:
    """What the intervals of the balanced accuracy allow: those over targets and over points must both exclude 1/2."""
    over_targets, over_points = entry["balanced_accuracy"], entry.get("over_points")
    known = [over_targets] if has_interval(over_targets) else []
    lows = [interval["low"] for interval in (*known, *([over_points] if over_points else []))]
    alone = len(over_targets["values"]) == 1
    if not lows:
        ran = "ran on one target" if alone else "has the same accuracy on all targets"
        return f"{ran}, which does not show how reliably it distinguishes members from non-members"
    if min(lows) > 0.5:
        return f"distinguishes members from non-members{' of this one target' if alone else ''}"
    chance = ""
    if accuracy_interval(entry)["low"] > 0.5 and over_points:  # what is shown excludes chance, the other does not
        chance = f" (over points the interval is [{100 * over_points['low']:.1f}, {100 * over_points['high']:.1f}])"
    return f"does not reliably distinguish members from non-members{chance}"


def _low_fpr(entry: dict) -> str:
    """The sentence about the TPR at 1 % FPR."""
    if entry["tpr_at_fpr"]["0.01"] is None:
        return "Its TPR at 1 % FPR is not resolvable: too few points were attacked."
    if too_coarse(entry):
        return "Its TPR is 0 at FPR <= 1 %: its scores are too coarse, since too many points share the highest one."
    return f"At 1 % false positives it finds {percent(entry['tpr_at_fpr']['0.01'])} of the members."


def _every_point(attacks: dict) -> list[str]:
    """What labels name at low false positive rates, by the attack on every point that is best on shadow models."""
    of_labels = {name: e for name, e in attacks.items() if "every_point" in e and e["access"] == "label"}
    if not of_labels:
        return []
    name = max(of_labels, key=lambda one: np.mean(of_labels[one]["tuned"]["shadow_accuracy"]))
    lira, beside = attacks.get("lira"), ""
    if lira is not None:
        beside = f" (lira, which sees probabilities: {rate(lira, '0.01')} and {rate(lira, '0.001')})"
    entry = of_labels[name]
    verdict = "no more members than chance does" if at_chance(entry, "0.01") else "members"
    return [
        f"Judging every point by shadow models trained with and without it, {spoken(name)} names {verdict}: with "
        f"{entry['queries_per_example']:.1f} queries per example {rate(entry, '0.01')} of the members at 1 % false "
        f"positives and {rate(entry, '0.001')} at 0.1 %{beside}."
    ]


def _gap_baseline(attacks: dict) -> str:
    if "gap" not in attacks:
        return "The gap attack (member iff labelled correctly) was not run, so there is no baseline for more queries."
    return (
        f"The balanced accuracy of the gap attack (member iff labelled correctly) is {accuracy(attacks['gap'])} with "
        "one query; only accuracy above that is leakage beyond the train-test gap."
    )


def _of_points(attacks: dict) -> list[str]:
    """Which points have no score, and which have one without being flipped."""
    sentences = []
    capped = [f"{spoken(name)} ({1 - e['finished']:.0%})" for name, e in attacks.items() if e["finished"] < 1]
    if capped:
        sentences.append(f"The cap on queries left points unfinished, which no number includes: {', '.join(capped)}.")
    never = [f"{spoken(name)} ({e['never_flipped']:.1%})" for name, e in attacks.items() if e.get("never_flipped")]
    if never:
        sentences.append(
            "No query changed the label of some points; their distance is not known, and they count as the farthest: "
            f"{', '.join(never)}."
        )
    return sentences


def _at_edge(attacks: dict) -> list[str]:
    """The strengths that are the smallest or largest tried."""
    found = []
    for name, entry in attacks.items():
        by_target = entry["tuned"].get("at_edge") or []
        texts = [text for text in by_target if text]
        of = f" for {len(texts)} of {len(by_target)} targets" if len(texts) < len(by_target) else ""
        if texts:
            found.append(f"{spoken(name)} ({'; '.join(dict.fromkeys(texts))}{of})")
    if not found:
        return []
    return [f"A strength beyond those tried may make an attack stronger: {', '.join(found)}."]


def _of_queries(record: dict) -> list[str]:
    """All queries, and those of earlier runs that got no answer."""
    queries = record.get("queries")
    if not queries:
        return []
    put = [q for name, q in queries["by_attack"].items() if record["attacks"][name]["access"] != "gradient"]
    target, shadow = (sum(one[side] for one in put) for side in ("target", "shadow"))
    failed, checks = (
        queries.get("failed", 0),
        sum(queries.get(name, 0) for name in ("accuracy", "flip_test", "repeated")),
    )
    return [
        f"Every query counted, models were queried {queries['total']:,} times: attacks put {target:,} queries to "
        f"targets and {shadow:,} to shadow models, {checks:,} measured accuracy and checked answers"
        f"{f'; {failed:,} queries got no answer' if failed else ''}."
    ]


def _of_rows(record: dict) -> list[str]:
    """What is odd about the pool, and which rows the attacker shares with the target."""
    sentences, data, split = [], record.get("data") or {}, record.get("split") or {}
    if duplicates := data.get("duplicate_rows"):
        sentences.append(
            f"{duplicates:,} of the {data['rows']:,} rows of the pool equal an earlier one: where one of them is a "
            "member and the other is not, no attack can tell them apart."
        )
    if empty := data.get("classes_without_rows"):
        names = ", ".join(map(str, empty))
        sentences.append(f"The pool has no rows of {len(empty)} of its {data['classes']} classes: {names}.")
    overlap = split.get("shadow_overlap")
    if overlap and any(overlap.values()):
        sentences.append(
            f"Shadow models were trained on {overlap['members']:.0%} of a target's members and "
            f"{overlap['nonmembers']:.0%} of its non-members: an attacker without these rows may do worse."
        )
    return [*sentences, *([split["note"]] if split.get("note") else [])]


def _limits(record: dict) -> list[str]:
    """What the attacker knew, and what was not tested."""
    config = record["config"]
    return [
        f"Attacks were tuned and thresholded on {counted(config['num_shadows'], 'shadow model')} per target, trained "
        f"like it{_SHADOW_ROWS.get(config.get('split', ''), '')}. An attacker with less data, or another "
        "architecture, may do worse.",
        f"Not tested: {_untested(record['attacks'])}; {_untested_defenses(config.get('defense'))}; rows selected as "
        "outliers; an attacker who can poison the training set. A low number bounds leakage to these attacks, not to "
        "every attack.",
    ]


def _untested_defenses(defense: str | None) -> str:
    if defense is None:  # trained elsewhere
        return "defenses other than the targets' own"
    return "any defense" if defense == "none" else f"defenses other than {defense}"


def _untested(attacks: dict) -> str:
    known = ("gap", "rotation", "translation", "random_augmentation", "noise", "boundary", "rays", "combined")
    known += ("calibrated_boundary", "chosen_crafted", "oslo", "yoqo", "dhattack", "transfer", "confidence_threshold")
    known += ("confidence_network", "lira", "rmia", "white_box")
    asked = {name.partition(":")[0] for name in attacks}
    missing = [spoken(name) for name in known if name not in asked]
    missing = ["distance to the decision boundary" if name == "boundary" else name for name in missing]
    return "the attacks " + ", ".join(missing) if missing else "attacks beyond those above"
