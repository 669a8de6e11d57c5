"""Which attack names members with how few queries: TPR at low false positive rates against queries of the target.

Artefact: record.json and race.png in --out (default results/records/race-DATASET-PRESET): TPR at 1 and .1 % FPR of
          every attack at every budget, with intervals over targets, and pooled.
Command:  python -m experiments.race --dataset=digits
          python -m experiments.race --dataset=location30
          python -m experiments.race --dataset=cifar10
          python -m experiments.race --dataset=adult    and --dataset=mnist: data that nothing was tuned on
          --preset=smoke shows in seconds that it runs.
Settings: SETTINGS: one balanced ensemble each; all shadow models answer the whole pool, whose queries cost nothing.
          The queries that train the surrogate of the transfer attack have a column of their own; the figure shares
          them out among the points.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records
from mi_jax import study
from mi_jax.evaluation import metrics, plots, report
from mi_jax.evaluation.text import spoken
from mi_jax.study.config import Config

BUDGETS = (1, 2, 5, 10, 25, 50, 100, 250)
LINES = ("chosen", "chosen_crafted", "calibrated_noise")
OFFLINE = (1, 2, 5, 10, 25, 50)  # it puts no more
ATTACKS = (
    *("gap", "noise", "transfer", "calibrated_label", "lira", "lira_offline", "rmia"),
    *(f"{name}:{budget}" for name in LINES for budget in BUDGETS),
    *(f"chosen_offline:{budget}" for budget in OFFLINE),
    *("dhattack:5", "dhattack:25", "oslo", "calibrated_oslo", "yoqo", "yoqo_offline", "calibrated_yoqo"),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"n_train": 400, "model": "mlp"},
    "location30": {"n_train": 1200, "model": "mlp2"},
    "adult": {"n_train": 500, "model": "mlp2"},
    "mnist": {"n_train": 400, "model": "mlp"},
    "cifar10": {"n_train": 500, "num_points": 250, "model": "cnn", "num_shadows": 31, "num_targets": 16, "budget": 50},
}
SHARED: dict[str, Any] = {"split": "balanced", "num_shadows": 63, "num_targets": 16, "tuning_shadows": 4, "budget": 250}
SMOKE: dict[str, Any] = {"n_train": 40, "num_shadows": 7, "num_targets": 2, "budget": 20}
DIFFERS = ("not in the paper, whose attacks have one threshold for all points",)
RATES = {"0.01": "1 %", "0.001": "0.1 %"}
# One colour for one kind of attack: blue chosen on shadow models, green random copies, orange with probabilities, grey
# with one threshold, purple and brown those of others.
STYLES = {"gap": ("o", "0.4"), "noise": ("s", "0.4"), "transfer": ("v", "0.4"), "calibrated_label": ("D", "#009E73"),
          "calibrated_noise": (".", "#009E73"), "lira": ("*", "#D55E00"), "lira_offline": ("*", "#E69F00"),
          "rmia": ("P", "#D55E00"), "chosen": (".", "#0072B2"), "chosen_crafted": ("x", "#004c7a"),
          "chosen_offline": (".", "#56B4E9"), "dhattack": (".", "#CC79A7"), "oslo": ("^", "#8c564b"),
          "calibrated_oslo": (">", "#8c564b"), "yoqo": ("^", "#9467bd"), "yoqo_offline": ("<", "#9467bd"),
          "calibrated_yoqo": (">", "#9467bd")}  # fmt: skip


def main() -> None:
    """Runs the attacks and writes record and figure."""
    preset = flags.FLAGS.preset
    given = {f.name: getattr(flags.FLAGS, f.name) for f in dataclasses.fields(Config) if flags.FLAGS[f.name].present}
    name = flags.FLAGS.dataset
    settings: dict[str, Any] = (
        SHARED | SETTINGS.get(name, {}) | {"attacks": ATTACKS} | (SMOKE if preset == "smoke" else {})
    )
    attacks = {"attacks": tuple(given["attacks"])} if given.get("attacks") else {}
    if name == "cifar10" and not attacks:  # more questions than half of its pool are no choice
        attacks = {"attacks": tuple(one for one in ATTACKS if not one.endswith("0") or one.endswith((":10", ":50")))}
    values: dict[str, Any] = {"dataset": name} | settings | given | attacks
    config = Config(**values)
    folder = Path(flags.FLAGS.out or f"results/records/race-{name.replace(':', '-')}-{preset}")
    record, scores = study.run(config, out=folder)
    summary = summarise(record, scores)
    records.finish(folder, summary, differs=DIFFERS, race=draw)
    print(table(summary))


def summarise(record: dict, scores: dict[str, np.ndarray]) -> dict:
    """What the figure is drawn from: a row for each attack."""
    rows = [
        {
            "attack": name,
            "queries": entry["queries_per_example"],
            "surrogate_queries": surrogate_queries(record, name),
            "auc": entry["auc"],
            "tpr_at_fpr": entry["tpr_at_fpr"],
            "pooled": {fpr: pooled_tpr(scores, name, float(fpr)) for fpr in entry["tpr_at_fpr"]},
        }
        for name, entry in record["attacks"].items()
    ]
    kept = {key: record[key] for key in ("config", "environment", "split_digest", "models", "queries")}
    return kept | {"seconds_by_part": record["seconds"], "rows": rows}


def surrogate_queries(record: dict, name: str) -> int:
    """The queries of one target that train a surrogate: those of the transfer attack are all of this kind."""
    return (
        record["queries"]["by_attack"][name]["target"] // record["config"]["num_targets"] if name == "transfer" else 0
    )


def pooled_tpr(scores: dict[str, np.ndarray], name: str, fpr: float) -> float | None:
    """The TPR of all targets' points at one threshold over their pooled non-members; None: too few to resolve it."""
    flat, members = scores[f"attack/{name}/scores"].ravel(), scores["is_member"].ravel()
    found = metrics.tpr_at_fpr(flat[~np.isnan(flat)], members[~np.isnan(flat)], fpr)
    return found and found[0]


def draw(summary: dict) -> Figure:
    """TPR at 1 and .1 % FPR against queries of the target for one point, all on one scale."""
    figure, axes = plots.subplots(1, len(RATES), figsize=(8.4, 3.6))
    for axis, (fpr, title) in zip(axes, RATES.items(), strict=True):
        lines: dict[str, list[tuple]] = {}
        for row in summary["rows"]:
            family = row["attack"].partition(":")[0]
            rate = row["tpr_at_fpr"][fpr]
            mean, low, high = (rate["mean"], rate["low"], rate["high"]) if rate else (row["pooled"][fpr], None, None)
            if mean is not None:
                lines.setdefault(family, []).append((row["queries"], 100 * mean, low, high))
        for i, (family, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[0])
            x, y = [p[0] for p in points], [p[1] for p in points]
            marker, colour = STYLES.get(family, (".", plots.COLOURS[i % len(plots.COLOURS)]))
            axis.plot(x, y, marker=marker, color=colour, lw=1.4, label=spoken(family))
            if all(p[2] is not None for p in points):
                axis.fill_between(
                    x, [100 * p[2] for p in points], [100 * p[3] for p in points], color=colour, alpha=0.12
                )
        axis.set(xscale="log", xlabel="queries of the target for one point", title=f"at {title} false positives")
    axes[0].set_ylabel("members named, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def table(summary: dict) -> str:
    """The rows as plain text."""
    cells = [
        [
            "attack",
            "queries",
            "for a surrogate",
            "AUC",
            *(f"TPR at {title}" for title in RATES.values()),
            "pooled at .1 %",
        ]
    ]
    for row in summary["rows"]:
        pooled, trained = row["pooled"]["0.001"], row.get("surrogate_queries", 0)
        cells.append([row["attack"], "0.0" if trained else f"{row['queries']:.1f}", str(trained or ""),
                      f"{row['auc']['mean']:.3f}",
                      *(report.percent(row["tpr_at_fpr"][fpr]) for fpr in RATES),
                      "" if pooled is None else f"{100 * pooled:.1f} %"])  # fmt: skip
    return report.aligned(cells)


if __name__ == "__main__":
    common.run(main)
