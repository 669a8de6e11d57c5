"""Checks the paper's claims against the committed records, a line each: holds, fails or not yet run, with the numbers.

Command:  python -m experiments.claims          reads results/records (--records names another folder)
A claim is about the means over targets that a record holds; intervals stand beside them in the record. What no record
covers is `not yet run`, with the command that would cover it. Numbers of the claims: SPEC order, the paper's sections.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments import common


class Claim(NamedTuple):
    """A sentence of the paper, and how a record decides it."""

    text: str
    record: str  # file in the folder of records
    command: str  # that makes it
    decide: Callable[[dict], tuple[bool, str]] | None  # record -> (does it hold, the numbers); None: not written yet


FIG2 = ("fig2-cpu/record.json", "python -m experiments.fig2_query_budget --preset=cpu")
FIG1 = ("fig1-cpu/record.json", "python -m experiments.fig1_training_size --preset=cpu")
FIG3 = ("fig3-cpu/record.json", "python -m experiments.fig3_augmented_training --preset=cpu")
FIGS7 = ("figS7-cpu/record.json", "python -m experiments.figS7_shadow_models --preset=cpu")
MNIST = ("table1-cpu/mnist/record.json", "python -m experiments.table1_images --preset=cpu")
CIFAR100 = ("table1-paper/cifar100/record.json", "python -m experiments.table1_images --preset=paper --only=cifar100")
LOCATION = ("table2-cpu/location30/record.json", "python -m experiments.table2_tabular --preset=cpu --only=location30")
ADULT = ("table2-cpu/adult/record.json", "python -m experiments.table2_tabular --preset=cpu --only=adult")
PURCHASE = ("table2-paper/purchase100/record.json",
            "python -m experiments.table2_tabular --preset=paper --only=purchase100")  # fmt: skip
TEXAS = ("table2-paper/texas100/record.json", "python -m experiments.table2_tabular --preset=paper --only=texas100")
DIGITS = ("audit-digits/report.json", "make audit OUT=results/records/audit-digits")


def mean(record: dict, name: str) -> float:
    """Accuracy of an attack in per cent, mean over targets."""
    return 100 * record["attacks"][name]["balanced_accuracy"]["mean"]


def at_least(a: str, b: str, less: float) -> Callable[[dict], tuple[bool, str]]:
    """Is attack a within `less` points of attack b, or above it?"""

    def decide(record: dict) -> tuple[bool, str]:
        left, right = mean(record, a), mean(record, b)
        return left >= right - less, f"{a} {left:.1f}, {b} {right:.1f}"

    return decide


def boundary_beside_confidence(record: dict) -> tuple[bool, str]:
    found = record["boundary_minus_confidence"]
    each = [f"{100 * d['mean']:+.1f} pp [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]" for d in found]
    return sum(d["mean"] for d in found) / len(found) >= -0.01, f"paired difference {', '.join(each)}"


def between(record: dict) -> tuple[bool, str]:
    low, middle, high = (mean(record, name) for name in ("gap", "augmentation", "confidence_threshold"))
    return low < middle < high, f"gap {low:.1f}, augmentation {middle:.1f}, confidence {high:.1f}"


def combined_is_best(record: dict) -> tuple[bool, str]:
    if "curves" in record:
        found = {name: 100 * curve[-1]["balanced_accuracy"]["mean"] for name, curve in record["curves"].items()}
    else:
        found = {name: mean(record, name) for name in record["attacks"]}
    rest = {name: value for name, value in found.items() if name != "combined" and not name.startswith("confidence")}
    best = max(rest, key=rest.get)
    return found["combined"] > rest[best], f"combined {found['combined']:.1f}, best other {best} {rest[best]:.1f}"


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


def beats_gap_where(name: str, strengths: range) -> Callable[[dict], tuple[bool, str]]:
    def decide(record: dict) -> tuple[bool, str]:
        gap, panels = mean(record, "gap"), record["panels"]
        found = {s: 100 * panels[f"{name} {s}"]["balanced_accuracy"]["mean"] for s in strengths}
        said = ", ".join(f"{s}: {value:.1f}" for s, value in found.items())
        return all(value > gap for value in found.values()), f"gap {gap:.1f}; {said}"

    return decide


def cheap_queries_beat_gap(record: dict) -> tuple[bool, str]:
    gap = mean(record, "gap")
    entries = [(name, entry) for name, curve in record["curves"].items() for entry in curve]
    cheap = [(name, entry) for name, entry in entries if entry["queries"]["mean"] < 100]
    name, entry = max(cheap, key=lambda found: found[1]["balanced_accuracy"]["mean"])
    value, queries = 100 * entry["balanced_accuracy"]["mean"], entry["queries"]["mean"]
    return value >= gap + 4, f"gap {gap:.1f}, {name} {value:.1f} with {queries:.0f} queries"


def boundary_beats_noise_at_the_end(record: dict) -> tuple[bool, str]:
    ends = {name: 100 * record["curves"][name][-1]["balanced_accuracy"]["mean"] for name in ("boundary", "noise")}
    white = mean(record, "white_box")
    said = f"boundary {ends['boundary']:.1f}, noise {ends['noise']:.1f}, white-box {white:.1f}"
    return ends["boundary"] > ends["noise"] and abs(ends["boundary"] - white) <= 1, said


def weaken(record: dict) -> tuple[bool, str]:
    sizes = sorted(int(n) for n in record["sizes"] if int(n) >= 200)
    found = {
        name: [mean(record["sizes"][str(n)], name) for n in sizes] for name in record["sizes"][str(sizes[0])]["attacks"]
    }
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in values)}" for name, values in found.items())
    falls = all(a > b for values in found.values() for a, b in zip(values, values[1:], strict=False))
    return falls and len(sizes) > 1, f"n = {', '.join(map(str, sizes))}: {said}"


def training_on_shifts_helps_the_translation_attack(record: dict) -> tuple[bool, str]:
    distances = sorted(record["distances"], key=int)
    entries = [record["distances"][d] for d in distances]
    found = {"test accuracy": [100 * entry["models"]["test_accuracy"]["mean"] for entry in entries]}
    found |= {name: [mean(entry, name) for entry in entries] for name in ("translation", "gap", "confidence")}
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in values)}" for name, values in found.items())
    rise = all(found[name][-1] > found[name][0] for name in ("test accuracy", "translation"))
    return rise, f"d = {', '.join(distances)}: {said}"


def shadow_models_do_not_matter(record: dict) -> tuple[bool, str]:
    found = {name: [mean(entry, name) for entry in record["shadow_models"].values()]
             for name in next(iter(record["shadow_models"].values()))["attacks"]}  # fmt: skip
    said = "; ".join(f"{name} {', '.join(f'{v:.1f}' for v in values)}" for name, values in found.items())
    return all(max(values) - min(values) <= 1.5 for values in found.values()), said


CLAIMS = {
    "1 CIFAR-10": Claim("boundary is at most 1 pp below confidence, n = 2,500", *FIG2, boundary_beside_confidence),
    "1 MNIST": Claim("boundary is at most 1 pp below confidence", *MNIST, at_least("boundary", "confidence", 1)),
    "1 CIFAR-100": Claim("boundary is at most 1 pp below confidence", *CIFAR100, at_least("boundary", "confidence", 1)),
    "2": Claim("augmentation lies between gap and confidence", *FIG2, between),
    "3 CIFAR-10": Claim("combined is above every other label-only attack", *FIG2, combined_is_best),
    "3 MNIST": Claim("combined is above every other label-only attack", *MNIST, combined_is_best),
    "4": Claim("the gap attack's accuracy is 50 + gap / 2 exactly", *DIGITS, gap_is_the_closed_form),
    "4 sizes": Claim("all attacks weaken as n grows from 200 on", *FIG1, weaken),
    "5 Location": Claim("noise is at most 4 pp below confidence", *LOCATION, at_least("noise", "confidence", 4)),
    "5 Location, gap": Claim("noise is not below gap", *LOCATION, at_least("noise", "gap", 0)),
    "5 Adult": Claim("noise is at most 4 pp below confidence", *ADULT, at_least("noise", "confidence", 4)),
    "5 Adult, gap": Claim("noise is at most 0.5 pp below gap", *ADULT, at_least("noise", "gap", 0.5)),
    "5 Purchase": Claim("noise is at most 4 pp below confidence", *PURCHASE, at_least("noise", "confidence", 4)),
    "5 Texas": Claim("noise is at most 4 pp below confidence", *TEXAS, at_least("noise", "confidence", 4)),
    "6": Claim("MemGuard changes no label-only score; confidence, not adaptive, 50.0", *LOCATION, memguard),
    "6 MNIST": Claim("MemGuard changes no label-only score; confidence, not adaptive, 50.0", *MNIST, memguard),
    "6 adaptive": Claim("adaptive confidence under MemGuard is the gap attack", *LOCATION, memguard_adaptive),
    "7": Claim("adversarial regularisation hides confidences, not labels", "figS9-cpu/record.json", "figS9", None),
    "8 rotation": Claim("rotation by 1 to 8 degrees beats gap", *FIG2, beats_gap_where("rotation", range(1, 9))),
    "8 translation": Claim("translation by 1 or 2 beats gap", *FIG2, beats_gap_where("translation", range(1, 3))),
    "9": Claim("fewer than 100 queries beat gap by 4 pp", *FIG2, cheap_queries_beat_gap),
    "9 at the end": Claim("with 2,400 queries boundary beats noise and is within 1 pp of white-box", *FIG2,
                          boundary_beats_noise_at_the_end),
    "10": Claim("training on translations raises test accuracy and the translation attack", *FIG3,
                training_on_shifts_helps_the_translation_attack),
    "11": Claim("with augmented training the augmentation attack matches confidence", "fig4-paper/record.json",
                "fig4", None),
    "12": Claim("fine-tuning the last layer leaves about gap to all attacks", "figS10-cpu/record.json", "figS10", None),
    "13": Claim("only strong L2 and DP keep every attack low", "fig5_6-cpu/record.json", "fig5_6", None),
    "14": Claim("DP with transfer is the best trade", "fig5_6-cpu/record.json", "fig5_6", None),
    "15": Claim("outliers are told better under dropout, not under DP", "figS11-cpu/record.json", "figS11", None),
    "16": Claim("the number of shadow models does not matter (by 1.5 pp)", *FIGS7, shadow_models_do_not_matter),
}  # fmt: skip


def checked(folder: Path) -> Iterator[str]:
    """The line of every claim."""
    for number, claim in CLAIMS.items():
        path = folder / claim.record
        if not path.is_file():
            how = "experiment not written" if claim.decide is None else claim.command
            yield f"not yet run  {number}: {claim.text} ({how})"
            continue
        holds, numbers = claim.decide(json.loads(path.read_text()))
        yield f"{'holds' if holds else 'fails'}  {number}: {claim.text}; {numbers}"


def body() -> None:
    """Every claim, printed."""
    folder = Path(flags.FLAGS.records)
    if not folder.is_dir():
        raise ValueError(f"--records={folder}: expected the folder of records")
    print("\n".join(checked(folder)))


if __name__ == "__main__":
    flags.DEFINE_string("records", "results/records", "folder of the records")
    app.run(lambda argv: sys.exit(common.main(body)(argv)), flags_parser=common.parse)
