"""Defenses compared: the accuracy each one costs, what attacks still reach, and which of them are Pareto optimal.

An entry is one defense, as a plain dictionary of a record:

    {"models": {"test_accuracy": M, "train_accuracy": M},
     "attacks": {NAME: {"balanced_accuracy": M}},            of an attacker who knows of the defense
     "not_adaptive": {NAME: {"balanced_accuracy": M}}}       of one who does not

with M["mean"] in [0, 1]. Among `attacks` are `label_only`, the label-only attack that does best on shadow models, and
`confidence`.
"""

from mi_jax.evaluation import text

LEVELS = (52, 55, 58, 60, 65, 70, 75, 80, 100)  # of the strongest attack's accuracy, per cent
COLUMNS = ("test_accuracy", "gap", "label_only", "confidence")


def defense_accuracies(entry: dict) -> tuple[float, float, float, float]:
    """(test accuracy, train less test accuracy, `label_only`, `confidence`) of a defense, in per cent."""
    models, attacks = entry["models"], entry["attacks"]
    test, train = (100 * models[f"{side}_accuracy"]["mean"] for side in ("test", "train"))
    label, confidence = (100 * attacks[name]["balanced_accuracy"]["mean"] for name in ("label_only", "confidence"))
    return test, train - test, label, confidence


def strongest_attack(entry: dict) -> float:
    """The accuracy in per cent of the best attack on a defense, adaptive or not.

    The largest of several estimates on the same targets is biased upwards: too few defenses look good, not too many.
    """
    rows = [*entry["attacks"].values(), *entry["not_adaptive"].values()]
    return round(100 * max(row["balanced_accuracy"]["mean"] for row in rows), 9)  # so that 0.55 is at the level 55


def best_at_levels(defenses: dict[str, dict]) -> dict[str, dict | None]:
    """Level (one of LEVELS) -> the defense with the best test accuracy whose strongest attack is at or below it.

    A row has `defense` and COLUMNS, in per cent; None where no defense is at or below the level.
    """
    table = {}
    for level in LEVELS:
        allowed = {name: entry for name, entry in defenses.items() if strongest_attack(entry) <= level}
        best = max(allowed, key=lambda name: defense_accuracies(allowed[name])[0], default=None)
        table[str(level)] = best and {
            "defense": best,
            **dict(zip(COLUMNS, defense_accuracies(allowed[best]), strict=True)),
        }
    return table


def format_defenses(defenses: dict[str, dict]) -> str:
    """The defenses as a plain-text table, in the order of the strongest attack on each, the weakest first.

    Those on the Pareto front are marked: none with an attack as weak has a better test accuracy. Below the table is
    what each epsilon means.
    """
    header = ("defense", "test accuracy", "label-only", "confidence", "strongest attack", "Pareto front")
    rows: list[tuple[str, ...]] = [header]
    values = {name: (*defense_accuracies(entry), strongest_attack(entry)) for name, entry in defenses.items()}
    best_test = 0.0
    for name, (test, _, *attacked) in sorted(values.items(), key=lambda item: (item[1][-1], -item[1][0])):
        rows.append((name, *(f"{value:.1f} %" for value in (test, *attacked)), "yes" if test > best_test else ""))
        best_test = max(best_test, test)
    private = {name: entry["models"]["privacy"] for name, entry in defenses.items() if "privacy" in entry["models"]}
    return "\n".join([text.aligned(rows), *(f"{name}: {entry['statement']}" for name, entry in private.items())])
