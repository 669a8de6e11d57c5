"""A study: data, split, trained models and the attacks put to them, resumable. What every experiment is made of."""

import dataclasses
import functools
import itertools
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import attacks, audit, data, defenses, models, privacy, store, training
from mi_jax.data import splits
from mi_jax.models import heads
from mi_jax.privacy import per_example
from mi_jax.querying import driver, oracle, white_box
from mi_jax.querying.collect import Target, by_model, check_cap
from mi_jax.study.config import Config, resolve
from mi_jax.study.runs import bar, keeper, of_grid, of_weights, surroundings
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
    return prepare_grid(config, (config.defense,), recipe=recipe, out=out)[0]


def prepare_grid(config: Config, written: Sequence[str], *, recipe: Recipe = Recipe(), out: Path | None = None,
                 reference: bool = False, mixing: bool = False) -> list[Study]:  # fmt: skip
    """The studies of a config under each of the defenses `written`, on the same split.

    Strengths of one defense train as one ensemble, in one compiled program. Each study is, to the bit, the one that
    `prepare` makes of it alone with as many reference rows. With `reference` these are set aside although no defense
    asks for them, so that the split is that of one that does. With `mixing` a split whose studies cannot be `mixed` is
    refused at once.
    """
    started = time.perf_counter()
    for name in config.attacks or ():
        if name not in attacks.ATTACKS:
            raise ValueError(f"unknown attack {name!r}: known are {', '.join(attacks.ATTACKS)}")
    dataset = data.load(config.dataset, config.data_dir)
    config = resolve(config, dataset)
    model, found = built(config, dataset, written, recipe)
    task = attacks.Task(dataset.x.shape[1:], dataset.num_classes, dataset.binary, config.budget)
    example = jax.ShapeDtypeStruct(dataset.x.shape[1:], dataset.x.dtype)
    for attack in itertools.chain(*(attacks.build(name, task) for name in config.attacks)):
        check_cap(attack, config.cap)
        if attack.measure is not None:
            driver.price(attack, *task[:2])  # a perturbation of images refuses a table
    for defense in found:
        if defense.expand is not None:
            jax.eval_shape(defense.expand, jax.random.key(0), example)
    split = split_of(config, dataset, reference=reference or any(defense.opponent for defense in found))
    if mixing:
        check_apart(config, split)
    studies, training_key, key = {}, *jax.random.split(jax.random.key(config.seed))

    def of(i: int) -> Config:
        random = config.allow_random_target or found[i].random  # a defense that answers at random implies it
        return dataclasses.replace(config, defense=written[i], allow_random_target=random)

    for alike in grouped(found):
        folders = [out and place_of(out, written, i) for i in alike]
        told = [surroundings(of(i), dataset, recipe, found[i], split=splits.digest(split)) for i in alike]
        keeps = [keeper(*place) for place in zip(folders, told, strict=True)]
        own = [found[i] for i in alike]
        company = told if in_training(own[0]) else told[:1]  # what is trained is the first one's, whoever shares it
        trained = train(training_key, model, recipe, dataset, split, own, keep=of_grid(keeps[0], company))
        for i, (params, history), keep, environment in zip(alike, trained, keeps, told, strict=True):
            target = oracles(model, params, dataset, found[i])
            ended = {"epochs": [int(epochs) for epochs in np.asarray(history.epochs)]}
            ended |= privacy_of(found[i], history, model, params, dataset) | begun_from(found[i])
            if "privacy" in ended:
                print(
                    f"{written[i]}: {ended['privacy']['statement']}; {ended['privacy']['gradients']}", file=sys.stderr
                )
            seconds = (time.perf_counter() - started) / (len(studies) + 1)
            own_keep = of_weights(keep, params)
            studies[i] = Study(
                of(i), dataset, split, model, params, target, task, key, own_keep, environment, ended, seconds
            )
    return [studies[i] for i in range(len(found))]


def grouped(found: list[Defense]) -> list[list[int]]:
    """The numbers of those defenses whose training differs in strength alone, together, in the order of the first."""
    kinds: dict[tuple, list[int]] = {}
    for i, defense in enumerate(found):
        shape = jax.tree.structure(defense.strength) if in_training(defense) else None
        kind = defense._replace(name="", strength=(), output=None, random=False)
        kinds.setdefault((kind, shape), []).append(i)
    return list(kinds.values())


def in_training(defense: Defense) -> bool:
    """Does the strength of a defense matter before its models are asked?"""
    places = ("begin", "frozen", "model", "penalty", "opponent", "mechanism")
    return any(getattr(defense, place) is not None for place in places)


def built(config: Config, dataset: Dataset, written: Sequence[str], recipe: Recipe = Recipe()) -> tuple[Model, list]:
    """The model of a resolved config and each of the defenses `written`. ValueError where one cannot be."""
    model = models.build(config.model, dataset.x.shape[1:], dataset.num_classes)
    found = [defenses.build(text, defense_task(config, dataset, model, recipe)) for text in written]
    if config.checkpoint is not None and not any(map(begins_elsewhere, found)):
        said = f"checkpoint={config.checkpoint}: expected none"
        raise ValueError(f"{said}, {' and '.join(written)} begins from no network")
    return model, found


def begins_elsewhere(defense: Defense) -> bool:
    """Does training begin from a network trained on other data?"""
    return defense.begin is not None or defense.frozen is not None


def folder_of(defense: str) -> str:
    """A defense as the name of a folder."""
    return defense.replace(":", "-").replace("+", "_")


def place_of(out: Path, written: Sequence[str], i: int) -> Path:
    """Where the parts of one of these defenses are kept: in a folder of its own if it is not the only one."""
    return out / folder_of(written[i]) if len(written) > 1 else out


def places(out: Path, studies: list[Study]) -> dict[Path, dict]:
    """The folder of each study of a grid -> what `records.clear` needs to know to remove its parts."""
    written = [one.config.defense for one in studies]
    return {place_of(out, written, i): {"environment": one.environment} for i, one in enumerate(studies)}


def split_of(config: Config, dataset: Dataset, *, reference: bool) -> Split:
    """Who is trained on what; with `reference` rows, as many as members or as the pool has left."""
    rows, n = len(dataset.x), config.n_train
    left = rows // 2 - 2 * n if config.split == "disjoint" else (rows - 2 * n) // (config.num_shadows + 1)
    counts = {"num_targets": config.num_targets, "num_shadows": config.num_shadows}
    num_reference = max(1, min(n, left)) if reference else 0
    return splits.SPLITS[config.split](config.seed, rows, n, num_reference=num_reference, **counts)


def mixed(defended: Study, plain: Study) -> Study:
    """The targets of one study and the shadow models of another: an attacker who does not know of the defense."""
    check_apart(defended.config, defended.split)
    targets = set(defended.split.trials[:, 0].tolist())

    def side(k: int) -> Study:
        return defended if k in targets else plain

    keep = by_model(lambda k: side(k).keep)
    return defended._replace(target=lambda k, access: side(k).target(k, access), keep=keep)


def check_apart(config: Config, split: Split) -> None:
    """ValueError where a target is also a shadow model, which cannot be defended and undefended at once."""
    if set(split.trials[:, 0].tolist()) & set(split.trials[:, 1:].ravel().tolist()):
        said = f"split={config.split}: a target is another trial's shadow model"
        raise ValueError(f"{said}, expected none where shadow models are to be undefended")


def defense_task(config: Config, dataset: Dataset, model: Model, recipe: Recipe) -> defenses.Task:
    """What a defense may know of a study's training."""
    shape, classes = dataset.x.shape[1:], dataset.num_classes
    private = {"clip": config.clip, "delta": config.delta, "epochs": config.private_epochs, "rate": config.private_rate}
    known = {"binary": dataset.binary, "recipe": recipe, "dataset": dataset.name, "checkpoint": config.checkpoint}
    return defenses.Task(config.n_train, model, shape, classes, **known, **private)


def privacy_of(
    defense: Defense, history: training.History, model: Model, params: Params, dataset: Dataset
) -> dict[str, dict]:
    """What a record says of a private training: epsilon with all it depends on, how gradients were clipped, and how
    many examples were dropped."""
    if defense.mechanism is None:
        return {}
    mechanism, one, x = defenses.mechanism_of(defense), jax.tree.map(lambda leaf: leaf[0], params), dataset.x[:1]
    if defense.frozen is None:
        slow = per_example.obstacle(model, one, x)
    else:
        head = heads.head_of(model, x.shape[1:])
        slow = per_example.obstacle(head, one[heads.last_layer(model, x.shape[1:])], heads.penultimate(model, one, x))
    way = "clipped by one batched backward pass" if slow is None else f"clipped one example at a time: {slow}"
    told = {"epsilon": privacy.epsilon(mechanism), "delta": mechanism.delta, "statement": privacy.statement(mechanism)}
    dropped = [int(count) for count in np.asarray(history.dropped)]
    return {"privacy": told | {"gradients": f"gradients {way}", "dropped": dropped}}


def begun_from(defense: Defense) -> dict[str, str]:
    """What a record says of the network that training began from: a checksum of its parameters.

    They are the arrays of a defense's strength; scalars are strengths of what it is joined with.
    """
    if not begins_elsewhere(defense):
        return {}
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(defense.strength))
    told = functools.reduce(lambda crc, leaf: zlib.crc32(leaf.tobytes(), crc), (a for a in leaves if a.ndim), 0)
    return {"begun_from": f"{told:08x}"}


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
    record |= {"config": dataclasses.asdict(study.config), "environment": study.environment, "seconds": seconds}
    return record, scores


def train(
    key: jax.Array,
    model: Model,
    recipe: Recipe,
    dataset: Dataset,
    split: Split,
    alike: list[Defense],
    *,
    keep: store.Keep = store.keep_nothing,
) -> list[tuple[Params, training.History]]:
    """For each of these defenses, alike but for their strength, parameters [K ...] and History, under a bar."""
    strengths, differ = None, len(alike) > 1 and in_training(alike[0])
    if differ:
        strengths = jax.tree.map(lambda *leaves: np.stack(leaves), *(defense.strength for defense in alike))
    title = f"training, {alike[0].name}{f' and {len(alike) - 1} more' if len(alike) > 1 else ''}"
    with bar(title, unit="model") as progress:
        trained = training.train_ensemble(
            key,
            model,
            recipe,
            dataset.x,
            dataset.y,
            split.members,
            defense=alike[0],
            strengths=strengths,
            reference=split.reference,
            keep=keep,
            progress=lambda done, total, epoch: progress(done, total, f"epoch {epoch}"),
        )
    if not differ:
        return [trained] * len(alike)
    return [jax.tree.map(lambda leaf, g=g: leaf[g], trained) for g in range(len(alike))]


def oracles(model: Model, params: Params, dataset: Dataset, defense: Defense = Defense()) -> Target:
    """(k, access) -> model k of the ensemble as an attack may see it under a defense."""

    def target(k: int, access: str) -> oracle.Oracle | white_box.Glass:
        own = jax.tree.map(lambda p: p[k], params)
        if access == "gradient":
            return white_box.Glass(model.apply, own)
        return oracle.of_model(model, own, dataset.num_classes, access=access, defense=defense)

    return target
