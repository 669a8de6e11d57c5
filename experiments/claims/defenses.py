"""How a record decides a claim about defenses; `attacks.py` has those about attacks, and what both use."""

from experiments.claims.attacks import Difference, Verdict, accuracy, difference, join, test_accuracy
from experiments.paper.fig5_6_defenses import IN_FULL
from mi_jax import defenses
from mi_jax.evaluation.pareto import strongest_attack


def memguard_changes_no_label(record: dict) -> Verdict:
    plain, defended = record["defenses"]["none"], record["defenses"]["memguard:0.001"]
    names = [name for name, row in plain["attacks"].items() if row.get("access") == "label"]
    same = {name: plain["attacks"][name]["balanced_accuracy"] == defended["attacks"][name]["balanced_accuracy"]
            for name in names}  # fmt: skip
    non_adaptive = 100 * defended["not_adaptive"]["confidence_threshold"]["balanced_accuracy"]["mean"]
    adaptive, gap = accuracy(defended, "confidence"), accuracy(defended, "gap")
    numbers = f"non-adaptive confidence {non_adaptive:.4f}, adaptive {adaptive:.1f}, gap {gap:.1f}"
    holds = all(same.values()) and non_adaptive == 50 and abs(adaptive - gap) <= 1
    return holds, f"label-only equal: {same}, {numbers}"


def adversarial_hides_confidences(record: dict) -> Verdict:
    undefended = test_accuracy(record["undefended"])
    rows = {float(strength): (accuracy(entry, "confidence"), accuracy(entry, "boundary"),
                              difference(entry, "boundary", "gap"), test_accuracy(entry))
            for strength, entry in record["strengths"].items()}  # fmt: skip
    strong = [row for strength, row in rows.items() if strength >= 2]
    ruined = [test <= 0.7 * undefended for strength, (*_, test) in rows.items() if strength >= 3]
    if not ruined:
        raise KeyError("strengths of 3 and more")
    # A strength that ruins the model hides labels too: what is claimed is that one hides confidences alone.
    hides = any(abs(confidence - 50) <= 3 and label >= confidence + 5 for confidence, label, *_ in strong)
    near = all(-0.5 <= above.mean <= 3 for _, _, above, _ in strong)
    numbers = "; ".join(f"{strength:g}: confidence {confidence:.1f}, boundary {label:.1f}, less gap {above}, test "
                        f"{test:.1f}" for strength, (confidence, label, above, test) in rows.items())  # fmt: skip
    size = f"n = {record['config']['n_train']:,}, the paper 2,500"
    return hides and near and all(ruined), f"{size}; {numbers}; undefended test {undefended:.1f}"


def last_layer_leaves_the_gap(record: dict) -> Verdict:
    last, full = (record["ways"][way] for way in ("transfer_last", "transfer_full"))
    large = [n for n in last if int(n) >= 1000]
    if not large:
        raise KeyError("n of at least 1,000")
    names = [name for name in last[large[0]]["attacks"] if name != "gap"]
    above = {n: {f"{name} less gap": difference(last[n], name, "gap") for name in names} for n in large}
    near = all(abs(one.mean) <= 1 for results in above.values() for one in results.values())
    tests = {n: (test_accuracy(last[n]), test_accuracy(full[n])) for n in large}
    leaks = {n: (accuracy(last[n], "boundary"), accuracy(full[n], "boundary")) for n in large}
    holds = near and all(b > a for pairs in (tests, leaks) for a, b in pairs.values())
    numbers = (f"n = {n}: last layer, {join(above[n], '')}; test {tests[n][0]:.1f}, full {tests[n][1]:.1f}; "
               f"boundary {leaks[n][0]:.1f}, full {leaks[n][1]:.1f}" for n in large)  # fmt: skip
    return holds, "; ".join(numbers)


def strength_of(defense: str) -> float:
    """The strength of the first defense in a name, or its default."""
    name, _, strength = defenses.split_names(defense)[0].partition(":")
    if strength:
        return float(strength)
    default = defenses.DEFENSES[name].default
    if default is None:
        raise ValueError(f"defense {defense!r}: no strength, expected a defense that has one")
    return default


def only_l2_and_privacy(record: dict) -> Verdict:
    def is_strong(name: str) -> bool:
        return "dp_" in name or (name.partition(":")[0] == "l2" and strength_of(name) >= 1)

    strong = {name: strongest_attack(entry) for name, entry in record["defenses"].items() if is_strong(name)}
    if not any("dp_" in name for name in strong) or not any(name.startswith("l2:") for name in strong):
        raise KeyError("L2 of at least 1 and DP")
    rest = {name: accuracy(entry, "gap") for name, entry in record["defenses"].items()
            if name not in strong and not name.startswith("adversarial")}  # fmt: skip
    most = sum(value >= 60 for value in rest.values()) > len(rest) / 2
    numbers = f"strongest attack {join(strong)}; gap of the others {join(rest)}; {coverage(record)}"
    return all(value <= 58 for value in strong.values()) and most, numbers


def transfer_with_privacy_is_best(record: dict) -> Verdict:
    """At the lowest level of the table that any defense reaches. The paper's is 55 %; the strongest of several attacks
    on some hundred points is above that even where nothing leaks."""
    if not any("transfer" in name and "dp_" in name for name in record["defenses"]):
        raise KeyError("transfer with DP")
    level, best = next(((level, best) for level, best in record["best"].items() if best), (None, None))
    if best is None:
        return False, "no defense reaches a level of the table"
    numbers = f"at {level} % {best['defense']} with test accuracy {best['test_accuracy']:.1f}; {coverage(record)}"
    return "transfer" in best["defense"] and "dp_" in best["defense"], numbers


def coverage(record: dict) -> str:
    """How much of the figure a record holds."""
    return f"{sum(name in IN_FULL for name in record['defenses'])} of the {len(IN_FULL)} points of figures 5 and 6"


def without_transfer(record: dict) -> dict[str, dict]:
    """The defenses that start from random weights, and the undefended models."""
    rows = {name: entry for name, entry in record["defenses"].items() if "transfer" not in name and "dip" not in name}
    if not any(name.startswith("dropout") for name in rows) or not any(name.startswith("dp_") for name in rows):
        raise KeyError("dropout and DP without transfer")
    return rows


def dropout_is_best_without_transfer(record: dict) -> Verdict:
    rows = without_transfer(record)
    undefended = strongest_attack(rows["none"])
    tests = {name: test_accuracy(entry) for name, entry in rows.items() if strongest_attack(entry) <= undefended - 5}
    numbers = f"test accuracy {join(tests) or 'none of them'}; strongest attack undefended {undefended:.1f}"
    return max(tests, key=lambda name: tests[name], default="").startswith("dropout"), f"{numbers}; {coverage(record)}"


def useful_privacy_is_large(record: dict) -> Verdict:
    rows = without_transfer(record)
    least = test_accuracy(rows["none"]) - 5
    tests = {name: test_accuracy(entry) for name, entry in rows.items() if name.startswith("dp_")}
    useful = {name: test for name, test in tests.items() if test >= least}
    if not useful:
        raise KeyError(f"DP of at least {least:.1f} % test accuracy")
    # The paper's 100 is by its CLT accountant; the same noise and steps have 50 by ours (fig5_6_defenses.DIFFERS).
    return all(strength_of(name) > 50 for name in useful), f"with at least {least:.1f}: {join(useful)}"


def private_and_useful(record: dict) -> Verdict:
    entry = record["defenses"]["dp_sgd:8"]
    test, strongest = test_accuracy(entry), strongest_attack(entry)
    numbers = f"strongest attack {strongest:.1f}, test accuracy {test:.1f}"
    return strongest <= 58 and test >= 40, f"{numbers}; {entry['models']['privacy']['statement']}"


def dropout_exposes_outliers(record: dict) -> Verdict:
    """It holds where the intervals of all dropouts lie above 0 and those of DP and L2 contain 0, and fails where one
    lies wholly on the other side. Otherwise it is open, for more targets to decide; so it is where an interval of DP
    or L2 reaches up to the least improvement of a dropout: an interval that wide does not show that there is none."""
    points = {name: entry["over_points"] for name, entry in record["defenses"].items() if name != "none"}
    if None in points.values():
        raise KeyError("dropout, DP and L2 that call a point a member")
    rows = {name: Difference(*(100 * one["improvement"][key] for key in Difference._fields))
            for name, one in points.items()}  # fmt: skip
    dropouts = [row for name, row in rows.items() if name.startswith("dropout")]
    others = [row for name, row in rows.items() if name.startswith(("dp_", "l2"))]
    if not dropouts or not others:
        raise KeyError("dropout, DP and L2 that call a point a member")
    against = any(row.high <= 0 for row in dropouts) or any(not row.low <= 0 <= row.high for row in others)
    least = min(row.mean for row in dropouts)
    unsure = any(row.low <= 0 for row in dropouts) or any(row.high >= least for row in others)
    return False if against else None if unsure else True, join(rows, "")


def lower_bound_is_below_upper(record: dict) -> Verdict:
    bounds = {level["noise"]: (max(attack["epsilon"] for attack in level["attacks"].values()), float(level["epsilon"]))
              for level in record["levels"]}  # fmt: skip
    numbers = ", ".join(f"noise {noise:g}: {low:.2f} of {high:.2f}" for noise, (low, high) in bounds.items())
    holds = all(low <= high for low, high in bounds.values())
    return holds, f"{numbers}; the last of the latter {record['levels'][-1]['statement']}"
