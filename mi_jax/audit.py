"""The main path on one page: check what comes in, run every attack on every trial (`trials`), record what came out.

Everything that is tuned (a strength, a network, a threshold) is tuned on the shadow models of the trial. The target is
queried once, by the tuned attack, and its scores are only reported.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mi_jax import environment, store
from mi_jax.data import check_dataset, describe, splits
from mi_jax.data.outliers import GAMMA, outliers
from mi_jax.evaluation import entries, exposed
from mi_jax.evaluation.page import SHOWN
from mi_jax.querying.accuracies import refuse_random_targets, target_accuracies
from mi_jax.querying.collect import AnswerLogs, Points, Target, select_points
from mi_jax.trials import LEAST, Plan, Trial, group_attacks, planned_queries, run_group
from mi_jax.types import Attack, Dataset, PerExample, Split


def audit(
    key: jax.Array,
    dataset: Dataset,
    split: Split,
    target: Target,
    attacks: dict[str, tuple[Attack, ...]],
    *,
    num_points: int | None = None,
    cap: int | None = None,
    tuning_shadows: int | None = None,
    groups: np.ndarray | None = None,
    allow_random_target: bool = False,
    cross_fit: bool = False,
    cache: store.Cache = store.no_cache,
    answers: Path | str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The record of an audit and its scores: every attack on every trial of `split`.

    `target(k, access)` is model k as an oracle (as a `WhiteBox` for "gradient"). `attacks` maps names to candidates
    (`attacks.build`). `num_points` is the largest number of members, and of non-members, attacked of each model (None:
    all). `tuning_shadows` is the largest number of shadow models that an attack with one threshold is tuned on (None:
    all); attacks that judge every point use all. `groups` [N] (text) are subgroups of the rows, for exposed records.
    With `cross_fit` there are no shadow models (trials [T 1]): attacks with one threshold are tuned on the target's own
    points, whose membership is known, each judged by a rule from the others (`trials.cross_fit`).
    `cap` is the largest number of queries of an attack to one target;
    points beyond it have score NaN and no number but `finished` includes them. `progress` is called with an attack's
    queries so far, those planned if every point is labelled correctly, and its name.

    Two things make a run resumable. `answers` is a folder: the answers of every oracle with a `name`
    (`oracle.function_oracle`) are stored there as they come, and the same call puts no query again but those that got
    no answer. A changed model needs another name or folder: a sample of stored answers is compared, which can miss it.
    `cache` (`store.py`) is for networks: the name of an entry changes with weights, examples and the code of an attack,
    but not with modules that this code imports.

    Every target first answers the same few queries twice. One that answers differently is refused, unless
    `allow_random_target`; the record has the share of changed answers in both cases.

    The record has the keys `split_digest`, `split`, `data`, `models`, `attacks`, `queries`, `environment` and `seconds`
    of report.json, and a part of `config`; `report.py` documents both returns and draws table, findings and figures
    from them. ValueError, before the first query, for a data set, split, attacks or numbers that do not fit together.
    """
    _check_arguments(dataset, target, attacks, {"num_points": num_points, "cap": cap, "tuning_shadows": tuning_shadows})
    if cross_fit:
        _check_needs_no_shadows(attacks)
    dataset, split = check_dataset(dataset), splits.check_split(split, len(dataset.x), shadows=not cross_fit)
    _check_groups(groups, len(dataset.x))
    points = [select_points(split, k, num_points) for k in range(len(split.members))]
    _check_points(points, split)
    plan = Plan(dataset, split, points, tuning_shadows, cap)
    together = [{name: attacks[name] for name in names} for names in group_attacks(attacks)]
    planned = [planned_queries(plan, group) for group in together]
    logs = AnswerLogs(target, dataset.num_classes, None if answers is None else Path(answers), allow_random_target)
    scores = _point_arrays(dataset, plan)
    models, queries = target_accuracies(dataset, split, logs.target, points)
    if not allow_random_target:
        refuse_random_targets(models["flip_rate"]["values"])
    record = {"config": {"dataset": dataset.name, "num_shadows": split.trials.shape[1] - 1}, "data": describe(dataset)}
    record |= {"split_digest": splits.split_digest(split), "split": _split_record(split), "models": models}
    record |= {"attacks": {}, "queries": {"by_attack": {}}}
    seconds: dict[str, float] = {}
    for group, queries_planned in zip(together, planned, strict=True):
        started, first = time.perf_counter(), next(iter(group))
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        label = f"{first}{more} ({list(attacks).index(first) + 1} of {len(attacks)})"
        report = _reporter(progress, queries_planned, label)
        trials, shadow = run_group(key, plan, group, logs.target, cache, report)
        for name, of_attack in trials.items():
            record["attacks"][name] = _attack_entry(of_attack, scores["is_member"], cap)
            asked = sum(int(trial.answers.queries.sum()) for trial in of_attack)
            record["queries"]["by_attack"][name] = {"target": asked, "shadow": shadow}
            scores |= _score_arrays(name, of_attack)
            seconds[name] = round(time.perf_counter() - started, 2)
            shadow, started = 0, time.perf_counter()  # of a pool that attacks share: they stand with the first
    record["attacks"] = {name: record["attacks"][name] for name in attacks}
    record["queries"] |= queries | {"repeated": logs.repeated, "failed": logs.failed}
    record["queries"]["total"] = entries.all_queries(record)
    entries.add_gain_over_gap(record, scores)
    if exposed.leading_attack(record, scores) is not None:
        scores |= _about_points(dataset, scores["rows"], groups)
        scores |= _images(dataset, record, scores)
    return record | {"environment": environment.environment(), "seconds": seconds}, scores


def _reporter(progress: Callable[[int, int, str], None], planned: int, label: str) -> Callable[[int], None]:
    """A function of the queries since its last call, which calls `progress` for one attack, now for the first time."""
    done = 0
    progress(done, planned, label)

    def report(queries: int) -> None:
        nonlocal done
        done += queries
        progress(done, planned, label)

    return report


def _check_arguments(dataset: Any, target: Any, attacks: Any, numbers: dict[str, Any]) -> None:
    """Raises ValueError for arguments of other types or ranges than `audit` documents."""
    if not isinstance(dataset, Dataset) or not callable(target):
        raise ValueError(f"dataset and target: a {type(dataset).__name__} and a {type(target).__name__}, expected a "
                         "Dataset (data.from_arrays) and a function (k, access) -> oracle")  # fmt: skip
    if not isinstance(attacks, dict) or not attacks:
        raise ValueError(f"attacks: {attacks!r:.80}, expected at least one: name -> candidates (attacks.build)")
    for name, candidates in attacks.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ValueError(f"attacks: the name {name!r}, expected printable text")
        if (
            not isinstance(candidates, tuple | list)
            or not candidates
            or not all(isinstance(candidate, Attack | PerExample) for candidate in candidates)
        ):
            raise ValueError(f"attacks: {name} has {candidates!r:.80}, expected candidates, as attacks.build returns")
    for name, value in numbers.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")


def _check_groups(groups: Any, rows: int) -> None:
    """Raises ValueError for groups that are not one for each row."""
    if groups is not None and np.shape(groups) != (rows,):
        raise ValueError(f"groups of shape {list(np.shape(groups))}: expected [{rows}], one for each row of the data")


def _check_needs_no_shadows(attacks: dict[str, tuple]) -> None:
    """Raises ValueError for an attack that cannot be cross-fitted."""
    for name, candidates in attacks.items():
        if isinstance(candidates[0], PerExample) or candidates[0].access == "gradient":
            raise ValueError(f"cross_fit: attack {name} needs shadow models, expected one with one threshold")


def _check_points(points: list[Points], split: Split) -> None:
    """Raises ValueError where shadow models have too few points for one half of them to check the other.

    Without shadow models, where the target has too few to be divided.
    """
    for t, trial in enumerate(split.trials):
        if len(trial) == 1:
            is_member = points[trial[0]].is_member
            if min(is_member.sum(), (~is_member).sum()) < LEAST:
                counts = f"{is_member.sum()} members and {(~is_member).sum()} non-members of model {trial[0]}"
                raise ValueError(f"cross_fit: {counts}, expected at least {LEAST} of each")
            continue
        is_member = np.concatenate([points[k].is_member for k in trial[1:]])
        if min(is_member.sum(), (~is_member).sum()) < 2:
            raise ValueError(
                f"trial {t}: {is_member.sum()} members and {(~is_member).sum()} non-members of shadow models, "
                "expected at least two of each, since tuning holds out a half"
            )


def _split_record(split: Split) -> dict:
    """The sizes of a split, and what its shadow models share with the targets."""
    sizes = {"members": split.members.shape[1], "nonmembers": split.nonmembers.shape[1]}
    return sizes | {"shadow_overlap": splits.shadow_overlap(split)}


def _point_arrays(dataset: Dataset, plan: Plan) -> dict[str, np.ndarray]:
    """The attacked points: rows, labels, is_member of the targets [T 2n] and of the shadow models tuned on [T S2n]."""
    arrays, points, trials = {}, plan.points, plan.tuning_trials()
    sides = {"": slice(0, 1)} | ({"shadow/": slice(1, None)} if trials.shape[1] > 1 else {})
    for prefix, columns in sides.items():
        rows = np.stack([np.concatenate([points[k].rows for k in trial[columns]]) for trial in trials])
        members = np.stack([np.concatenate([points[k].is_member for k in trial[columns]]) for trial in trials])
        arrays |= {f"{prefix}rows": rows, f"{prefix}labels": dataset.y[rows], f"{prefix}is_member": members}
    return arrays


def _about_points(dataset: Dataset, rows: np.ndarray, groups: np.ndarray | None) -> dict[str, np.ndarray]:
    """Of the attacked points [T 2n]: which are alone among all attacked rows, and their groups."""
    attacked, arrays = np.unique(rows), {}
    if len(attacked) > 2 * GAMMA:
        is_outlier, _ = outliers(dataset.x[attacked].reshape(len(attacked), -1))
        arrays["alone"] = is_outlier[np.searchsorted(attacked, rows)]
    return arrays | ({} if groups is None else {"group": np.asarray(groups, str)[rows]})


def _images(dataset: Dataset, record: dict, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of the records that the report shows, where data are images."""
    found = exposed.leading_records(record, scores)
    if dataset.binary is not None or dataset.x.ndim != 4 or found is None:
        return {}
    rows = np.unique([row["row"] for row in exposed.strongest(found.rows, SHOWN)])
    return {"image_rows": rows, "images": np.round(255 * dataset.x[rows]).astype(np.uint8)}


def _score_arrays(name: str, trials: list[Trial]) -> dict[str, np.ndarray]:
    """The arrays of one attack in scores.npz."""
    arrays = {
        f"attack/{name}/scores": np.stack([trial.scores for trial in trials]),  # [T 2n]
        f"attack/{name}/queries": np.stack([trial.answers.queries for trial in trials]),
    }
    rates = [trial.false_positive_rate for trial in trials if trial.false_positive_rate is not None]
    if rates:
        arrays[f"attack/{name}/false_positive_rate"] = np.stack(rates)
    elif trials[0].shadow_scores.size:
        arrays[f"shadow/attack/{name}/scores"] = np.stack([trial.shadow_scores for trial in trials])  # [T S2n]
    return arrays


def _attack_entry(trials: list[Trial], is_member: np.ndarray, cap: int | None) -> dict:
    """The entry of one attack in report.json."""
    tuned = {
        "settings": [trial.attack.settings for trial in trials],
        "threshold": [trial.threshold for trial in trials],
        "shadow_accuracy": [trial.shadow_accuracy for trial in trials],
        "at_edge": [trial.at_edge for trial in trials],
    }
    answers, scores = [trial.answers for trial in trials], np.stack([trial.scores for trial in trials])
    finished = ~np.isnan(scores)
    if not np.all((is_member & finished).any(1) & (~is_member & finished).any(1)):
        unfinished = f"{trials[0].attack.name} finish no member or no non-member of a target"
        raise ValueError(f"cap={cap}: let {unfinished}, expected a higher cap on queries")
    return entries.attack_entry(trials[0].attack, answers, scores, is_member, tuned)
