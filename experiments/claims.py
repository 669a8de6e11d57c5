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
from experiments.fig5_6_defenses import strongest


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
FIG4 = ("fig4-paper/record.json", "python -m experiments.fig4_resnet --preset=paper")
FIGS9 = ("figS9-cpu/record.json", "python -m experiments.figS9_adversarial_regularisation --preset=cpu")
FIGS10 = ("figS10-cpu/record.json", "python -m experiments.figS10_transfer --preset=cpu")
FIGS11 = ("figS11-cpu/record.json", "python -m experiments.figS11_outliers --preset=cpu")
DEFENSES = ("fig5_6-cpu/cifar10/record.json", "python -m experiments.fig5_6_defenses --preset=cpu --only=cifar10")
DIGITS_DEFENDED = ("fig5_6-cpu/digits/record.json", "python -m experiments.fig5_6_defenses --preset=cpu --only=digits")
AUDITED = ("dp_audit-cpu/record.json", "python -m experiments.dp_audit --preset=cpu")
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


def memguard_among_defenses(record: dict) -> tuple[bool, str]:
    plain, guarded = record["defenses"]["none"], record["defenses"]["memguard:0.001"]
    names = [name for name, entry in plain["attacks"].items() if entry.get("access") == "label"]
    same = {name: plain["attacks"][name]["balanced_accuracy"] == guarded["attacks"][name]["balanced_accuracy"]
            for name in names}  # fmt: skip
    blind = 100 * guarded["not_adaptive"]["confidence"]["balanced_accuracy"]["mean"]
    return all(same.values()) and blind == 50, f"label-only equal: {same}, confidence not adaptive {blind:.4f}"


def confidences_hidden_labels_not(record: dict) -> tuple[bool, str]:
    found = {float(at): {name: mean(entry, name) for name in ("confidence", "boundary", "gap")}
             for at, entry in record["strengths"].items()}  # fmt: skip
    strong = {at: values for at, values in found.items() if at >= 2}
    hidden = any(abs(values["confidence"] - 50) <= 3 for values in strong.values())
    near = all(-0.5 <= values["boundary"] - values["gap"] <= 3 for values in strong.values())
    test = {float(at): 100 * entry["models"]["test_accuracy"]["mean"] for at, entry in record["strengths"].items()}
    ruined = all(value < 35 for at, value in test.items() if at >= 3)
    told = "; ".join(f"{at:g}: " + ", ".join(f"{k} {v:.1f}" for k, v in values.items()) + f", test {test[at]:.1f}"
                     for at, values in found.items())  # fmt: skip
    return hidden and near and ruined, told


def augmentation_matches_confidence(record: dict) -> tuple[bool, str]:
    def beside(regime: str) -> dict[str, float]:
        sizes = record["regimes"][regime].items()
        return {n: mean(entry, "augmentation") - mean(entry, "confidence") for n, entry in sizes}

    trained, plain = beside("all"), beside("none")
    told = [f"{regime} {', '.join(f'{n}: {value:+.1f}' for n, value in found.items())}"
            for regime, found in (("with", trained), ("without", plain))]  # fmt: skip
    matches = min(trained.values()) >= -1.5 and max(plain.values()) < -5
    return matches, f"augmentation less confidence, {'; '.join(told)}"


def last_layer_leaves_the_gap(record: dict) -> tuple[bool, str]:
    ways = record["ways"]
    large = [n for n in ways["transfer_last"] if int(n) >= 1000]
    if not large:
        raise KeyError("n of at least 1,000")
    left = {n: {name: mean(ways["transfer_last"][n], name) for name in ("gap", "boundary")} for n in large}
    tests = {way: [100 * sizes[n]["models"]["test_accuracy"]["mean"] for n in large] for way, sizes in ways.items()}
    near = all(values["boundary"] - values["gap"] <= 1 for values in left.values())
    better = all(a > b for a, b in zip(tests["transfer_full"], tests["transfer_last"], strict=True))
    told = "; ".join(f"n = {n}: gap {v['gap']:.1f}, boundary {v['boundary']:.1f}" for n, v in left.items())
    tested = ", ".join(f"{way} {'/'.join(f'{t:.1f}' for t in values)}" for way, values in tests.items())
    return near and better, f"{told}; test accuracy {tested}"


def only_l2_and_privacy(record: dict) -> tuple[bool, str]:
    low = {text: strongest(entry) for text, entry in record["defenses"].items()}

    def is_strong(text: str) -> bool:
        name, _, strength = text.partition(":")
        return "dp_" in text or (name == "l2" and float(strength) >= 1)

    kept = all(value <= 58 for text, value in low.items() if is_strong(text))
    rest = {text: value for text, value in low.items() if not is_strong(text) and not text.startswith("adversarial")}
    return kept and all(v >= 60 for v in rest.values()), ", ".join(f"{text} {v:.1f}" for text, v in low.items())


def private_and_useful(record: dict) -> tuple[bool, str]:
    entry = record["defenses"]["dp_sgd:8"]
    test = 100 * entry["models"]["test_accuracy"]["mean"]
    return strongest(entry) <= 58 and test >= 40, f"strongest attack {strongest(entry):.1f}, test accuracy {test:.1f}"


def outliers_told_under_dropout(record: dict) -> tuple[bool, str]:
    found = {text: 100 * entry["improvement"]["mean"] for text, entry in record["defenses"].items()}
    dropped = [value for text, value in found.items() if text.startswith("dropout")]
    private = [value for text, value in found.items() if text.startswith(("dp_", "l2"))]
    told = ", ".join(f"{text} {value:+.1f} pp" for text, value in found.items())
    return min(dropped) > max(private) and all(abs(value) <= 2 for value in private), told


def lower_below_upper(record: dict) -> tuple[bool, str]:
    pairs = [(level["noise"], float(level["epsilon"]), max(a["epsilon"] for a in level["attacks"].values()))
             for level in record["levels"]]  # fmt: skip
    told = ", ".join(f"noise {noise:g}: {low:.2f} of {high:.2f}" for noise, high, low in pairs)
    return all(low <= high for _, high, low in pairs), told


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
    "6 defenses": Claim("MemGuard changes no label-only attack; confidence, not adaptive, 50.0", *DIGITS_DEFENDED,
                        memguard_among_defenses),
    "7": Claim("adversarial regularisation of 2 hides confidences, not labels; of 3 it ruins the model", *FIGS9,
               confidences_hidden_labels_not),
    "8 rotation": Claim("rotation by 1 to 8 degrees beats gap", *FIG2, beats_gap_where("rotation", range(1, 9))),
    "8 translation": Claim("translation by 1 or 2 beats gap", *FIG2, beats_gap_where("translation", range(1, 3))),
    "9": Claim("fewer than 100 queries beat gap by 4 pp", *FIG2, cheap_queries_beat_gap),
    "9 at the end": Claim("with 2,400 queries boundary beats noise and is within 1 pp of white-box", *FIG2,
                          boundary_beats_noise_at_the_end),
    "10": Claim("training on translations raises test accuracy and the translation attack", *FIG3,
                training_on_shifts_helps_the_translation_attack),
    "11": Claim("with augmented training the augmentation attack matches confidence, without not", *FIG4,
                augmentation_matches_confidence),
    "12": Claim("fine-tuning the last layer leaves about gap to boundary, full fine-tuning tests better", *FIGS10,
                last_layer_leaves_the_gap),
    "13": Claim("L2 of at least 1 and DP keep every attack at or below 58 %, others but adversarial do not", *DEFENSES,
                only_l2_and_privacy),
    "14 digits": Claim("DP at epsilon 8 keeps every attack at or below 58 % with test accuracy of at least 40 %",
                       *DIGITS_DEFENDED, private_and_useful),
    "15": Claim("outliers are told better under dropout, not under DP and strong L2", *FIGS11,
                outliers_told_under_dropout),
    "16": Claim("the number of shadow models does not matter (by 1.5 pp)", *FIGS7, shadow_models_do_not_matter),
    "ours": Claim("what labels prove of epsilon (95 % each) is below what the accountant proves", *AUDITED,
                  lower_below_upper),
}  # fmt: skip


def checked(folder: Path) -> Iterator[str]:
    """The line of every claim."""
    for number, claim in CLAIMS.items():
        path = folder / claim.record
        if not path.is_file():
            how = "experiment not written" if claim.decide is None else claim.command
            yield f"not yet run  {number}: {claim.text} ({how})"
            continue
        try:
            holds, numbers = claim.decide(json.loads(path.read_text()))
        except KeyError as missing:  # a run of some of the points
            yield f"not yet run  {number}: {claim.text} (the record lacks {missing}; {claim.command})"
            continue
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
