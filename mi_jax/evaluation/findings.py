"""The findings of an audit in sentences: what each access reveals, what it cost, and what was not tested.

The attack that is named for an access is the one with the best accuracy on shadow models. The best one on the targets
would be chosen by the numbers that it is reported with, which flatters it the more attacks there are.
"""

import numpy as np

from mi_jax.evaluation.exposed import Exposed, exposed_sentences
from mi_jax.evaluation.text import (
    RATES,
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
    "balanced": " on random halves of the candidates (the attacker who can train on the candidates themselves)",
}
_NO_RATE = ("not resolvable", "too coarse")
_WITH_ONE_THRESHOLD = ("gap", "rotation", "translation", "random_augmentation", "noise", "boundary", "rays", "combined",
                       "confidence_threshold", "confidence_network", "white_box")  # fmt: skip
_OF_EVERY_POINT = ("calibrated_boundary", "chosen", "chosen_crafted", "dhattack", "oslo", "yoqo", "transfer", "lira",
                   "rmia")  # fmt: skip
_SPELLED = {"boundary": "distance to the decision boundary"}


def findings(record: dict, exposed: Exposed | None = None) -> list[str]:
    """The results by access, with their query counts, and what was not tested: one sentence or two each.

    `exposed`: the points of the `exposed.leading_records`, for a sentence about them.
    """
    attacks, models = record["attacks"], record["models"]
    T = len(models["train_accuracy"]["values"])
    sentences = [
        f"The {counted(T, 'target model')} label{'s' if T == 1 else ''} {percent(models['train_accuracy'])} of members "
        f"and {percent(models['test_accuracy'])} of non-members correctly."
    ]
    if "privacy" in models:
        sentences.append(f"Training was private: {models['privacy']['statement']}.")
    named = _names(attacks)
    for access, description in ACCESS.items():
        entries = {name: entry for name, entry in attacks.items() if entry["access"] == access}
        if entries:
            name, how = _chosen(entries, "shadow models" if record["config"]["num_shadows"] else "held-out points")
            sentences.append(_attack(name, entries[name], description, said=name in named) + how)
        if access == "label":
            sentences += [*named.values(), *(exposed_sentences(exposed)[:1] if exposed else [])]
    sentences.append(_gap_baseline(attacks))
    if models["flip_rate"]["mean"] > 0:
        sentences.append(f"Queried again, targets changed {percent(models['flip_rate'])} of their answers.")
    return [*sentences, *_of_points(attacks), *_at_edge(attacks), *_of_queries(record), *_of_rows(record),
            *_limits(record)]  # fmt: skip


def _chosen(entries: dict[str, dict], on: str = "shadow models") -> tuple[str, str]:
    """The attack that stands for an access, and the sentence that says how it was chosen."""
    if len(entries) == 1:
        return next(iter(entries)), ""
    if all("shadow_accuracy" in entry["tuned"] for entry in entries.values()):
        best = max(entries, key=lambda name: np.mean(entries[name]["tuned"]["shadow_accuracy"]))
        return best, f" Of {len(entries)} attacks it is the one with the best accuracy on {on}."
    best = max(entries, key=lambda name: entries[name]["balanced_accuracy"]["mean"])
    how = "on the targets themselves, which flatters it: the record has no accuracies on shadow models"
    return best, f" Of {len(entries)} attacks it is the one with the best accuracy {how}."


def _attack(name: str, entry: dict, access: str, *, said: bool) -> str:
    """The sentences about the attack that stands for an access; without its TPR if that is `said` elsewhere."""
    gain = entry.get("gain_over_gap")
    above = f", which is {points(gain)} percentage points above the gap attack on the same points" if gain else ""
    return (
        f"From {access}, {spoken(name)} {_verdict(entry)}: with {entry['queries_per_example']:.1f} queries per example "
        f"its balanced attack accuracy is {accuracy(entry)} (50 % is chance){above}.{'' if said else _low_fpr(entry)}"
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
    found = rate(entry, "0.01")
    if found == "not resolvable":
        return " Its TPR at 1 % FPR is not resolvable: too few points were attacked."
    if too_coarse(entry):
        return " Its TPR is 0 at FPR <= 1 %: its scores are too coarse, since too many points share the highest one."
    chance = ", which guessing may find as well" if at_chance(entry, "0.01") else ""
    return f" At 1 % false positives it finds {found} of the members{chance}."


def _names(attacks: dict) -> dict[str, str]:
    """What labels name at low false positive rates: {attack: sentence}, of the best on shadow models of those that
    judge every point by itself; empty where there is none, or nothing to say.
    """
    of_labels = {name: e for name, e in attacks.items() if "every_point" in e and e["access"] == "label"}
    if not of_labels:
        return {}
    name, _ = _chosen(of_labels)
    entry = of_labels[name]
    if (shown := rate(entry, "0.01")) in _NO_RATE:
        return {}
    by_choice = any("of" in settings for settings in entry["tuned"]["settings"])  # so many of so many questions
    chance = " (guessing may find as many)" if at_chance(entry, "0.01") else ""
    return {
        name: f"With {_queries(entry)} per point{', chosen for it on shadow models' * by_choice}, labels alone "
        f"({spoken(name)}) name {shown} of the members at 1 % false positives{chance}{_at_fewer(entry)}"
        f"{_beside(attacks, online=entry['every_point']['online'])}."
    }


def _at_fewer(entry: dict) -> str:
    shown = rate(entry, "0.001")
    return "" if shown in _NO_RATE else f", and {shown} at {RATES['0.001']}"


def _beside(attacks: dict, *, online: bool) -> str:
    """What LiRA names, of the same kind if it was run."""
    name = next((one for one in sorted(("lira", "lira_offline"), reverse=not online) if one in attacks), None)
    if name is None or rate(attacks[name], "0.01") in _NO_RATE:
        return ""
    shown = rate(attacks[name], "0.01")
    return f"; {spoken(name)}, which sees probabilities, names {shown}{_at_fewer(attacks[name])}"


def _queries(entry: dict) -> str:
    """The mean number of queries with its noun."""
    number = f"{entry['queries_per_example']:,.4g}"
    return f"{number} {'query' if number == '1' else 'queries'}"


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
    overlap, said = split.get("shadow_overlap"), record["config"].get("split") in ("swap", "balanced")
    if overlap and not said and any(overlap.values()):
        sentences.append(
            f"Shadow models were trained on {overlap['members']:.0%} of a target's members and "
            f"{overlap['nonmembers']:.0%} of its non-members: an attacker without these rows may do worse."
        )
    return [*sentences, *([split["note"]] if split.get("note") else [])]


def _limits(record: dict) -> list[str]:
    """What the attacker knew, and what was not tested."""
    config, few = record["config"], ""
    if (config.get("tuning_shadows") or config["num_shadows"]) < config["num_shadows"]:
        few = f", those with one threshold on {config['tuning_shadows']} of them"
    untested = (
        f"Not tested: {_untested(record['attacks'])}; {_untested_defenses(config.get('defense'))}; rows selected as "
        "outliers; an attacker who can poison the training set. A low number bounds leakage to these attacks, not to "
        "every attack."
    )
    if not config["num_shadows"]:
        tuned = "Strengths and thresholds were cross-fitted on members and non-members of the model itself"
        return [f"{tuned}, whom an attacker seldom knows; each point was judged by a rule from others.", untested]
    return [
        f"Attacks were tuned and thresholded on {counted(config['num_shadows'], 'shadow model')} per target{few}, "
        f"trained like it{_SHADOW_ROWS.get(config.get('split', ''), '')}. An attacker with less data, or another "
        "architecture, may do worse.",
        untested,
    ]


def _untested_defenses(defense: str | None) -> str:
    if defense is None:  # trained elsewhere
        return "defenses other than the targets' own"
    return "any defense" if defense == "none" else f"defenses other than {defense}"


def _untested(attacks: dict) -> str:
    known = [*_WITH_ONE_THRESHOLD]
    every_point = any("every_point" in entry for entry in attacks.values())
    known += _OF_EVERY_POINT if every_point else []
    run = {name.partition(":")[0] for name in attacks}
    missing = [_SPELLED.get(name, spoken(name)) for name in known if name not in run]
    missing += [] if every_point else ["all that judge every point by itself"]
    return "the attacks " + ", ".join(missing) if missing else "attacks beyond those above"
