"""How a record decides a claim of the paper: functions of a record that return whether it holds, and the numbers.

A KeyError says that a record lacks the points a claim is about.
"""

from collections.abc import Callable
from typing import NamedTuple


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
        mean, low, high = (round(value, 1) + 0.0 for value in self)  # + 0.0: no minus before a zero
        return f"{mean:+.1f} pp [{low:+.1f}, {high:+.1f}]"


def less(record: dict, a: str, b: str, place: str = "differences") -> Less:
    """Attack a less attack b, when their queries are spent or at another place of the record."""
    found = record[place]
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


def boundary_is_like_confidence_everywhere(record: dict) -> tuple[bool, str]:
    found = {n: less(entry, "boundary", "confidence") for n, entry in record["sizes"].items()}
    told = ", ".join(f"n = {n}: {one}" for n, one in found.items())
    return all(one.mean >= -1 for one in found.values()), f"boundary less confidence, {told}"


def location_is_reproduced(record: dict) -> tuple[bool, str]:
    gap, confidence, noise = (mean(record, name) for name in ("gap", "confidence", "noise"))
    told = f"gap {gap:.1f}, confidence {confidence:.1f}, noise {noise:.1f}"
    return abs(gap - 72) <= 2 and abs(confidence - 92) <= 2 and noise >= 88, told


def between(record: dict) -> tuple[bool, str]:
    low, high = less(record, "augmentation", "gap"), less(record, "augmentation", "confidence")
    return low.mean > 0 > high.mean, f"augmentation less gap {low}, less confidence {high}"


def combined_is_best(record: dict) -> tuple[bool, str]:
    pairs = (pair.split(" - ") for pair in record["differences"])
    others = [a if b == "combined" else b for a, b in pairs if "combined" in (a, b)]
    found = {
        name: less(record, "combined", name) for name in others if not name.startswith(("confidence", "white_box"))
    }
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
    told = ", ".join(f"{name} {'identical' if value else 'CHANGED'}" for name, value in same.items())
    return all(same.values()) and plain == 50, f"{told}, confidence not adaptive {plain:.4f}"


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


def noise_is_best_early(record: dict) -> tuple[bool, str]:
    found = less(record, "noise", "boundary", "early_differences")
    spent = {name: [e["queries"]["mean"] for e in record["curves"][name] if e["queries"]["mean"] < 300][-1]
             for name in ("noise", "boundary")}  # fmt: skip
    return found.mean > 0, f"noise ({spent['noise']:.0f} queries) less boundary ({spent['boundary']:.0f}) {found}"


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
    found = {int(d): entry for d, entry in sorted(record["distances"].items())}
    first, last = found[0], found[5]
    test, gap = ((value(first), value(last)) for value in (test_of, lambda entry: mean(entry, "gap")))
    rising = [mean(entry, "translation") for entry in found.values()]
    told = [f"{name} {a:.1f} to {b:.1f}" for name, (a, b) in (("test accuracy", test), ("gap", gap))]
    told += [f"translation {', '.join(f'{value:.1f}' for value in rising)}"]
    rises = all(a < b for a, b in zip(rising, rising[1:], strict=False))
    return test[1] > test[0] and gap[1] < gap[0] and rises, f"d = {', '.join(map(str, found))}: {', '.join(told)}"


def translation_beats_what_confidence_had(record: dict) -> tuple[bool, str]:
    shifted, plain = mean(record["distances"]["5"], "translation"), mean(record["distances"]["0"], "confidence")
    return shifted > plain, f"translation {shifted:.1f} with d = 5, confidence {plain:.1f} with d = 0"


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


def augmentation_matches_confidence(record: dict) -> tuple[bool, str]:
    def beside(regime: str) -> dict[str, float]:
        sizes = record["regimes"][regime].items()
        return {n: less(entry, "augmentation", "confidence").mean for n, entry in sizes}

    trained, plain = beside("all"), beside("none")
    told = [f"{regime} {', '.join(f'{n}: {value:+.1f}' for n, value in found.items())}"
            for regime, found in (("with", trained), ("without", plain))]  # fmt: skip
    matches = min(trained.values()) >= -1.5 and max(plain.values()) < -5
    return matches, f"augmentation less confidence, {'; '.join(told)}"
