"""Figure 2: what label-only attacks gain per query, and how the augmentation attacks depend on their strength.

Artefact: record.json and fig2.png in --out (default results/records/fig2-PRESET): attack accuracy by (a) rotation
          r = 0..15, (b) translation d = 0..5, (c) queries per example for noise, boundary, rays, combined, white-box.
Command:  python -m experiments.fig2_query_budget --preset=smoke     digits; minutes, it is expected
          python -m experiments.fig2_query_budget --preset=cpu --data_dir=DIR      CIFAR-10, n = 2,500, one trial
          python -m experiments.fig2_query_budget --preset=paper --data_dir=DIR    CIFAR-10, n = 2,500, three trials
Method:   a curve is read off the intermediate states of one run, not of a run each; at every number of queries its
          threshold (and sigma) is chosen anew on the shadow models, as an attacker with that budget would. Queries
          are the mean bill of the target per example, misclassified points included.
Expected: CIFAR-10: gap 75.0, rotation best at r = 4 (78.7), translation at d = 1 (79.0), boundary above noise from
          about 200 queries on, 84.7 at 2,409, white-box 85.0 (the paper's Fig 2; PAPER below).
Status:   not yet run, at any preset; the times above are expectations.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from absl import app, flags
from matplotlib import pyplot as plt

from experiments import common
from mi_jax import attacks, audit, data, measures, metrics, models, oracle, perturbations, plots, report, splits
from mi_jax.boundary import boundary_distance, checkpoints, schedule
from mi_jax.rays import rays
from mi_jax.types import Attack, Recipe

FLAGS = flags.FLAGS
ROTATIONS, TRANSLATIONS = tuple(range(16)), tuple(range(6))
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 1500, 2500)
CIFAR = {"dataset": "cifar10", "n_train": 2500, "num_shadows": 1, "budget": 2500}
PRESETS = {
    "smoke": {"dataset": "digits", "num_targets": 5, "num_shadows": 2, "num_points": 100, "budget": 1000},
    "cpu": CIFAR | {"num_targets": 1, "num_points": 300},
    "paper": CIFAR | {"num_targets": 3, "num_points": 2500},
}
_TURNED = (75.1, 76.5, 77.7, 78.1, 78.7, 78.6, 78.1, 77.1, 75.9, 75.6, 75.7, 75.4, 75.1, 75.4, 74.8, 75.1)
PAPER = {  # accuracy in per cent on CIFAR-10, read off the paper's vector graphics
    "rotation": dict(enumerate(_TURNED)),
    "translation": dict(enumerate((75.0, 79.0, 75.8, 75.0, 75.0, 75.0))),
    "noise": {1: 77.1, 2: 77.9, 5: 79.2, 10: 80.2, 20: 80.7, 50: 81.1, 100: 82.0, 200: 82.3, 500: 82.6, 2500: 83.3},
    "boundary": {53: 78.7, 87: 79.8, 174: 82.1, 319: 83.3, 609: 84.2, 1219: 84.3, 2409: 84.7},
    "combined": {12500: 88.2},
}


def courses(task: attacks.Task) -> dict[str, tuple[tuple[Attack, ...], np.ndarray]]:
    """name -> (candidates whose features are a course, queries at each of its checkpoints, the gate not included)."""
    counts = tuple(c for c in COUNTS if c <= task.budget)
    noise = tuple(
        a._replace(measure=measures.hit_rate(measures.gaussian, a.settings["sigma"], counts))
        for a in attacks.build("noise", task)
    )
    plan = schedule(task.budget, int(np.prod(task.example_shape)))
    boundary = attacks.build("boundary", task)[0]._replace(measure=boundary_distance(plan))
    combined = attacks.build("combined", task)[0]._replace(measure=boundary_distance(plan))
    few = np.array([c for c in COUNTS if c <= min(task.budget, 500)])
    ray = attacks.build("rays", task)[0]._replace(measure=rays(int(few[-1])))
    return {
        "noise": (noise, np.array(counts)),
        "boundary": ((boundary,), checkpoints(plan)),
        "rays": ((ray,), few),
        "combined": ((combined,), checkpoints(plan)),
    }


def curve(key, ask, dataset, points, trial, candidates, at: np.ndarray) -> list[dict]:
    """Accuracy, AUC and queries of one trial at every checkpoint of one run per model."""
    target, shadows = trial[0], trial[1:]
    asked = [[ask(attack, k) for k in shadows] for attack in candidates]
    y = np.concatenate([dataset.y[points[k].rows] for k in shadows])
    is_member = np.concatenate([points[k].is_member for k in shadows])
    answers, found = {}, []
    for queries in at:
        column = checkpoint(candidates[0], at, queries)
        seen = [[a._replace(features=a.features[:, :, column]) for a in of_one] for of_one in asked]
        chosen = audit.choose(key, candidates, seen, y, is_member)
        strength = str(chosen.attack.settings)
        if strength not in answers:
            answers[strength] = ask(chosen.attack, target)
        features = answers[strength].features
        scores, own = chosen.score(features[:, :, column], dataset.y[points[target].rows]), points[target].is_member
        right = (features[:, :, -1] > 0).sum(1)  # copies that were measured
        found.append({
            "queries": float(features.shape[1] + (right * queries).mean()),
            "balanced_accuracy": metrics.balanced_accuracy(scores, own, chosen.threshold),
            "auc": metrics.auc(scores, own),
        })  # fmt: skip
    return found


def checkpoint(attack: Attack, at: np.ndarray, queries: int) -> slice:
    """Where in an attack's course its state after so many queries stands: rays are read after every one."""
    column = queries - 1 if attack.name == "rays" else int(np.searchsorted(at, queries))
    return slice(column, column + 1)


def mean_curve(trials: list[list[dict]]) -> list[dict]:
    """The checkpoints of all trials, each number a mean over targets with its interval."""
    return [
        {key: metrics.mean_interval([entry[key] for entry in entries]) for key in entries[0]}
        for entries in zip(*trials, strict=True)
    ]


def measure(config: common.Config) -> dict:
    """The record: panels a and b by the audit, panel c by courses, gap and white-box as single points."""
    dataset = data.load(config.dataset, config.data_dir)
    config = common.resolve(config, dataset)
    model = models.build(config.model, dataset.x.shape[1:], dataset.num_classes)
    split = splits.disjoint(config.seed, len(dataset.x), config.n_train,
                            num_targets=config.num_targets, num_shadows=config.num_shadows)  # fmt: skip
    training_key, attack_key = jax.random.split(jax.random.key(config.seed))
    params, _ = common.train(training_key, model, Recipe(), dataset, split)
    target = common.oracles(model, params, dataset)
    task = attacks.Task(dataset.x.shape[1:], dataset.num_classes, dataset.binary, config.budget)
    single = {
        f"rotation {r}": attacks.of_perturbation("rotation", {str(r): perturbations.rotate(r)}) for r in ROTATIONS
    }
    fits = [d for d in TRANSLATIONS if d < min(task.example_shape[:2])]
    single |= {
        f"translation {d}": attacks.of_perturbation("translation", {str(d): perturbations.translate(d)}) for d in fits
    }
    single |= {name: attacks.build(name, task) for name in ("gap", "white_box", "confidence_threshold")}
    with common.bar("panels a, b", unit="conversation") as progress:
        points_record, _ = audit.audit(attack_key, dataset, split, target, single,
                                       num_points=config.num_points, progress=progress)  # fmt: skip
    points = [audit.points_of(split, k, config.num_points) for k in range(len(split.members))]
    curves = {}
    for name, (candidates, at) in courses(task).items():
        total = len(split.trials) * (len(candidates) * config.num_shadows + 1)
        with common.bar(f"panel c, {name}", unit="conversation") as progress:

            def ask(attack: Attack, k: int, count=iter(range(1, 10**9)), total=total, progress=progress):
                rows = points[k].rows
                own = jax.random.fold_in(attack_key, k)
                answers = oracle.query(target(k, "label"), attack, own, dataset.x[rows], dataset.y[rows], rows)
                progress(next(count), total, attack.name)
                return answers

            trials = [curve(attack_key, ask, dataset, points, trial, candidates, at) for trial in split.trials]
        curves[name] = mean_curve(trials)
    return {"config": dataclasses.asdict(config), "environment": common.environment(), "curves": curves,
            "models": points_record["models"], "points": points_record["attacks"]}  # fmt: skip


def draw(record: dict) -> plt.Figure:
    """The three panels; the paper's points where the data are the paper's."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained", width_ratios=(1, 1, 1.7))
    points, paper = record["points"], record["config"]["dataset"] == "cifar10"
    gap = 100 * points["gap"]["balanced_accuracy"]["mean"]
    for panel, name, unit in zip(axes, ("rotation", "translation"), ("r (degrees)", "d (pixels)"), strict=False):
        found = {int(key.split()[1]): entry for key, entry in points.items() if key.startswith(f"{name} ")}
        band(panel, list(found), [entry["balanced_accuracy"] for entry in found.values()], plots.COLOURS[1], name)
        panel.set(xlabel=unit, title=f"({'a' if name == 'rotation' else 'b'}) {name}")
        if paper:
            panel.plot(*zip(*PAPER[name].items(), strict=True), "x", color=plots.COLOURS[1], label="paper")
    for colour, (name, entries) in zip(plots.COLOURS[2:], record["curves"].items(), strict=False):
        queries = [entry["queries"]["mean"] for entry in entries]
        band(axes[2], queries, [entry["balanced_accuracy"] for entry in entries], colour, name)
        if paper and name in PAPER:
            axes[2].plot(*zip(*PAPER[name].items(), strict=True), "x", color=colour)
    white = points["white_box"]
    band(
        axes[2], [white["queries_per_example"]], [white["balanced_accuracy"]], plots.COLOURS[6], "white-box", marker="*"
    )
    axes[2].set(xscale="log", xlabel="queries per example (mean bill of the target)", title="(c) query budget")
    for panel in axes:
        panel.axhline(gap, color="0.5", lw=1, ls="--", label="gap")
        panel.set_ylabel("attack accuracy (%)")
        panel.legend(fontsize=8)
    return figure


def band(axes, x: list, entries: list[dict], colour: str, label: str, marker: str = ".") -> None:
    """Means with the interval over targets as a band."""
    mean, low, high = ([100 * (e[key] if e[key] is not None else e["mean"]) for e in entries]
                       for key in ("mean", "low", "high"))  # fmt: skip
    axes.plot(x, mean, marker=marker, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def body() -> None:
    """One run of the figure."""
    given = common.config_from_flags()
    if given.preset not in PRESETS:
        raise ValueError(f"unknown preset {given.preset!r}: known are {', '.join(PRESETS)}")
    said = {key: value for key, value in dataclasses.asdict(given).items() if FLAGS[key].present}
    config = common.Config(**PRESETS[given.preset] | {"data_dir": given.data_dir} | said | {"preset": "cpu"})
    folder = common.out_folder(FLAGS.out or f"results/records/fig2-{given.preset}", "")
    record = measure(config)
    record["config"]["preset"] = given.preset
    folder.mkdir(parents=True, exist_ok=True)
    report.put(folder / "record.json", (json.dumps(record, indent=1) + "\n").encode())
    report.put(folder / "fig2.png", plots.png(draw(record)))
    for name, entries in record["curves"].items():
        print(name, " ".join(f"{e['queries']['mean']:.0f}:{100 * e['balanced_accuracy']['mean']:.1f}" for e in entries))
    for name, entry in record["points"].items():
        print(f"{name:16} {entry['queries_per_example']:8.1f}  {report.percent(entry['balanced_accuracy'])}")


if __name__ == "__main__":
    common.define_flags()
    flags.DEFINE_string("out", None, "folder of the record; default: results/records/fig2-PRESET")
    app.run(lambda argv: sys.exit(common.main(body)(argv)), flags_parser=common.parse)
