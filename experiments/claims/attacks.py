"""How a record decides a claim about attacks: functions of a record that return whether it holds, and the numbers.

A KeyError says that a record lacks the points a claim is about.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Verdict = tuple[bool | None, str]  # (does it hold, None: its intervals leave it open; the numbers)


def accuracy(entry: dict, name: str) -> float:
    """Accuracy of an attack in per cent, mean over targets."""
    return 100 * entry["attacks"][name]["balanced_accuracy"]["mean"]


def test_accuracy(entry: dict) -> float:
    """Test accuracy in per cent, mean over targets."""
    return 100 * entry["models"]["test_accuracy"]["mean"]


class Difference(NamedTuple):
    """One attack less another on the same points, in percentage points, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        mean, low, high = (round(value, 1) + 0.0 for value in self)  # + 0.0: no minus before a zero
        return f"{mean:+.1f} pp [{low:+.1f}, {high:+.1f}]"


def difference(record: dict, a: str, b: str, field: str = "differences") -> Difference:
    """Attack a less attack b, with all queries spent or as another field of the record has it."""
    pairs = record[field]
    if f"{a} - {b}" in pairs:
        return Difference(*(100 * pairs[f"{a} - {b}"][name] for name in Difference._fields))
    return Difference(*(-100 * pairs[f"{b} - {a}"][name] for name in ("mean", "high", "low")))


def join(values: dict, form: str = ".1f", between: str = " ") -> str:
    """Names with their numbers on one line."""
    return ", ".join(f"{name}{between}{value:{form}}" for name, value in values.items())


def join_series(series: Mapping[str, Iterable[float]]) -> str:
    """Names with several numbers each on one line."""
    return "; ".join(f"{name} {', '.join(f'{value:.1f}' for value in values)}" for name, values in series.items())


def at_least(a: str, b: str, slack: float) -> Callable[[dict], Verdict]:
    """Is attack a at most `slack` points below attack b?"""

    def decide(record: dict) -> Verdict:
        result = difference(record, a, b)
        return result.mean >= -slack, f"{a} less {b} {result}"

    return decide


def boundary_matches_confidence_at_every_size(record: dict) -> Verdict:
    results = {f"n = {n}": difference(entry, "boundary", "confidence") for n, entry in record["sizes"].items()}
    holds = all(result.mean >= -1 for result in results.values())
    return holds, f"boundary less confidence, {join(results, '', ': ')}"


def location_is_reproduced(record: dict) -> Verdict:
    gap, confidence, noise = values = [accuracy(record, name) for name in ("gap", "confidence", "noise")]
    holds = abs(gap - 72) <= 2 and abs(confidence - 92) <= 2 and noise >= 88
    return holds, join(dict(zip(("gap", "confidence", "noise"), values, strict=True)))


def augmentation_is_between(record: dict) -> Verdict:
    low, high = difference(record, "augmentation", "gap"), difference(record, "augmentation", "confidence")
    return low.mean > 0 > high.mean, f"augmentation less gap {low}, less confidence {high}"


def combined_is_best(record: dict) -> Verdict:
    pairs = (pair.split(" - ") for pair in record["differences"])
    others = [a if b == "combined" else b for a, b in pairs if "combined" in (a, b)]
    results = {f"less {name}": difference(record, "combined", name) for name in others
               if not name.startswith(("confidence", "white_box"))}  # fmt: skip
    return all(result.mean > 0 for result in results.values()), f"combined {join(results, '')}"


def gap_is_the_closed_form(record: dict) -> Verdict:
    models, gap = record["models"], accuracy(record, "gap")
    expected = 50 + 50 * (models["train_accuracy"]["mean"] - models["test_accuracy"]["mean"])
    return abs(gap - expected) < 1e-9, f"gap {gap:.4f}, 50 + gap / 2 = {expected:.4f}"


def memguard_changes_no_label(record: dict) -> Verdict:
    same = record["memguard"]["label_only_identical_to_the_bit"]
    confidence = accuracy(record["memguard"], "confidence, not adaptive")
    labels = ", ".join(f"{name} {'identical' if value else 'CHANGED'}" for name, value in same.items())
    return all(same.values()) and confidence == 50, f"{labels}, non-adaptive confidence {confidence:.4f}"


def memguard_leaves_the_gap(record: dict) -> Verdict:
    confidence, gap = accuracy(record["memguard"], "confidence, adaptive"), accuracy(record, "gap")
    return abs(confidence - gap) <= 1, f"adaptive confidence {confidence:.1f}, gap {gap:.1f}"


def at_strengths(name: str, strengths: range, holds: Callable[[float], bool]) -> Callable[[dict], Verdict]:
    """Does `holds` hold for a perturbation's accuracy less that of gap at all these strengths of figure 2?"""

    def decide(record: dict) -> Verdict:
        gap, panels = accuracy(record, "gap"), record["panels"]
        values = {s: 100 * panels[f"{name} {s}"]["balanced_accuracy"]["mean"] for s in strengths}
        numbers = f"gap {gap:.1f}; {name} {join(values, between=': ')}"
        return all(holds(value - gap) for value in values.values()), numbers

    return decide


def above_gap(name: str, strengths: range) -> Callable[[dict], Verdict]:
    return at_strengths(name, strengths, lambda above: above > 0)


def near_gap(name: str, strengths: range) -> Callable[[dict], Verdict]:
    return at_strengths(name, strengths, lambda above: abs(above) <= 1)


def queries(checkpoint: dict) -> float:
    """The mean queries per example of one checkpoint of a curve of figure 2."""
    return checkpoint["queries"]["mean"]


def last_below(record: dict, name: str, most: float) -> dict:
    """An attack's last checkpoint with fewer than so many queries: chosen by its cost, not by its success."""
    return [checkpoint for checkpoint in record["curves"][name] if queries(checkpoint) < most][-1]


def few_queries_beat_gap(record: dict) -> Verdict:
    gap, checkpoint = accuracy(record, "gap"), last_below(record, "noise", 100)
    noise = 100 * checkpoint["balanced_accuracy"]["mean"]
    return noise >= gap + 4, f"gap {gap:.1f}, noise {noise:.1f} with {queries(checkpoint):.0f} queries"


def noise_is_best_early(record: dict) -> Verdict:
    result = difference(record, "noise", "boundary", "early_differences")
    noise, boundary = (queries(last_below(record, name, 300)) for name in ("noise", "boundary"))
    return result.mean > 0, f"noise ({noise:.0f} queries) less boundary ({boundary:.0f}) {result}"


def boundary_is_best_at_the_end(record: dict) -> Verdict:
    noise, white_box = (difference(record, "boundary", other) for other in ("noise", "white_box"))
    cost = {name: queries(record["curves"][name][-1]) for name in ("boundary", "noise")}
    numbers = f"less noise ({cost['noise']:.0f}) {noise}, less white-box {white_box}"
    return noise.mean > 0 and abs(white_box.mean) <= 1, f"boundary ({cost['boundary']:.0f} queries) {numbers}"


def weaken_with_size(record: dict) -> Verdict:
    sizes = sorted(int(n) for n in record["sizes"] if int(n) >= 200)
    if len(sizes) < 2:
        raise KeyError("two n of at least 200")
    entries = [record["sizes"][str(n)] for n in sizes]
    series = {name: [accuracy(entry, name) for entry in entries] for name in entries[0]["attacks"]}
    falls = all(a > b for values in series.values() for a, b in zip(values, values[1:], strict=False))
    return falls, f"n = {', '.join(map(str, sizes))}: {join_series(series)}"


def shifts_help_the_translation_attack(record: dict) -> Verdict:
    entries = {int(d): entry for d, entry in sorted(record["distances"].items())}
    ends = entries[0], entries[5]
    test, gap = [test_accuracy(entry) for entry in ends], [accuracy(entry, "gap") for entry in ends]
    rising = [accuracy(entry, "translation") for entry in entries.values()]
    rises = all(a < b for a, b in zip(rising, rising[1:], strict=False))
    numbers = [f"{name} {a:.1f} to {b:.1f}" for name, (a, b) in (("test accuracy", test), ("gap", gap))]
    numbers = ", ".join([*numbers, join_series({"translation": rising})])
    return test[1] > test[0] and gap[1] < gap[0] and rises, f"d = {', '.join(map(str, entries))}: {numbers}"


def translation_beats_confidence_without_shifts(record: dict) -> Verdict:
    shifted = accuracy(record["distances"]["5"], "translation")
    plain = accuracy(record["distances"]["0"], "confidence")
    return shifted > plain, f"translation {shifted:.1f} with d = 5, confidence {plain:.1f} with d = 0"


def translation_is_best_on_far_shifts(record: dict) -> Verdict:
    pairs = {d: [difference(record["distances"][d], "translation", other) for other in ("confidence", "boundary")]
             for d in ("3", "5")}  # fmt: skip
    numbers = (f"d = {d}: less confidence {one}, less boundary {other}" for d, (one, other) in pairs.items())
    return all(one.mean > 0 for pair in pairs.values() for one in pair), f"translation {'; '.join(numbers)}"


def shadow_models_do_not_matter(record: dict) -> Verdict:
    entries = list(record["shadow_models"].values())
    series = {name: [accuracy(entry, name) for entry in entries] for name in entries[0]["attacks"]}
    return all(max(values) - min(values) <= 1.5 for values in series.values()), join_series(series)


def augmentation_matches_confidence(record: dict) -> Verdict:
    def less_confidence(regime: str) -> dict[str, float]:
        entries = record["regimes"][regime].items()
        return {n: difference(entry, "augmentation", "confidence").mean for n, entry in entries}

    trained, plain = less_confidence("all"), less_confidence("none")
    numbers = "; ".join(f"{regime} {join(values, '+.1f', ': ')}"
                        for regime, values in (("with", trained), ("without", plain)))  # fmt: skip
    return min(trained.values()) >= -1.5 and max(plain.values()) < -5, f"augmentation less confidence, {numbers}"
