"""Defenses compared: the table, the Pareto front and the best of them at each level of attack accuracy."""

from mi_jax.evaluation import pareto


def defense(test: float, attack: float, **models) -> dict:
    accuracies = {"train_accuracy": {"mean": 1.0}, "test_accuracy": {"mean": test}} | models
    attacks = {name: {"balanced_accuracy": {"mean": attack}} for name in ("label_only", "confidence")}
    return {"models": accuracies, "attacks": attacks, "not_adaptive": {}}


DEFENSES = {
    "none": defense(0.5, 0.8), "dropout:0.5": defense(0.6, 0.7), "l2:1": defense(0.6, 0.8),
    "dp_sgd:8": defense(0.4, 0.55, privacy={"statement": "epsilon 8 at delta 0.01"}), "l1:1": defense(0.3, 0.55),
}  # fmt: skip


def test_the_table_is_in_the_order_of_the_strongest_attack_and_marks_the_pareto_front():
    _, _, *rows, below = pareto.format_defenses(DEFENSES).splitlines()
    assert [row.split()[0] for row in rows] == ["dp_sgd:8", "l1:1", "dropout:0.5", "l2:1", "none"]
    assert [row.split()[0] for row in rows if row.endswith("yes")] == ["dp_sgd:8", "dropout:0.5"]
    assert below == "dp_sgd:8: epsilon 8 at delta 0.01"


def test_the_best_at_a_level_has_the_best_test_accuracy_of_those_whose_strongest_attack_is_not_above_it():
    best = pareto.best_at_levels(DEFENSES)
    names = [best[str(level)] and best[str(level)]["defense"] for level in pareto.LEVELS]
    assert names == [None, *["dp_sgd:8"] * 4, *["dropout:0.5"] * 4], "at 55 % too, which is what it has"
    leaky = DEFENSES["dp_sgd:8"] | {"not_adaptive": {"boundary": {"balanced_accuracy": {"mean": 0.75}}}}
    assert pareto.best_at_levels({"dp_sgd:8": leaky})["70"] is None, "a non-adaptive attacker may do better"
