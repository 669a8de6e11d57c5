"""Checks the paper's claims against the committed records, a line each with the numbers.

Command:  python -m experiments.claims          reads results/records (--records names another folder)
A claim `holds` or `fails` by the means that a record holds; that about outliers by intervals, which may leave it
`open`. Two attacks are compared on the points both were put to, and the interval of the difference is about other
points (`paired.py`). What no record of the right data covers is `not yet run`, with the command that would cover it.
Numbers of the claims: SPEC order, the paper's sections; some claims of ours stand at the end.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.claims import attacks as verdicts
from experiments.claims import defenses as verdicts_on_defenses
from mi_jax import cli


class Source(NamedTuple):
    """Where a claim is decided."""

    record: str  # file in the folder of records
    command: str  # that makes it
    dataset: str
    n_train: int | None = None  # None: any


class Claim(NamedTuple):
    """A sentence of the paper, and how a record decides it."""

    text: str
    source: Source
    decide: Callable[[dict], tuple[bool | None, str]]  # record -> (does it hold, None: the intervals of its numbers
    # leave it open, the numbers); KeyError: lacks what it needs


def of_script(name: str, script: str, dataset: str, *, preset="cpu", only=False, n_train=None) -> Source:
    """The record that a script of this folder makes, of one data set among several with `only`."""
    place, chosen = (f"{name}-{preset}/{dataset}", f" --only={dataset}") if only else (f"{name}-{preset}", "")
    command = f"python -m experiments.{script} --preset={preset}{chosen}"
    return Source(f"{place}/record.json", command, dataset, n_train)


FIG1 = of_script("fig1", "paper.fig1_training_size", "cifar10")
FIG2 = of_script("fig2", "paper.fig2_query_budget", "cifar10", n_train=2500)
FIG3 = of_script("fig3", "paper.fig3_augmented_training", "cifar10")
FIG4 = of_script("fig4", "paper.fig4_resnet", "cifar10", preset="paper")
MNIST = of_script("table1", "paper.table1_images", "mnist", only=True, n_train=1000)
CIFAR100 = of_script("table1", "paper.table1_images", "cifar100", preset="paper", only=True, n_train=30000)
LOCATION = of_script("table2", "paper.table2_tabular", "location30", only=True)
ADULT = of_script("table2", "paper.table2_tabular", "adult", only=True)
PURCHASE = of_script("table2", "paper.table2_tabular", "purchase100", preset="paper", only=True)
TEXAS = of_script("table2", "paper.table2_tabular", "texas100", preset="paper", only=True)
FIGS7 = of_script("figS7", "paper.figS7_shadow_models", "cifar10")
FIGS9 = of_script("figS9", "paper.figS9_adversarial_regularisation", "cifar10")
FIGS10 = of_script("figS10", "paper.figS10_transfer", "cifar10")
FIGS11 = of_script("figS11", "paper.figS11_outliers", "cifar10", n_train=2500)
DEFENSES = of_script("fig5_6", "paper.fig5_6_defenses", "cifar10", only=True, n_train=2500)
ALL_DEFENSES = of_script("fig5_6", "paper.fig5_6_defenses", "cifar10", preset="paper", only=True, n_train=2500)
DIGITS_DEFENDED = of_script("fig5_6", "paper.fig5_6_defenses", "digits", only=True)
AUDITED = of_script("dp_audit", "dp_audit", "digits")
DIGITS = Source("audit-digits/report.json", "make audit OUT=results/records/audit-digits", "digits")


_ALIKE, _GUARDED = "boundary is at most 1 pp below confidence", "MemGuard changes no label-only"
_BEST = "combined is above every other label-only attack"
CLAIMS = {
    "1 CIFAR-10": Claim(f"{_ALIKE}, n = 2,500", FIG2, verdicts.at_least("boundary", "confidence", 1)),
    "1 sizes": Claim(f"{_ALIKE}, at every n", FIG1, verdicts.boundary_is_like_confidence_everywhere),
    "1 MNIST": Claim(_ALIKE, MNIST, verdicts.at_least("boundary", "confidence", 1)),
    "1 CIFAR-100": Claim(_ALIKE, CIFAR100, verdicts.at_least("boundary", "confidence", 1)),
    "2": Claim("augmentation lies between gap and confidence", FIG2, verdicts.between),
    "3 CIFAR-10": Claim(_BEST, FIG2, verdicts.combined_is_best),
    "3 MNIST": Claim(_BEST, MNIST, verdicts.combined_is_best),
    "4": Claim("the gap attack's accuracy is 50 + gap / 2 exactly", DIGITS, verdicts.gap_is_the_closed_form),
    "4 sizes": Claim("all attacks weaken as n grows from 200 on", FIG1, verdicts.weaken),
    "5 Location": Claim(
        "noise is at most 4 pp below confidence", LOCATION, verdicts.at_least("noise", "confidence", 4)
    ),
    "5 Location, gap": Claim("noise is not below gap", LOCATION, verdicts.at_least("noise", "gap", 0)),
    "5 Adult": Claim("noise is at most 4 pp below confidence", ADULT, verdicts.at_least("noise", "confidence", 4)),
    "5 Adult, gap": Claim("noise is at most 0.5 pp below gap", ADULT, verdicts.at_least("noise", "gap", 0.5)),
    "5 Purchase": Claim(
        "noise is at most 4 pp below confidence", PURCHASE, verdicts.at_least("noise", "confidence", 4)
    ),
    "5 Purchase, gap": Claim("noise is not below gap", PURCHASE, verdicts.at_least("noise", "gap", 0)),
    "5 Texas": Claim("noise is at most 4 pp below confidence", TEXAS, verdicts.at_least("noise", "confidence", 4)),
    "5 Texas, gap": Claim("noise is not below gap", TEXAS, verdicts.at_least("noise", "gap", 0)),
    "6": Claim(f"{_GUARDED} score; confidence, not adaptive, 50.0", LOCATION, verdicts.memguard),
    "6 MNIST": Claim(f"{_GUARDED} score; confidence, not adaptive, 50.0", MNIST, verdicts.memguard),
    "6 Adult": Claim(f"{_GUARDED} score; confidence, not adaptive, 50.0", ADULT, verdicts.memguard),
    "6 adaptive": Claim("adaptive confidence under MemGuard is the gap attack", LOCATION, verdicts.memguard_adaptive),
    "6 MNIST, adaptive": Claim(
        "adaptive confidence under MemGuard is the gap attack", MNIST, verdicts.memguard_adaptive
    ),
    "6 Adult, adaptive": Claim(
        "adaptive confidence under MemGuard is the gap attack", ADULT, verdicts.memguard_adaptive
    ),
    "6 defenses": Claim(
        f"{_GUARDED} attack; confidence, not adaptive, 50.0",
        DIGITS_DEFENDED,
        verdicts_on_defenses.memguard_among_defenses,
    ),
    "7": Claim(
        "adversarial regularisation of 2 hides confidences, not labels; 3 costs a third of the test accuracy",
        FIGS9,
        verdicts_on_defenses.confidences_hidden_labels_not,
    ),
    "8 rotation": Claim(
        "rotation by 1 to 8 degrees beats gap", FIG2, verdicts.beats_gap_where("rotation", range(1, 9))
    ),
    "8 translation": Claim(
        "translation by 1 or 2 beats gap", FIG2, verdicts.beats_gap_where("translation", range(1, 3))
    ),
    "8 beyond": Claim(
        "rotation by 11 to 15 degrees is within 1 pp of gap",
        FIG2,
        verdicts.gap_is_left_where("rotation", range(11, 16)),
    ),
    "8 farther": Claim(
        "translation by 3 to 5 is within 1 pp of gap", FIG2, verdicts.gap_is_left_where("translation", range(3, 6))
    ),
    "9": Claim("fewer than 100 queries beat gap by 4 pp", FIG2, verdicts.cheap_queries_beat_gap),
    "9 early": Claim("below 300 queries noise is above boundary", FIG2, verdicts.noise_is_best_early),
    "9 at the end": Claim(
        "boundary ends above noise and within 1 pp of white-box", FIG2, verdicts.boundary_is_best_at_the_end
    ),
    "10": Claim(
        "training on translations raises test accuracy, lowers gap, and raises the translation attack at every step",
        FIG3,
        verdicts.training_on_shifts_helps_the_translation_attack,
    ),
    "10 beyond": Claim(
        "trained on shifts by 5, translation tells more than confidence does without such training",
        FIG3,
        verdicts.translation_beats_what_confidence_had,
    ),
    "10 far": Claim(
        "with training on shifts by 3 and 5 translation beats confidence and boundary",
        FIG3,
        verdicts.translation_is_best_on_augmented,
    ),
    "11": Claim(
        "with augmented training the augmentation attack matches confidence, without not",
        FIG4,
        verdicts.augmentation_matches_confidence,
    ),
    "12": Claim(
        "fine-tuning the last layer leaves about gap to all attacks; full fine-tuning tests better, leaks more",
        FIGS10,
        verdicts_on_defenses.last_layer_leaves_the_gap,
    ),
    "13": Claim(
        "L2 of at least 1 and DP keep every attack at or below 58 %, most others not even gap below 60 %",
        DEFENSES,
        verdicts_on_defenses.only_l2_and_privacy,
    ),
    "14": Claim(
        "transfer with DP has the best test accuracy of all that keep attacks lowest",
        DEFENSES,
        verdicts_on_defenses.transfer_with_privacy_trades_best,
    ),
    "14 alone": Claim(
        "without transfer a dropout has the best test accuracy of all that take 5 pp from the strongest attack",
        DEFENSES,
        verdicts_on_defenses.dropout_is_best_without_transfer,
    ),
    "14 epsilon": Claim(
        "DP alone comes within 5 pp of the undefended test accuracy only with epsilon above 50, the paper's 100",
        ALL_DEFENSES,
        verdicts_on_defenses.useful_privacy_is_large,
    ),
    "15": Claim(
        "outliers are told better under dropout, not under DP and strong L2",
        FIGS11,
        verdicts_on_defenses.outliers_told_under_dropout,
    ),
    "16": Claim("the number of shadow models does not matter (by 1.5 pp)", FIGS7, verdicts.shadow_models_do_not_matter),
    "ours, Location": Claim(
        "gap is 72 +- 2, confidence 92 +- 2, noise at least 88", LOCATION, verdicts.location_is_reproduced
    ),
    "ours, privacy": Claim(
        "on digits DP at epsilon 8 keeps every attack at or below 58 % with test accuracy of at least 40 %",
        DIGITS_DEFENDED,
        verdicts_on_defenses.private_and_useful,
    ),
    "ours, epsilon": Claim(
        "what labels prove of epsilon (95 % each) is below what the accountant proves",
        AUDITED,
        verdicts_on_defenses.lower_below_upper,
    ),
}


def checked(folder: Path) -> Iterator[str]:
    """The line of every claim."""
    for number, (text, source, decide) in CLAIMS.items():
        path = folder / source.record
        if not path.is_file():
            yield f"not yet run  {number}: {text} ({source.command})"
            continue
        record = json.loads(path.read_text())
        try:
            refuse_other_data(record["config"], source)
            holds, numbers = decide(record)
        except KeyError as missing:  # a run of other data, or of some of the points
            yield f"not yet run  {number}: {text} (the record lacks {missing}; {source.command})"
            continue
        status = {True: "holds", False: "fails", None: "open"}[holds]
        yield f"{status}  {number}: {text}; {numbers}"


def refuse_other_data(config: dict, source: Source) -> None:
    """KeyError for a record of other data than a claim is about."""
    for name in ("dataset", "n_train"):
        wanted = getattr(source, name)
        if wanted is not None and config[name] != wanted:
            raise KeyError(f"{name} {wanted}")


def body() -> None:
    """Every claim, printed."""
    folder = Path(flags.FLAGS.records)
    if not folder.is_dir():
        raise ValueError(f"--records={folder}: expected the folder of records")
    print("\n".join(checked(folder)))


if __name__ == "__main__":
    flags.DEFINE_string("records", "results/records", "folder of the records")
    app.run(lambda argv: sys.exit(cli.main(body)(argv)), flags_parser=cli.parse)
