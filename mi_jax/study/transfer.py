"""The transfer attack: a surrogate learns from the labels that a target gives to other rows, and is asked in its place.

The attacker has auxiliary rows, which need no label and are no candidates. The target labels each of them once, a
network of the target's architecture is trained on these labels with the target's recipe, and a candidate's score is the
logit of the confidence that this surrogate has in the candidate's label. No query is about a candidate, so one more
candidate costs nothing. The attack trains networks, which is why it is here and not in `attacks`.
"""

import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from mi_jax import attacks, perturbations, training, trials
from mi_jax.attacks.confidence import logits_of
from mi_jax.evaluation import entries
from mi_jax.querying import oracle
from mi_jax.querying.collect import Points, select_points
from mi_jax.study import ensembles, runs
from mi_jax.study.config import Resolved
from mi_jax.types import Answers, Attack, Dataset, Params, Recipe, Split

if TYPE_CHECKING:
    from mi_jax.study.studies import Study

NAME = "transfer"
STAND_INS = 2  # shadow models that stand in for the target
LEAST_ROWS, LEAST_PER_CLASS = 50, 2  # auxiliary rows
POOL_BYTES = 2**30  # of the auxiliary rows of surrogates that train as one ensemble


class _Attacked(NamedTuple):
    """What the surrogate of one model says about the points that the model is attacked on."""

    points: Points
    y: np.ndarray  # [2n]
    answers: Answers


def check_transfer(config: Resolved, dataset: Dataset, split: Split) -> None:
    """Raises ValueError where the attack has too few auxiliary rows, or more than a cap on queries allows."""
    drawn = [auxiliary_rows(jax.random.key(0), dataset, split, int(k)) for k in _attacked_models(split.trials)]
    needed = len(drawn[0])
    if config.cap is not None and config.cap < needed:
        reason = f"{NAME} puts {needed} auxiliary rows to each target"
        raise ValueError(f"cap={config.cap}: {reason}, expected at least as many")


def auxiliary_rows(key: jax.Array, dataset: Dataset, split: Split, k: int) -> np.ndarray:
    """Rows of the pool [m] that model k was neither trained on nor is attacked on, drawn at random, in order.

    They are as many as the model's members, or at least LEAST_ROWS and LEAST_PER_CLASS for each class, if the pool has
    so many. Balanced models share their rows, so auxiliary rows are those of no such model. With disjoint rows they may
    be those of the shadow models, or of another trial; those of a shadow model may be the target's, whether or not
    the target was trained on them.

    Raises ValueError for a pool with too few other rows.
    """
    own = np.concatenate([split.members[k], split.nonmembers[k], split.reference[k]])
    others = np.setdiff1d(np.arange(len(dataset.x)), own)
    least = max(LEAST_ROWS, LEAST_PER_CLASS * dataset.num_classes)
    if len(others) < least:
        reason = f"{len(others)} rows of the pool are not those of model {k}"
        raise ValueError(f"attack {NAME}: {reason}, expected {least} or more to train a surrogate on")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, k))))
    return np.sort(rng.choice(others, min(len(others), max(split.members.shape[1], least)), replace=False))


def add_transfer(
    study: "Study", recipe: Recipe, record: dict, scores: dict[str, np.ndarray]
) -> tuple[dict, dict[str, np.ndarray]]:
    """(record, scores) of `audit.audit` on a study, with the transfer attack besides; both arguments stay as they are.

    A threshold is chosen on STAND_INS shadow models, or on one if the trial has no more: each is attacked like the
    target, with a surrogate of its own. A model that is a target and stands in for others labels its rows once, and
    counts as a target. The m queries of a target are shared out among its points: `queries` and `queries_per_example`
    are m / 2n, although none is about any of them. Scores of shadow models are not kept.

    `recipe` is that of the study's models. Surrogates are trained without a defense, whatever the study's is; their
    training is resumable with the study's cache.

    Source: Li and Zhang 2021 (arXiv 2007.15528), the transfer attack. Deviations, with what public code does otherwise:

    * The score is log p_y - log(1 - p_y) and not the cross-entropy -log p_y. It orders points alike, and floats do not
      tie where p_y is near 1.
    * The authors' evaluation also puts every candidate to the target, and gives it a loss of 100 if its label is wrong.
      That adds the gap attack at one query for each candidate; here there is none.
    * A public benchmark takes the threshold between rows that the surrogate is trained on and others. No candidate is
      one of these rows, so that threshold is too high. Here models of known members stand in for the target.
    * The authors have 2,000 members and more than 35,000 auxiliary rows (CIFAR-10); here there are as many as members.
    """
    started = time.perf_counter()
    key = jax.random.fold_in(study.key, zlib.crc32(NAME.encode()))
    is_member = scores["is_member"]  # [T 2n], of all trials or the first
    of_study = study.split.trials[: len(is_member)]
    attacked, m = _attack_models(key, study, recipe, _attacked_models(of_study), is_member.shape[1] // 2)
    results = [_run_trial(key, trial[: 1 + STAND_INS], attacked, m) for trial in of_study]
    to_targets = m * len(results)
    queries = {"target": to_targets, "shadow": m * len(attacked) - to_targets}
    by_attack = record["queries"]["by_attack"] | {NAME: queries}
    found = record["attacks"] | {NAME: _entry(results, is_member)}
    record = record | {"attacks": found, "queries": record["queries"] | {"by_attack": by_attack}}
    record["queries"]["total"] = entries.all_queries(record)
    scores = scores | {
        f"attack/{NAME}/scores": np.stack([trial.scores for trial in results]),
        f"attack/{NAME}/queries": np.stack([trial.answers.queries for trial in results]),
    }
    entries.add_gain_over_gap(record, scores)
    seconds = record.get("seconds", {}) | {NAME: round(time.perf_counter() - started, 2)}
    return record | {"seconds": seconds}, scores


def _attacked_models(of_trials: np.ndarray) -> np.ndarray:
    """The targets of trials [T 1+S] and the shadow models that stand in for them."""
    return np.unique(of_trials[:, : 1 + STAND_INS])


def _attack_models(
    key: jax.Array, study: "Study", recipe: Recipe, models: np.ndarray, num_points: int
) -> tuple[dict[int, _Attacked], int]:
    """(what the surrogate of each of the models says, queries to each model)."""
    dataset, attacked = study.dataset, {}
    rows = np.stack([auxiliary_rows(key, dataset, study.split, int(k)) for k in models])  # [A m]
    asked = zip(models.tolist(), rows, strict=True)
    labels = np.stack([oracle.query_labels(study.target(k, "label"), dataset.x[of]) for k, of in asked])
    params = _train_surrogates(key, study, recipe, rows, labels)
    surrogate = ensembles.target_oracles(study.model, params, dataset)
    for i, k in enumerate(models.tolist()):
        points = select_points(study.split, k, num_points)
        x, y = dataset.x[points.rows], dataset.y[points.rows]
        features = logits_of(np.asarray(surrogate(i, "confidence").answer(x, len(x))), y)[:, None, None]
        each = np.full(len(y), rows.shape[1] / len(y))
        answers = Answers(features, each, np.ones(len(y), bool), {"auxiliary rows": rows.shape[1]})
        attacked[k] = _Attacked(points, y, answers)
    return attacked, rows.shape[1]


def _train_surrogates(key, study: "Study", recipe: Recipe, rows: np.ndarray, labels: np.ndarray) -> Params:
    """The parameters [A ...] of surrogates, each trained on rows [A m] with their labels [A m]."""
    (num, m), trained = rows.shape, []
    at_once = max(1, POOL_BYTES // (m * study.dataset.x[:1].nbytes))
    with runs.ProgressBar("training surrogates", unit="model") as progress:
        for first in range(0, num, at_once):
            group = slice(first, first + at_once)
            group_key = jax.random.fold_in(key, first)

            def report(done: int, total: int, epoch: int, first=first) -> None:
                progress(first + done, num, f"epoch {epoch}")

            trained.append(_train_group(group_key, study, recipe, rows[group], labels[group], report))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trained)


def _train_group(key, study: "Study", recipe: Recipe, rows: np.ndarray, labels: np.ndarray, report) -> Params:
    """The parameters of surrogates that train together, on a pool with the rows [G m] of each under its labels."""
    x, y = study.dataset.x[rows.ravel()], labels.ravel()
    members = np.arange(len(y)).reshape(rows.shape)
    digest = oracle.arrays_digest((NAME,), (jax.random.key_data(key), x, y))
    params, _ = training.train_ensemble(
        key, study.model, recipe, x, y, members, progress=report,
        cache=lambda name, compute: study.cache(f"{NAME}-{digest}-{name}", compute),
    )  # fmt: skip
    return params


def _run_trial(key: jax.Array, models: np.ndarray, attacked: dict[int, _Attacked], m: int) -> trials.Trial:
    """The result on the target models[0], with a threshold chosen on the others."""
    target, *stand_ins = (attacked[int(k)] for k in models)
    settings = {"auxiliary rows": m, "each put": "once"}
    attack = Attack(NAME, "label", perturbations.only_itself, None, attacks.last_feature, settings=settings)
    y = np.concatenate([one.y for one in stand_ins])
    is_member = np.concatenate([one.points.is_member for one in stand_ins])
    chosen = trials.choose(key, (attack,), [[one.answers for one in stand_ins]], y, is_member)
    scores = chosen.score(target.answers.features, target.y)
    return trials.Trial(attack, chosen.threshold, chosen.accuracy, chosen.shadow_scores, None, target.answers, scores)


def _entry(results: list[trials.Trial], is_member: np.ndarray) -> dict:
    """The entry of the attack in report.json."""
    tuned = {
        "settings": [trial.attack.settings for trial in results],
        "threshold": [trial.threshold for trial in results],
        "shadow_accuracy": [trial.shadow_accuracy for trial in results],
        "at_edge": [trial.at_edge for trial in results],
    }
    answers, scores = [trial.answers for trial in results], np.stack([trial.scores for trial in results])
    return entries.attack_entry(results[0].attack, answers, scores, is_member, tuned)
