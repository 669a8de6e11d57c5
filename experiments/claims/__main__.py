"""Checks the paper's claims against the committed records, a line each with the numbers.

Command:  python -m experiments.claims          reads results/records (--records names another folder)
A claim `holds` or `fails` by the means that a record holds; that about outliers by intervals, which may leave it
`open`. Two attacks are compared on the points both ran on, and the interval of the difference is about other points
(`mi_jax/evaluation/paired.py`). What no record of the right data covers is `not yet run`, with the command to run.
Numbers of the claims: SPEC order, the paper's sections; some claims of ours are at the end.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.claims import attacks, defenses
from mi_jax import cli


class Source(NamedTuple):
    """The record that decides a claim."""

    record: str  # file in the folder of records
    command: str  # that makes it
    dataset: str
    n_train: int | None = None  # None: any


class Claim(NamedTuple):
    """A sentence of the paper, and how a record decides it."""

    text: str
    source: Source
    decide: Callable[[dict], attacks.Verdict]  # of the record; KeyError: it lacks what the claim is about


def record_of(name: str, script: str, dataset: str, *, preset="cpu", only=False, n_train=None) -> Source:
    """The record that a script makes; `only`: that of one data set among several."""
    folder, option = (f"{name}-{preset}/{dataset}", f" --only={dataset}") if only else (f"{name}-{preset}", "")
    command = f"python -m experiments.{script} --preset={preset}{option}"
    return Source(f"{folder}/record.json", command, dataset, n_train)


FIG1 = record_of("fig1", "paper.fig1_training_size", "cifar10")
FIG2 = record_of("fig2", "paper.fig2_query_budget", "cifar10", n_train=2500)
FIG3 = record_of("fig3", "paper.fig3_augmented_training", "cifar10")
FIG4 = record_of("fig4", "paper.fig4_resnet", "cifar10", preset="paper")
MNIST = record_of("table1", "paper.table1_images", "mnist", only=True, n_train=1000)
CIFAR100 = record_of("table1", "paper.table1_images", "cifar100", preset="paper", only=True, n_train=30000)
LOCATION = record_of("table2", "paper.table2_tabular", "location30", only=True)
ADULT = record_of("table2", "paper.table2_tabular", "adult", only=True)
PURCHASE = record_of("table2", "paper.table2_tabular", "purchase100", preset="paper", only=True)
TEXAS = record_of("table2", "paper.table2_tabular", "texas100", preset="paper", only=True)
FIGS7 = record_of("figS7", "paper.figS7_shadow_models", "cifar10")
FIGS9 = record_of("figS9", "paper.figS9_adversarial_regularisation", "cifar10")
FIGS10 = record_of("figS10", "paper.figS10_transfer", "cifar10")
FIGS11 = record_of("figS11", "paper.figS11_outliers", "cifar10", n_train=2500)
DEFENSES = record_of("fig5_6", "paper.fig5_6_defenses", "cifar10", only=True, n_train=2500)
ALL_DEFENSES = record_of("fig5_6", "paper.fig5_6_defenses", "cifar10", preset="paper", only=True, n_train=2500)
DIGITS_DEFENDED = record_of("fig5_6", "paper.fig5_6_defenses", "digits", only=True)
AUDITED = record_of("dp_audit", "dp_audit", "digits")
DIGITS = Source(
    "audit-digits-disjoint/report.json",
    "make audit OUT=results/records/audit-digits-disjoint ARGS=--split=disjoint",
    "digits",
)

_BOUNDARY, _matches = "boundary is at most 1 pp below confidence", attacks.at_least("boundary", "confidence", 1)
_COMBINED = "combined is above every other label-only attack"
_NOISE, _noise = "noise is at most 4 pp below confidence", attacks.at_least("noise", "confidence", 4)
_ABOVE, _above = "noise is not below gap", attacks.at_least("noise", "gap", 0)
_MEMGUARD = "MemGuard changes no label-only score; non-adaptive confidence 50.0"
_ADAPTIVE = "adaptive confidence under MemGuard is the gap attack"
# fmt: off
CLAIMS = {
    "1 CIFAR-10": Claim(f"{_BOUNDARY}, n = 2,500", FIG2, _matches),
    "1 sizes": Claim(f"{_BOUNDARY}, at every n", FIG1, attacks.boundary_matches_confidence_at_every_size),
    "1 MNIST": Claim(_BOUNDARY, MNIST, _matches),
    "1 CIFAR-100": Claim(_BOUNDARY, CIFAR100, _matches),
    "2": Claim("augmentation lies between gap and confidence", FIG2, attacks.augmentation_is_between),
    "3 CIFAR-10": Claim(_COMBINED, FIG2, attacks.combined_is_best),
    "3 MNIST": Claim(_COMBINED, MNIST, attacks.combined_is_best),
    "4": Claim("the gap attack's accuracy is 50 + gap / 2 exactly", DIGITS, attacks.gap_is_the_closed_form),
    "4 sizes": Claim("all attacks weaken as n grows from 200 on", FIG1, attacks.weaken_with_size),
    "5 Location": Claim(_NOISE, LOCATION, _noise),
    "5 Location, gap": Claim(_ABOVE, LOCATION, _above),
    "5 Adult": Claim(_NOISE, ADULT, _noise),
    "5 Adult, gap": Claim("noise is at most 0.5 pp below gap", ADULT, attacks.at_least("noise", "gap", 0.5)),
    "5 Purchase": Claim(_NOISE, PURCHASE, _noise),
    "5 Purchase, gap": Claim(_ABOVE, PURCHASE, _above),
    "5 Texas": Claim(_NOISE, TEXAS, _noise),
    "5 Texas, gap": Claim(_ABOVE, TEXAS, _above),
    "6": Claim(_MEMGUARD, LOCATION, attacks.memguard_changes_no_label),
    "6 MNIST": Claim(_MEMGUARD, MNIST, attacks.memguard_changes_no_label),
    "6 Adult": Claim(_MEMGUARD, ADULT, attacks.memguard_changes_no_label),
    "6 adaptive": Claim(_ADAPTIVE, LOCATION, attacks.memguard_leaves_the_gap),
    "6 MNIST, adaptive": Claim(_ADAPTIVE, MNIST, attacks.memguard_leaves_the_gap),
    "6 Adult, adaptive": Claim(_ADAPTIVE, ADULT, attacks.memguard_leaves_the_gap),
    "6 defenses": Claim("MemGuard changes no label-only attack; non-adaptive confidence 50.0", DIGITS_DEFENDED,
                        defenses.memguard_changes_no_label),
    "7": Claim("adversarial regularisation of 2 hides confidences, not labels; 3 costs a third of the test accuracy",
               FIGS9, defenses.adversarial_hides_confidences),
    "8 rotation": Claim("rotation by 1 to 8 degrees beats gap", FIG2, attacks.above_gap("rotation", range(1, 9))),
    "8 translation": Claim("translation by 1 or 2 beats gap", FIG2, attacks.above_gap("translation", range(1, 3))),
    "8 beyond": Claim("rotation by 11 to 15 degrees is within 1 pp of gap", FIG2,
                      attacks.near_gap("rotation", range(11, 16))),
    "8 farther": Claim("translation by 3 to 5 is within 1 pp of gap", FIG2,
                       attacks.near_gap("translation", range(3, 6))),
    "9": Claim("fewer than 100 queries beat gap by 4 pp", FIG2, attacks.few_queries_beat_gap),
    "9 early": Claim("below 300 queries noise is above boundary", FIG2, attacks.noise_is_best_early),
    "9 at the end": Claim("boundary ends above noise and within 1 pp of white-box", FIG2,
                          attacks.boundary_is_best_at_the_end),
    "10": Claim("training on translations raises test accuracy, lowers gap, and raises the translation attack at "
                "every step", FIG3, attacks.shifts_help_the_translation_attack),
    "10 beyond": Claim("trained on shifts by 5, translation leaks more than confidence does without such training",
                       FIG3, attacks.translation_beats_confidence_without_shifts),
    "10 far": Claim("with training on shifts by 3 and 5 translation beats confidence and boundary", FIG3,
                    attacks.translation_is_best_on_far_shifts),
    "11": Claim("with augmented training the augmentation attack matches confidence, without not", FIG4,
                attacks.augmentation_matches_confidence),
    "12": Claim("fine-tuning the last layer leaves about gap to all attacks; full fine-tuning tests better, leaks more",
                FIGS10, defenses.last_layer_leaves_the_gap),
    "13": Claim("L2 of at least 1 and DP keep every attack at or below 58 %, most others not even gap below 60 %",
                DEFENSES, defenses.only_l2_and_privacy),
    "14": Claim("transfer with DP has the best test accuracy of all that keep attacks lowest", DEFENSES,
                defenses.transfer_with_privacy_is_best),
    "14 alone": Claim("without transfer a dropout has the best test accuracy of all that take 5 pp from the strongest "
                      "attack", DEFENSES, defenses.dropout_is_best_without_transfer),
    "14 epsilon": Claim("DP alone comes within 5 pp of the undefended test accuracy only with epsilon above 50, the "
                        "paper's 100", ALL_DEFENSES, defenses.useful_privacy_is_large),
    "15": Claim("outliers leak more under dropout, not under DP and strong L2", FIGS11,
                defenses.dropout_exposes_outliers),
    "16": Claim("the number of shadow models does not matter (by 1.5 pp)", FIGS7, attacks.shadow_models_do_not_matter),
    "ours, Location": Claim("gap is 72 +- 2, confidence 92 +- 2, noise at least 88", LOCATION,
                            attacks.location_is_reproduced),
    "ours, privacy": Claim("on digits DP at epsilon 8 keeps every attack at or below 58 % with test accuracy of at "
                           "least 40 %", DIGITS_DEFENDED, defenses.private_and_useful),
    "ours, epsilon": Claim("the lower bound of epsilon from labels (95 % each) is below the accountant's upper bound",
                           AUDITED, defenses.lower_bound_is_below_upper),
}
# fmt: on


def check_claims(folder: Path) -> Iterator[str]:
    """The line of every claim, from the records in a folder."""
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
        expected = getattr(source, name)
        if expected is not None and config[name] != expected:
            raise KeyError(f"{name} {expected}")


def body() -> None:
    """Every claim, printed."""
    folder = Path(flags.FLAGS.records)
    if not folder.is_dir():
        raise ValueError(f"--records={folder}: expected the folder of records")
    print("\n".join(check_claims(folder)))


if __name__ == "__main__":
    flags.DEFINE_string("records", "results/records", "folder of the records")
    app.run(lambda argv: sys.exit(cli.main(body)(argv)), flags_parser=cli.parse)
