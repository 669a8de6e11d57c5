"""Which defenses hide the exposed records, and which only lower the mean: every defense against calibrated attacks.

Artefact: record.json and exposed.png in --out/DATASET (default results/records/exposed_defenses-PRESET): for each
          defense of figures 5 and 6 its test accuracy, the mean accuracy of gap and of 25 chosen queries, their TPR at
          1 % false positives, and how many members are named at a false discovery rate of 10 %.
Command:  python -m experiments.exposed_defenses --only=digits
          python -m experiments.exposed_defenses --only=location30
          --preset=smoke shows in seconds that it runs; --defenses=none,l2:1 measures some of them. What the record in
          --out holds already is left as it is, so that a stopped run resumes.
Settings: one balanced ensemble of 32 models for each defense, 8 of them targets; shadow models are trained with the
          defense. 200 members and as many non-members of each target on digits, 400 on Location.
"""

import itertools
import json

from absl import flags
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import fig5_6_defenses, records
from mi_jax import attacks, study
from mi_jax.evaluation import exposed, plots, report
from mi_jax.study.config import Config

ATTACKS = ("gap", "chosen:5", "chosen:25", "lira")
NAMED_BY = "chosen:25"
SHARED = {"split": "balanced", "num_shadows": 31, "num_targets": 8, "budget": 25, "attacks": ATTACKS}
ANSWERS = ("none", "memguard", "top_k", "rounding", "ldl", "ldl_fresh")  # defenses that leave training as it is
PRESETS = {
    "smoke": {"digits": ({"n_train": 40, "num_shadows": 7, "num_targets": 2}, ("none", "l2:1"))},
    "cpu": {
        "digits": ({"n_train": 400, "num_points": 200}, fig5_6_defenses.DIGITS),
        "location30": ({"n_train": 1200, "num_points": 400}, fig5_6_defenses.LOCATION),
    },
}
DIFFERS = ("not in the paper, whose attacks have one threshold for all points",)


def main() -> None:
    """Measures what is missing in the record of each data set, and draws it."""
    presets, given, folder = common.parse_preset(PRESETS, "exposed_defenses", no_defense="--defenses names them")
    for name in common.select_datasets(presets):
        changes, grid = presets[name]
        chosen = flags.FLAGS.defenses or grid
        config, out = Config(**{"dataset": name} | SHARED | changes | given), folder / name
        file = out / "record.json"
        record = json.loads(file.read_text()) if file.exists() else {"config": {"dataset": name}, "defenses": {}}
        missing = [defense for defense in chosen if defense not in record["defenses"]]
        for _, group in itertools.groupby(sorted(missing, key=trained_with), key=trained_with):
            for prepared in study.prepare_grid(config, tuple(group)):
                record["defenses"][prepared.config.defense] = measure(prepared)
                records.write(out, record, differs=DIFFERS, exposed=draw)
        print(table(record))


def trained_with(defense: str) -> tuple[bool, str]:
    """A key for defenses that train together: those that change answers alone, first, or strengths of one defense."""
    kind = defense.partition(":")[0]
    return (kind not in ANSWERS, "" if kind in ANSWERS else defense if "+" in defense else kind)


def measure(prepared: study.Study) -> dict:
    """The entry of one defense."""
    candidates = {name: attacks.build(name, prepared.context) for name in ATTACKS}
    record, scores = study.attack(prepared, candidates, title=prepared.config.defense)
    rows = exposed.exposed_records(record, scores, NAMED_BY)
    kept = ("balanced_accuracy", "auc", "tpr_at_fpr", "queries_per_example")
    return {
        "models": record["models"] | prepared.trained,
        "attacks": {name: {key: entry[key] for key in kept} for name, entry in record["attacks"].items()},
        "named": exposed.count_named(rows),
        "environment": prepared.environment,
    }


def draw(record: dict) -> Figure:
    """Members named at 1 % false positives against the mean accuracy of the gap attack, a point for each defense."""
    figure, axes = plots.subplots(1, 2, figsize=(9.4, 4.2), sharey=True)
    for axis, (name, title) in zip(axes, (("gap", "gap"), (NAMED_BY, "25 chosen queries")), strict=True):
        for defense, entry in record["defenses"].items():
            rate = entry["attacks"][NAMED_BY]["tpr_at_fpr"]["0.01"]
            x, y = 100 * entry["attacks"][name]["balanced_accuracy"]["mean"], 100 * rate["mean"] if rate else 0
            axis.plot(x, y, "o", color="#D55E00" if defense == "none" else "#0072B2", ms=4)
            axis.annotate(defense, (x, y), fontsize=5, xytext=(2, 2), textcoords="offset points")
        axis.axhline(1, color="0.6", lw=1)
        axis.set(xlabel=f"balanced accuracy of {title}, %")
    axes[0].set_ylabel("members named at 1 % false positives\nby 25 chosen queries, %")
    return figure


def table(record: dict) -> str:
    """The defenses as plain text."""
    rows = [["defense", "test", "gap", "chosen:25", "TPR at 1 %", "LiRA", "named at FDR 10 %"]]
    for defense, entry in record["defenses"].items():
        found, named = entry["attacks"], entry["named"]
        rows.append([defense, report.percent(entry["models"]["test_accuracy"]),
                     *(report.percent(found[name]["balanced_accuracy"]) for name in ("gap", NAMED_BY)),
                     *(report.percent(found[name]["tpr_at_fpr"]["0.01"]) for name in (NAMED_BY, "lira")),
                     "{named_members} of {members}, {named_nonmembers} wrongly".format(**named)])  # fmt: skip
    return report.aligned(rows)


if __name__ == "__main__":
    common.run(main, only="data sets to run; default: all of the preset",
               defenses="defenses to measure; default: all of the preset")  # fmt: skip
