"""What labels alone prove about the epsilon of DP-SGD: a lower bound from attacks beside the accountant's upper bound.

Artefact: record.json and dp_audit.png in --out (default results/records/dp_audit-PRESET).
Command:  python -m experiments.dp_audit --preset=smoke     digits, a few models; seconds
          python -m experiments.dp_audit --preset=cpu       digits, 1,000 models a noise level
          python -m experiments.dp_audit --preset=paper     the same with 10,000: an accelerator
Settings: half of the models are trained with a canary, a checkerboard under a label drawn by --seed, the other half
          without it and with nothing in its place: a row that is not finite is dropped from every sum, where it
          contributes exactly 0. A digit under a wrong label proves nothing: similar digits keep it from being learned
          (200 models without noise: labels alone reveal it with AUC 0.5, the checkerboard with 0.99 to 1).
          An attack scores the canary from labels alone; the bound is that of `mi_jax/evaluation/epsilon.py` at 95 %
          confidence. One test is made for each attack and noise level, so one in twenty of these bounds may be too
          high.
Expected: the lower bound below the upper one, and both falling with the noise; K models prove at most log(K / 15)
          or so.
Hardware: cpu preset: two cores, 16 minutes beside other runs.
Status:   run: rays prove 4.1 without noise (all that 1,000 models can), 1.5 at noise 1 (proved: 14.5), 0.2 at 2 (5.0)
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments import common
from experiments.paper import records
from mi_jax import cli, data, defenses, models, perturbations, privacy, training
from mi_jax.attacks import measures, one_threshold
from mi_jax.attacks.rays import ray_distance
from mi_jax.evaluation import epsilon, metrics, plots
from mi_jax.querying import driver, oracle
from mi_jax.study import runs
from mi_jax.study.config import Config
from mi_jax.types import Attack, Dataset, Model, Params, Recipe

DIFFERS = ("the paper has no such experiment",)
DELTA, LEVEL = 1e-5, 0.95
RECIPE = Recipe(batch_size=20, learning_rate=0.5, max_epochs=20, patience=None, optimizer="sgd")
PRESETS = {  # models a noise level, noise multipliers
    "smoke": (16, (0.0, 1.0)),
    "cpu": (1000, (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0)),
    "paper": (10000, (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0)),
}
N, AT_ONCE = 100, 50  # rows, the canary among them; models trained side by side


def label_only_attacks() -> dict[str, Attack]:
    """Label-only scores of one point; the label is that of the canary.

    A noise of 0.6 revealed the canary best on 200 other models, with AUC 0.91 at a noise multiplier of 1 (0.15: 0.85,
    0.3: 0.91, 1.2: 0.89; the label alone 0.76, the logarithm of its probability, which no attack here sees, 0.93).
    """
    noise = measures.hit_rate(perturbations.gaussian_noise, 0.6, 100)._replace(gated=False)
    scores = {"label": measures.label_is_correct(), "noise": noise, "rays": ray_distance(100)}
    alone, fit = perturbations.only_itself, one_threshold.last_feature
    return {name: Attack(name, "label", alone, measure, fit) for name, measure in scores.items()}


def add_canary(dataset: Dataset, num_models: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x, y of the pool, members [K N], is the canary a member [K]): the last rows are the canary and an empty one."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(dataset.x))[:N]
    x = np.concatenate([dataset.x[rows], np.full_like(dataset.x[:1], np.nan)])
    y = np.append(dataset.y[rows], 0)
    x[N - 1], y[N - 1] = np.indices(x.shape[1:]).sum(0) % 2, random.integers(dataset.num_classes)  # a checkerboard
    is_member = np.arange(num_models) % 2 == 0
    others = np.tile(np.arange(N - 1), (num_models, 1))
    return x, y, np.column_stack([others, np.where(is_member, N - 1, N)]), is_member


def measure(num_models: int, noises: tuple[float, ...], config: Config, folder: Path) -> dict:
    """The record: for each noise level the proved epsilon and the lower bound of every attack."""
    dataset = data.load(config.dataset, config.data_dir)
    if len(dataset.x) < N:
        raise ValueError(f"dataset={config.dataset}: {len(dataset.x)} rows, expected at least {N}")
    model = models.build(config.model or "mlp", dataset.x.shape[1:], dataset.num_classes)
    x, y, members, is_member = add_canary(dataset, num_models, config.seed)
    mechanism = defenses.mechanism_for(N, RECIPE, delta=DELTA)
    strengths = {"clip": np.full(len(noises), mechanism.clip, np.float32), "noise": np.asarray(noises, np.float32)}
    defense = defenses.private_training(mechanism, RECIPE)._replace(strength=strengths)
    environment = runs.run_environment(dataclasses.replace(config, budget=num_models), dataset, RECIPE, defense)
    digest = environment["run_digest"]
    if found := cli.kept(folder / "record.json", lambda record: record["environment"]["run_digest"] == digest):
        cli.say_finished(folder)
        print(*map(format_level, found["levels"]), sep="\n")
        return found
    training_key, attack_key = jax.random.split(jax.random.key(config.seed))
    with runs.ProgressBar("training", unit="model") as progress:
        params, history = training.train_ensemble(
            training_key, model, RECIPE, x, y, members, defense=defense, strengths=strengths,
            models_at_once=min(AT_ONCE, num_models), cache=runs.open_cache(folder, environment),
            progress=lambda done, total, epoch: progress(done, total, f"epoch {epoch}"),
        )  # fmt: skip
    levels = []
    for g, noise in enumerate(noises):
        level_params = jax.tree.map(lambda leaf, g=g: leaf[g], params)
        scores = score_models(attack_key, model, level_params, dataset.num_classes, x[N - 1 : N], y[N - 1 : N])
        proved = mechanism._replace(noise=noise)
        levels.append({"noise": noise, "epsilon": privacy.epsilon(proved), "statement": privacy.statement(proved),
                       "steps_without_the_missing_row": [int(c) for c in np.unique(history.dropped[g])][:3],
                       "attacks": {name: epsilon.lower_bound(one, is_member, DELTA, LEVEL)
                                   for name, one in scores.items()}})  # fmt: skip
        print(format_level(levels[-1]), flush=True)
    return {"config": dataclasses.asdict(config), "environment": environment, "models": num_models, "delta": DELTA,
            "level": LEVEL, "levels": levels}  # fmt: skip


def score_models(key: jax.Array, model: Model, params: Params, num_classes: int, x, y) -> dict[str, np.ndarray]:
    """Scores [K] of the canary under every model of an ensemble, for each attack."""
    count, attacks = len(jax.tree.leaves(params)[0]), label_only_attacks()
    scores = {name: np.empty(count) for name in attacks}
    with runs.ProgressBar("attacking", unit="model", total=count) as progress:
        for k in range(count):
            target = oracle.model_oracle(model, jax.tree.map(lambda leaf, k=k: leaf[k], params), num_classes)
            for name, attack in attacks.items():
                model_key = jax.random.fold_in(key, k)
                answers = driver.query(target, attack, model_key, x, y, np.zeros(1, int), points_at_once=1)
                scores[name][k] = answers.features[0, 0, -1]
            progress.add(1)
    return scores


def format_level(level: dict) -> str:
    """One line on a noise level."""
    bounds = (f"{name} {row['epsilon']:.2f} ({row['true']}/{row['members']} and {row['false']}/{row['nonmembers']})"
              for name, row in level["attacks"].items())  # fmt: skip
    return f"noise {level['noise']:g}: at most {level['statement']}; epsilon at least: {', '.join(bounds)}"


def draw(record: dict) -> Figure:
    """Both bounds over the noise multiplier."""
    figure, axes = plots.subplots(figsize=(7, 4.4), subplot_kw={"yscale": "symlog"})
    noises = [level["noise"] for level in record["levels"]]
    proved = [(level["noise"], float(level["epsilon"])) for level in record["levels"]]
    axes.plot(*zip(*(point for point in proved if np.isfinite(point[1])), strict=True), "k-", marker=".",
              label="proved: epsilon is at most")  # fmt: skip
    for colour, name in zip(plots.COLOURS, record["levels"][0]["attacks"], strict=False):
        values = [level["attacks"][name]["epsilon"] for level in record["levels"]]
        axes.plot(noises, values, marker="o", color=colour, label=f"{name}: epsilon is at least")
    each = max(1, record["models"] // 4)  # of the models that count, with the canary and without
    most = metrics.epsilon_lower_bound(each, each, 0, each, record["delta"], record["level"])
    axes.axhline(most, color="0.5", lw=1, ls=":", label=f"all that {record['models']} models could prove")
    samples = f"Poisson samples at rate {privacy.sampling_rate(defenses.mechanism_for(N, RECIPE)):g}"
    title = f"{record['config']['dataset']}, n = {N}: one row added or removed, delta {record['delta']:g}, {samples}"
    axes.set(xlabel="noise multiplier (0: no finite epsilon is proved)", ylabel="epsilon")
    axes.set_title(title, fontsize=10)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8)
    return figure


def body() -> None:
    """Every noise level of the preset."""
    (num_models, noises), given, folder = common.parse_preset(PRESETS, "dp_audit")
    unused = [name for name in given if name not in ("dataset", "data_dir", "model", "seed", "preset")]
    if unused:
        raise ValueError(f"{unused[0]}={given[unused[0]]}: expected nothing, dp_audit has settings of its own")
    settings: dict[str, Any] = {"preset": "cpu"} | given
    record = measure(num_models, noises, Config(**settings), folder)
    records.finish(folder, record, differs=DIFFERS, dp_audit=draw)


if __name__ == "__main__":
    common.run(body, keeps=True)
