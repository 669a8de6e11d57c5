"""How a record decides a claim of the paper: functions of a record that return whether it holds, and the numbers.

A KeyError says that a record lacks the points a claim is about.
"""

from collections.abc import Callable
from typing import NamedTuple

from experiments.fig5_6_defenses import strongest


def mean(record: dict, name: str) -> float:
    """Accuracy of an attack in per cent, mean over targets."""
    return 100 * record["attacks"][name]["balanced_accuracy"]["mean"]


def test_of(entry: dict) -> float:
    """Test accuracy in per cent, mean over targets."""
    return 100 * entry["models"]["test_accuracy"]["mean"]


class Less(NamedTuple):
    """One attack less another on the same points, in percentage points, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} pp [{self.low:+.1f}, {self.high:+.1f}]"


def less(record: dict, a: str, b: str) -> Less:
    """Attack a less attack b."""
    found = record["differences"]
    if f"{a} - {b}" in found:
        return Less(*(100 * found[f"{a} - {b}"][name] for name in Less._fields))
    reverse = found[f"{b} - {a}"]
    return Less(*(-100 * reverse[name] for name in ("mean", "high", "low")))


def at_least(a: str, b: str, slack: float) -> Callable[[dict], tuple[bool, str]]:
    """Is attack a at most `slack` points below attack b?"""

    def decide(record: dict) -> tuple[bool, str]:
        found = less(record, a, b)
        return found.mean >= -slack, f"{a} less {b} {found}"

    return decide


def between(record: dict) -> tuple[bool, str]:
    low, high = less(record, "augmentation", "gap"), less(record, "augmentation", "confidence")
    return low.mean > 0 > high.mean, f"augmentation less gap {low}, less confidence {high}"


def combined_is_best(record: dict) -> tuple[bool, str]:
    pairs = (pair.split(" - ") for pair in record["differences"])
    others = [a if b == "combined" else b for a, b in pairs if "combined" in (a, b)]
    found = {name: less(record, "combined", name) for name in others if name not in ("confidence", "white_box")}
    return all(one.mean > 0 for one in found.values()), "combined " + ", ".join(
        f"less {name} {one}" for name, one in found.items()
    )


def gap_is_the_closed_form(record: dict) -> tuple[bool, str]:
    models = record["models"]
    expected = 50 + 50 * (models["train_accuracy"]["mean"] - models["test_accuracy"]["mean"])
    return abs(mean(record, "gap") - expected) < 1e-9, f"gap {mean(record, 'gap'):.4f}, 50 + gap / 2 = {expected:.4f}"


def memguard(record: dict) -> tuple[bool, str]:
    guard = record["memguard"]
    same = guard["label_only_identical_to_the_bit"]
    plain = 100 * guard["attacks"]["confidence, not adaptive"]["balanced_accuracy"]["mean"]
    return all(same.values()) and plain == 50, f"label-only identical: {same}, confidence not adaptive {plain:.4f}"


def memguard_adaptive(record: dict) -> tuple[bool, str]:
    entry, gap = record["memguard"]["attacks"]["confidence, adaptive"], mean(record, "gap")
    found = 100 * entry["balanced_accuracy"]["mean"]
    return abs(found - gap) <= 1, f"adaptive confidence {found:.1f}, gap {gap:.1f}"


def of_strengths(record: dict, name: str, strengths: range) -> tuple[float, dict[int, float], str]:
    """(gap, strength -> accuracy of a panel of figure 2, both as text) in per cent."""
    gap, panels = mean(record, "gap"), record["panels"]
    found = {s: 100 * panels[f"{name} {s}"]["balanced_accuracy"]["mean"] for s in strengths}
    return gap, found, f"gap {gap:.1f}; {name} {', '.join(f'{s}: {value:.1f}' for s, value in found.items())}"


def beats_gap_where(name: str, strengths: range) -> Callable[[dict], tuple[bool, str]]:
    def decide(record: dict) -> tuple[bool, str]:
        gap, found, told = of_strengths(record, name, strengths)
        return all(value > gap for value in found.values()), told

    return decide


def gap_is_left_where(name: str, strengths: range) -> Callable[[dict], tuple[bool, str]]:
    def decide(record: dict) -> tuple[bool, str]:
        gap, found, told = of_strengths(record, name, strengths)
        return all(abs(value - gap) <= 1 for value in found.values()), told

    return decide


def cheap_queries_beat_gap(record: dict) -> tuple[bool, str]:
    """By noise with the most queries below a hundred: chosen for their number, not for their success."""
    gap = mean(record, "gap")
    entry = [entry for entry in record["curves"]["noise"] if entry["queries"]["mean"] < 100][-1]
    value, queries = 100 * entry["balanced_accuracy"]["mean"], entry["queries"]["mean"]
    return value >= gap + 4, f"gap {gap:.1f}, noise {value:.1f} with {queries:.0f} queries"


def boundary_is_best_at_the_end(record: dict) -> tuple[bool, str]:
    noise, white = less(record, "boundary", "noise"), less(record, "boundary", "white_box")
    spent = {name: record["curves"][name][-1]["queries"]["mean"] for name in ("boundary", "noise")}
    told = (
        f"boundary ({spent['boundary']:.0f} queries) less noise ({spent['noise']:.0f}) {noise}, less white-box {white}"
    )
    return noise.mean > 0 and abs(white.mean) <= 1, told


def weaken(record: dict) -> tuple[bool, str]:
    sizes = sorted(int(n) for n in record["sizes"] if int(n) >= 200)
    if len(sizes) < 2:
        raise KeyError("two n of at least 200")
    found = {
        name: [mean(record["sizes"][str(n)], name) for n in sizes] for name in record["sizes"][str(sizes[0])]["attacks"]
    }
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in values)}" for name, values in found.items())
    falls = all(a > b for values in found.values() for a, b in zip(values, values[1:], strict=False))
    return falls, f"n = {', '.join(map(str, sizes))}: {said}"


def training_on_shifts_helps_the_translation_attack(record: dict) -> tuple[bool, str]:
    found = {int(d): entry for d, entry in record["distances"].items()}
    first, last = found[0], found[5]
    test, gap, shifted = (
        (value(first), value(last))
        for value in (test_of, lambda entry: mean(entry, "gap"), lambda entry: mean(entry, "translation"))
    )
    told = (f"{name} {a:.1f} to {b:.1f}" for name, (a, b) in
            (("test accuracy", test), ("gap", gap), ("translation", shifted)))  # fmt: skip
    return test[1] > test[0] and gap[1] < gap[0] and shifted[1] > shifted[0], f"d = 0 to 5: {', '.join(told)}"


def translation_is_best_on_augmented(record: dict) -> tuple[bool, str]:
    far = {d: record["distances"][d] for d in ("3", "5")}
    found = {d: [less(entry, "translation", other) for other in ("confidence", "boundary")] for d, entry in far.items()}
    told = (f"d = {d}: less confidence {one}, less boundary {other}" for d, (one, other) in found.items())
    return all(one.mean > 0 for pair in found.values() for one in pair), f"translation {'; '.join(told)}"


def shadow_models_do_not_matter(record: dict) -> tuple[bool, str]:
    found = {name: [mean(entry, name) for entry in record["shadow_models"].values()]
             for name in next(iter(record["shadow_models"].values()))["attacks"]}  # fmt: skip
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in values)}" for name, values in found.items())
    return all(max(values) - min(values) <= 1.5 for values in found.values()), said


def memguard_among_defenses(record: dict) -> tuple[bool, str]:
    plain, guarded = record["defenses"]["none"], record["defenses"]["memguard:0.001"]
    names = [name for name, entry in plain["attacks"].items() if entry.get("access") == "label"]
    same = {name: plain["attacks"][name]["balanced_accuracy"] == guarded["attacks"][name]["balanced_accuracy"]
            for name in names}  # fmt: skip
    blind = 100 * guarded["not_adaptive"]["confidence_threshold"]["balanced_accuracy"]["mean"]
    adaptive, gap = (100 * guarded["attacks"][name]["balanced_accuracy"]["mean"] for name in ("confidence", "gap"))
    told = f"confidence not adaptive {blind:.4f}, adaptive {adaptive:.1f}, gap {gap:.1f}"
    return all(same.values()) and blind == 50 and abs(adaptive - gap) <= 1, f"label-only equal: {same}, {told}"


def confidences_hidden_labels_not(record: dict) -> tuple[bool, str]:
    whole = test_of(record["undefended"])
    found = {float(at): (mean(entry, "confidence"), less(entry, "boundary", "gap"), test_of(entry))
             for at, entry in record["strengths"].items()}  # fmt: skip
    strong = {at: values for at, values in found.items() if at >= 2}
    hidden = any(abs(confidence - 50) <= 3 for confidence, _, _ in strong.values())
    near = all(-0.5 <= above.mean <= 3 for _, above, _ in strong.values())
    ruined = all(test <= 0.7 * whole for at, (_, _, test) in found.items() if at >= 3)
    told = (f"{at:g}: confidence {c:.1f}, boundary less gap {d}, test {t:.1f}" for at, (c, d, t) in found.items())
    return hidden and near and ruined, f"{'; '.join(told)}; undefended test {whole:.1f}"


def augmentation_matches_confidence(record: dict) -> tuple[bool, str]:
    def beside(regime: str) -> dict[str, float]:
        sizes = record["regimes"][regime].items()
        return {n: less(entry, "augmentation", "confidence").mean for n, entry in sizes}

    trained, plain = beside("all"), beside("none")
    told = [f"{regime} {', '.join(f'{n}: {value:+.1f}' for n, value in found.items())}"
            for regime, found in (("with", trained), ("without", plain))]  # fmt: skip
    matches = min(trained.values()) >= -1.5 and max(plain.values()) < -5
    return matches, f"augmentation less confidence, {'; '.join(told)}"


def last_layer_leaves_the_gap(record: dict) -> tuple[bool, str]:
    last, full = (record["ways"][way] for way in ("transfer_last", "transfer_full"))
    large = [n for n in last if int(n) >= 1000]
    if not large:
        raise KeyError("n of at least 1,000")
    left = {n: [less(last[n], name, "gap") for name in ("boundary", "confidence")] for n in large}
    near = all(abs(one.mean) <= 1 for found in left.values() for one in found)
    better = all(test_of(full[n]) > test_of(last[n]) for n in large)
    more = all(mean(full[n], "boundary") > mean(last[n], "boundary") for n in large)
    told = (f"n = {n}: last layer, boundary less gap {left[n][0]}, confidence less gap {left[n][1]}; test "
            f"{test_of(last[n]):.1f}, full {test_of(full[n]):.1f}; boundary {mean(last[n], 'boundary'):.1f}, full "
            f"{mean(full[n], 'boundary'):.1f}" for n in large)  # fmt: skip
    return near and better and more, "; ".join(told)


def only_l2_and_privacy(record: dict) -> tuple[bool, str]:
    def is_strong(text: str) -> bool:
        name, _, strength = text.partition(":")
        return "dp_" in text or (name == "l2" and float(strength) >= 1)

    low = {text: strongest(entry) for text, entry in record["defenses"].items() if is_strong(text)}
    if not any("dp_" in text for text in low) or not any(text.startswith("l2:") for text in low):
        raise KeyError("L2 of at least 1 and DP")
    rest = {text: mean(entry, "gap") for text, entry in record["defenses"].items()
            if text not in low and not text.startswith("adversarial")}  # fmt: skip
    most = sum(value >= 60 for value in rest.values()) > len(rest) / 2
    told = (", ".join(f"{text} {value:.1f}" for text, value in found.items()) for found in (low, rest))
    return all(value <= 58 for value in low.values()) and most, "strongest attack {}; gap of the others {}".format(
        *told
    )


def transfer_with_privacy_trades_best(record: dict) -> tuple[bool, str]:
    if not any("transfer" in text and "dp_" in text for text in record["defenses"]):
        raise KeyError("transfer with DP")
    best = record["best"]["55"]
    if best is None:
        return False, "no defense keeps every attack at or below 55 %"
    told = f"{best['defense']} with test accuracy {best['test_accuracy']:.1f}"
    return "transfer" in best["defense"] and "dp_" in best["defense"], told


def private_and_useful(record: dict) -> tuple[bool, str]:
    entry = record["defenses"]["dp_sgd:8"]
    test = 100 * entry["models"]["test_accuracy"]["mean"]
    return strongest(entry) <= 58 and test >= 40, f"strongest attack {strongest(entry):.1f}, test accuracy {test:.1f}"


def outliers_told_under_dropout(record: dict) -> tuple[bool, str]:
    silent = [text for text, entry in record["defenses"].items() if entry["improvement"] is None]
    if silent:
        raise KeyError(f"anybody called a member under {silent[0]}")
    found = {text: 100 * entry["improvement"]["mean"] for text, entry in record["defenses"].items()}
    dropped = [value for text, value in found.items() if text.startswith("dropout")]
    private = [value for text, value in found.items() if text.startswith(("dp_", "l2"))]
    called = {text: [trial["outliers"]["called"] for trial in entry["trials"]]
              for text, entry in record["defenses"].items()}  # fmt: skip
    told = ", ".join(f"{text} {value:+.1f} pp ({sum(called[text])} called)" for text, value in found.items())
    return min(dropped) > max(private) and all(abs(value) <= 2 for value in private), told


def lower_below_upper(record: dict) -> tuple[bool, str]:
    pairs = [(level["noise"], float(level["epsilon"]), max(a["epsilon"] for a in level["attacks"].values()))
             for level in record["levels"]]  # fmt: skip
    told = ", ".join(f"noise {noise:g}: {low:.2f} of {high:.2f}" for noise, high, low in pairs)
    return all(low <= high for _, high, low in pairs), told
