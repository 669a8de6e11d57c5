"""A study: data, split, trained models and the attacks put to them, resumable. What every experiment is made of."""

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.common import Config, resolve
from mi_jax import attacks, audit, data, defenses, models, oracle, privacy, splits, store, training, white_box
from mi_jax.interview import Target
from mi_jax.types import Attack, Dataset, Defense, Model, Params, Recipe, Split


class Study(NamedTuple):
    """Trained models, and all that attacking them needs."""

    config: Config  # resolved
    dataset: Dataset
    split: Split
    model: Model
    params: Params  # [K ...]
    target: Target
    task: attacks.Task
    key: jax.Array  # of the attacks
    keep: store.Keep
    environment: dict
    trained: dict  # epochs of each model, and of a private training its `privacy`, for the record
    seconds: float  # that preparing took


def prepare(config: Config, *, recipe: Recipe = Recipe(), out: Path | None = None) -> Study:
    """Data, split and trained models of a config.

    Everything named in it is looked up, and every attack shown an example, before the first model is trained.
    Finished members and conversations are kept in `out`, where the same run finds them again.
    """
    started = time.perf_counter()
    for name in config.attacks or ():
        if name not in attacks.ATTACKS:
            raise ValueError(f"unknown attack {name!r}: known are {', '.join(attacks.ATTACKS)}")
    dataset = data.load(config.dataset, config.data_dir)
    config = resolve(config, dataset)
    model = models.build(config.model, dataset.x.shape[1:], dataset.num_classes)
    defense = defenses.build(config.defense, defense_task(config, dataset, model, recipe))
    task = attacks.Task(dataset.x.shape[1:], dataset.num_classes, dataset.binary, config.budget)
    example = jax.ShapeDtypeStruct(dataset.x.shape[1:], dataset.x.dtype)
    tried = [a.neighbours for a in itertools.chain(*(attacks.build(name, task) for name in config.attacks))]
    for neighbours in [*tried, *([defense.expand] if defense.expand else [])]:
        jax.eval_shape(neighbours, jax.random.key(0), example)  # a perturbation of images refuses a table
    num_reference = config.n_train if defense.opponent else 0
    trials = {"num_targets": config.num_targets, "num_shadows": config.num_shadows, "num_reference": num_reference}
    split = splits.SPLITS[config.split](config.seed, len(dataset.x), config.n_train, **trials)
    training_key, key = jax.random.split(jax.random.key(config.seed))
    environment = surroundings(config, dataset, recipe, defense)
    keep = keeper(out, environment)
    params, history = train(training_key, model, recipe, dataset, split, defense, keep=keep)
    target = oracles(model, params, dataset, defense)
    trained = {"epochs": [int(epochs) for epochs in np.asarray(history.epochs)]} | privacy_of(defense, history)
    seconds = time.perf_counter() - started
    return Study(config, dataset, split, model, params, target, task, key, keep, environment, trained, seconds)


def defense_task(config: Config, dataset: Dataset, model: Model, recipe: Recipe) -> defenses.Task:
    """What a defense may know of a study's training."""
    shape, classes = dataset.x.shape[1:], dataset.num_classes
    return defenses.Task(config.n_train, model, shape, classes, dataset.binary, recipe, config.checkpoint)


def privacy_of(defense: Defense, history: training.History) -> dict:
    """What a record says of a private training: epsilon with all it depends on, and what was dropped."""
    if defense.mechanism is None:
        return {}
    mechanism = defenses.mechanism_of(defense)
    told = {"epsilon": privacy.epsilon(mechanism), "delta": mechanism.delta, "statement": privacy.statement(mechanism)}
    return {"privacy": told | {"dropped": [int(count) for count in np.asarray(history.dropped)]}}


def attack(
    study: Study,
    chosen: dict[str, tuple[Attack, ...]],
    *,
    title: str = "attacking",
    num_points: int | None = None,
    num_trials: int | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """`audit.audit` of a study under a progress bar, on all of its points and trials or the first of them."""
    config = study.config
    with bar(title, unit="query") as progress:
        return audit.audit(
            study.key,
            study.dataset,
            study.split._replace(trials=study.split.trials[:num_trials]),
            study.target,
            chosen,
            num_points=min(num_points or config.num_points, config.num_points),
            cap=config.cap,
            allow_random_target=config.allow_random_target,
            keep=study.keep,
            progress=progress,
        )


def run(config: Config, *, recipe: Recipe = Recipe(), out: Path | None = None) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of a config's attacks, as `report.py` documents them."""
    started, study = time.perf_counter(), prepare(config, recipe=recipe, out=out)
    record, scores = attack(study, {name: attacks.build(name, study.task) for name in study.config.attacks})
    seconds = {"training": round(study.seconds, 2), **record.pop("seconds")}
    seconds["total"] = round(time.perf_counter() - started, 2)
    record["models"] |= study.trained
    record = {"config": dataclasses.asdict(study.config), "environment": study.environment, **record}
    return record | {"seconds": seconds}, scores


def surroundings(config: Config, dataset: Dataset, recipe: Recipe, defense: Defense = Defense()) -> dict:
    """The environment of a run, with a digest of all that its results depend on: settings, data, versions, code."""
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("attacks", "data_dir")
    }
    settings |= {"recipe": recipe, "pool": [zlib.crc32(np.ascontiguousarray(a)) for a in (dataset.x, dataset.y)]}
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength)]
    settings |= {"strength": [zlib.crc32(np.ascontiguousarray(leaf)) for leaf in leaves]}
    settings |= {name: value for name, value in environment().items() if name != "commit"}
    here = Path(__file__).parent
    return environment() | {"run_digest": store.digest(settings, [here, here.parent / "mi_jax"])}


def keeper(out: Path | None, environment: dict) -> store.Keep:
    """Keeps what is finished of a run in `out`, where the same run finds it again; how much it found is on record."""
    if out is None:
        return store.keep_nothing
    folder = parts(out, environment)
    environment["parts_found"] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if environment["parts_found"]:
        print(f"going on with the {environment['parts_found']} finished parts in {folder}", file=sys.stderr)
    return store.keep_in(folder)


def parts(out: Path, environment: dict) -> Path:
    """The folder in `out` of what is finished of a run: another one for other settings or another line of code."""
    return out / "parts" / environment["run_digest"]


def train(
    key: jax.Array,
    model: Model,
    recipe: Recipe,
    dataset: Dataset,
    split: Split,
    defense: Defense = Defense(),
    *,
    keep: store.Keep = store.keep_nothing,
) -> tuple[Params, training.History]:
    """Parameters [K ...] and History of every model of the split, under a progress bar."""
    with bar("training", unit="model") as progress:
        return training.train_ensemble(
            key,
            model,
            recipe,
            dataset.x,
            dataset.y,
            split.members,
            defense=defense,
            reference=split.reference,
            keep=keep,
            progress=lambda done, total, epoch: progress(done, total, f"epoch {epoch}"),
        )


def oracles(model: Model, params: Params, dataset: Dataset, defense: Defense = Defense()) -> Target:
    """(k, access) -> model k of the ensemble as an attack may see it under a defense."""

    def target(k: int, access: str) -> oracle.Oracle | white_box.Glass:
        own = jax.tree.map(lambda p: p[k], params)
        if access == "gradient":
            return white_box.Glass(model.apply, own)
        return oracle.of_model(model, own, dataset.num_classes, access=access, defense=defense)

    return target


class bar:
    """A tqdm bar with the time left, as a context; called with (done, total, what is being done)."""

    def __init__(self, title: str, unit: str, total: int | None = None):
        self.bar = tqdm(desc=title, unit=unit, unit_scale=unit == "query", total=total, dynamic_ncols=True)

    def __enter__(self) -> "bar":
        return self

    def __exit__(self, *_):
        self.bar.close()

    def __call__(self, done: int, total: int, what: str) -> None:
        self.bar.total = total
        self.bar.set_postfix_str(what, refresh=False)
        self.add(done - self.bar.n)

    def add(self, more: int) -> None:
        self.bar.update(more)


def environment() -> dict:
    """Versions, device and commit of this run."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the checkout this file stands in, with + where the tree differs; 'unknown' outside of one."""
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
