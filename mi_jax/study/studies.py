"""A study: data, split, trained models and attacks on them, resumable. Every experiment starts from one."""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from mi_jax import attacks, audit, data, store, testing
from mi_jax.data import splits
from mi_jax.data.groups import groups_of
from mi_jax.querying import sizes
from mi_jax.querying.collect import Target, cache_by_model, check_cap
from mi_jax.study import ensembles, plugins, runs, transfer
from mi_jax.study.config import Config, Resolved, audited_attacks, check_plan, resolve
from mi_jax.types import Attack, Dataset, Defense, Model, Params, PerExample, Recipe, Split


class Study(NamedTuple):
    """Trained models, and everything that attacks on them need."""

    config: Resolved
    dataset: Dataset
    split: Split
    model: Model
    params: Params  # [K ...]
    target: Target
    context: attacks.AttackContext
    key: jax.Array  # of all attacks
    cache: store.Cache
    environment: dict
    trained: dict  # `ensembles.training_record`
    seconds: float  # of preparation


class _Setup(NamedTuple):
    """What all studies of a grid share, after all checks."""

    config: Resolved
    dataset: Dataset
    split: Split
    model: Model
    recipe: Recipe
    names: tuple[str, ...]  # of the defenses
    defenses: list[Defense]
    context: attacks.AttackContext


def prepare(config: Config, *, recipe: Recipe = Recipe(), out: Path | None = None) -> Study:
    """The study of a config: data, split and trained models.

    Every name is looked up, and every attack is traced on an example, before the first model is trained. Trained
    models and answers are cached in `out`, so that an interrupted run resumes.
    """
    return prepare_grid(config, (config.defense,), recipe=recipe, out=out)[0]


def prepare_grid(config: Config, names: Sequence[str], *, recipe: Recipe = Recipe(), out: Path | None = None,
                 reference: bool = False, separate_targets: bool = False) -> list[Study]:  # fmt: skip
    """The studies of a config under each of the defenses `names`, on the same split.

    Strengths of one defense train as one ensemble, in one compiled program. Each study is the same to the bit as that
    of `prepare` with as many reference rows. With `reference`, reference rows are set aside even if no defense needs
    them, for the same split as with a defense that does. With `separate_targets`, a split whose targets are also
    shadow models is refused at once, since `non_adaptive` cannot use it.
    """
    started = time.perf_counter()
    if out is not None and not isinstance(recipe.optimizer, str):
        expected = f"expected the name of one in steps.OPTIMIZERS, by which out={out} finds the models again"
        raise ValueError(f"recipe: optimizer of type {type(recipe.optimizer).__qualname__}, {expected}")
    setup = _set_up(config, tuple(names), recipe, reference=reference)
    if separate_targets:
        check_separate_targets(setup.config, setup.split)
    studies = {}
    for group in ensembles.group_by_training(setup.defenses):
        for i, study in zip(group, _train_group(setup, group, out), strict=True):
            studies[i] = study._replace(seconds=(time.perf_counter() - started) / (len(studies) + 1))
    return [studies[i] for i in range(len(names))]


def _set_up(config: Config, names: tuple[str, ...], recipe: Recipe, *, reference: bool) -> _Setup:
    plugins.load_plugins(config.plugin)
    audited_attacks(config.attacks or ())  # checks the names
    dataset = data.load(config.dataset, config.data_dir)
    resolved = resolve(config, dataset)
    if config.group is not None:
        groups_of(dataset, config.group)  # checks it
    model, defenses = ensembles.build_defenses(resolved, dataset, names, recipe)
    reference = reference or any(defense.adversary for defense in defenses)
    split = draw_split(resolved, dataset, reference=reference)
    context = attacks.context_of(dataset, resolved.budget, _shadow_rows(split))
    audited = dataclasses.replace(resolved, attacks=audited_attacks(resolved.attacks))
    _check_traced(audited, context, defenses)
    _check_lists_exposed(audited, context)
    _check_added_perturbations(audited, context, dataset)
    check_plan(audited, dataset, split, context)
    if transfer.NAME in resolved.attacks:
        transfer.check_transfer(resolved, dataset, split)
    return _Setup(resolved, dataset, split, model, recipe, names, defenses, context)


def _shadow_rows(split: Split) -> np.ndarray:
    """The rows of the shadow models: what the attacker of a study has."""
    shadows = np.unique(split.trials[:, 1:])
    return np.unique(np.concatenate([split.members[shadows], split.nonmembers[shadows]]))


def _check_traced(config: Resolved, context: attacks.AttackContext, defenses: list[Defense]) -> None:
    """Traces every attack and augmentation on the shape of an example; each raises ValueError for a wrong shape."""
    for attack in itertools.chain(*(attacks.build(name, context) for name in config.attacks)):
        asked = attack.statistic if isinstance(attack, PerExample) else attack
        if isinstance(attack, PerExample):
            judges = f"attack {attack.name} judges every point by shadow models trained with and without it"
            if config.split != "balanced":
                raise ValueError(f"split={config.split}: expected balanced, because {judges}")
            if config.num_shadows < 5:
                raise ValueError(f"num_shadows={config.num_shadows}: expected at least 5, because {judges}")
        if asked is not None:
            check_cap(asked, config.cap)
            if asked.measure is not None:
                sizes.max_queries(asked, context.example_shape, context.num_classes)
    example = jax.ShapeDtypeStruct(context.example_shape, np.float32)
    for defense in defenses:
        if defense.augmentation is not None:
            jax.eval_shape(defense.augmentation, jax.random.key(0), example)


def _check_lists_exposed(config: Resolved, context: attacks.AttackContext) -> None:
    """Raises ValueError for a group where no attack makes the list of exposed records that it divides."""
    made = itertools.chain(*(attacks.build(name, context) for name in config.attacks))
    if config.group is not None and not any(isinstance(one, PerExample) and one.access == "label" for one in made):
        expected = "expected an attack on labels that judges every point, as chosen:5, whose exposed records it divides"
        raise ValueError(f"group={config.group}: {expected}")


def _check_added_perturbations(config: Resolved, context: attacks.AttackContext, dataset: Dataset) -> None:
    """Calls every perturbation that is not of this package on a few rows; ValueError for what is no perturbation."""
    for attack in itertools.chain(*(attacks.build(name, context) for name in config.attacks)):
        neighbours = getattr(attack, "neighbours", None)
        if neighbours is not None and not f"{getattr(neighbours, '__module__', '')}".startswith("mi_jax."):
            name = f"perturbation {attack.settings.get('perturbation', f'of {attack.name}')}"
            testing.check_neighbours(name, neighbours, dataset.x[:4])


def _train_group(setup: _Setup, group: list[int], out: Path | None) -> list[Study]:
    """The studies of defenses that train as one ensemble."""
    grid = [setup.defenses[i] for i in group]
    configs = [_defended_config(setup, i) for i in group]
    environments = [_environment(setup, i) for i in group]
    caches = [
        runs.open_cache(out and study_folder(out, setup.names, i), environment)
        for i, environment in zip(group, environments, strict=True)
    ]
    # If no strength changes training, all defenses share the models of the first.
    shared = environments if ensembles.strength_changes_training(grid[0]) else environments[:1]
    training_key, key = jax.random.split(jax.random.key(setup.config.seed))
    cache = runs.grid_cache(caches[0], shared)
    trained = ensembles.train_grid(
        training_key, setup.model, setup.recipe, setup.dataset, setup.split, grid, cache=cache
    )
    studies = []
    for config, defense, environment, cache, (params, history) in zip(
        configs, grid, environments, caches, trained, strict=True
    ):
        target = ensembles.target_oracles(setup.model, params, setup.dataset, defense)
        record = ensembles.training_record(defense, history, setup.model, params, setup.dataset)
        if "privacy" in record:
            print(f"{config.defense}: {record['privacy']['statement']}; {record['privacy']['gradients']}",
                  file=sys.stderr)  # fmt: skip
        studies.append(Study(config, setup.dataset, setup.split, setup.model, params, target, setup.context, key,
                             cache, environment, record, 0.0))  # fmt: skip
    return studies


def _environment(setup: _Setup, i: int) -> dict:
    """The environment of a run with defense i; its digest covers everything that the models depend on."""
    split = splits.split_digest(setup.split)
    return runs.run_environment(_defended_config(setup, i), setup.dataset, setup.recipe, setup.defenses[i], split=split)


def _defended_config(setup: _Setup, i: int) -> Resolved:
    """The config under defense i; a defense with random answers implies allow_random_target."""
    random = setup.config.allow_random_target or setup.defenses[i].random
    return dataclasses.replace(setup.config, defense=setup.names[i], allow_random_target=random)


def defense_folder(name: str) -> str:
    """The folder name of a defense."""
    return name.replace(":", "-").replace("+", "_")


def study_folder(out: Path, names: Sequence[str], i: int) -> Path:
    """The folder of the cached results of defense i: a folder in `out`, or `out` itself if it is the only defense."""
    return out / defense_folder(names[i]) if len(names) > 1 else out


def draw_split(config: Resolved, dataset: Dataset, *, reference: bool) -> Split:
    """The split of a config; with `reference`, as many reference rows as members or as the pool has left."""
    rows, n = len(dataset.x), config.n_train
    left = rows // 2 - 2 * n if config.split == "disjoint" else (rows - 2 * n) // (config.num_shadows + 1)
    counts = {"num_targets": config.num_targets, "num_shadows": config.num_shadows}
    if config.split == "balanced" and any(name in attacks.NEED_SURROGATES for name in config.attacks):
        counts["num_surrogates"] = attacks.SURROGATES
    num_reference = max(1, min(n, left)) if reference else 0
    return splits.SPLITS[config.split](config.seed, rows, n, num_reference=num_reference, **counts)


def non_adaptive(defended: Study, plain: Study) -> Study:
    """The study of an attacker who does not know of the defense: defended targets, undefended shadow models."""
    check_separate_targets(defended.config, defended.split)
    targets = set(defended.split.trials[:, 0].tolist())

    def study_with(k: int) -> Study:
        return defended if k in targets else plain

    answers = cache_by_model(lambda k: study_with(k).cache)

    def cache(name: str, compute: Callable[[], store.Entry]) -> store.Entry:
        # Surrogates of several models train together, on labels of targets among others.
        return (defended.cache if name.startswith(f"{transfer.NAME}-") else answers)(name, compute)

    return defended._replace(target=lambda k, access: study_with(k).target(k, access), cache=cache)


def check_separate_targets(config: Config, split: Split) -> None:
    """Raises ValueError where a target is also a shadow model, which cannot be both defended and undefended."""
    if set(split.trials[:, 0].tolist()) & set(split.trials[:, 1:].ravel().tolist()):
        shared = f"split={config.split}: a target is another trial's shadow model"
        raise ValueError(f"{shared}, expected separate models for undefended shadow models")


def attack(
    study: Study,
    candidates: dict[str, tuple[Attack, ...]],
    *,
    title: str = "attacking",
    num_points: int | None = None,
    num_trials: int | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The result of `audit.audit` on a study, on all or the first of its points and trials; shows a progress bar."""
    config = study.config
    with runs.ProgressBar(title, unit="query") as progress:
        return audit.audit(
            study.key,
            study.dataset,
            study.split._replace(trials=study.split.trials[:num_trials]),
            study.target,
            candidates,
            num_points=min(num_points or config.num_points, config.num_points),
            cap=config.cap,
            tuning_shadows=config.tuning_shadows,
            groups=None if config.group is None else groups_of(study.dataset, config.group),
            allow_random_target=config.allow_random_target,
            cache=study.cache,
            progress=progress,
        )


def identify(config: Config, *, recipe: Recipe = Recipe()) -> tuple[Resolved, str]:
    """(the resolved config, the `run_digest`) of what `run` would record, after all checks; nothing is trained."""
    setup = _set_up(config, (config.defense,), recipe, reference=False)
    return _defended_config(setup, 0), _environment(setup, 0)["run_digest"]


def run(config: Config, *, recipe: Recipe = Recipe(), out: Path | None = None) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of the attacks of a config, as documented in `report.py`."""
    started, study = time.perf_counter(), prepare(config, recipe=recipe, out=out)
    names = study.config.attacks
    record, scores = attack(study, {name: attacks.build(name, study.context) for name in audited_attacks(names)})
    if transfer.NAME in names:
        record, scores = transfer.add_transfer(study, recipe, record, scores)
        record["attacks"] = {name: record["attacks"][name] for name in names}
    seconds = {"training": round(study.seconds, 2), **record.pop("seconds")}
    seconds["total"] = round(time.perf_counter() - started, 2)
    record["models"] |= study.trained
    record |= {"config": dataclasses.asdict(study.config), "environment": study.environment, "seconds": seconds}
    return record, scores
