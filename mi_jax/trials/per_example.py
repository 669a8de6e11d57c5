"""Attacks that judge every point of a target by shadow models trained with and without that very point.

A few shadow models stand in for the target: each is attacked like it, with the other shadow models and without a query
to the target. Their scores choose the threshold, and the estimated false positive rates of their non-members correct
those of the target, because questions that were chosen for what they reveal reveal less on another model.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mi_jax.attacks import chosen
from mi_jax.data import splits
from mi_jax.evaluation import metrics
from mi_jax.querying.collect import Points
from mi_jax.querying.questions import Questions
from mi_jax.trials.asking import Asking
from mi_jax.trials.one_threshold import Trial
from mi_jax.types import AnswerRates, Answers, PerExample, PointScores, Reference, Split

STAND_INS = 3  # shadow models that stand in for the target


class _Judged(NamedTuple):
    """A model that is attacked: the target, or a shadow model in its place."""

    model: int
    reference: Reference
    rates: AnswerRates | None


def run_trials(
    attacks: Mapping[str, PerExample], asking: Asking, points: list[Points], trial: np.ndarray, cap: int | None
) -> dict[str, Trial]:
    """The results of attacks with one pool, or of one attack alone, on the target trial[0], by their names.

    ValueError for a trial in which a row has no shadow model trained with it, or none trained without it.
    """
    rows, place = np.unique(points[trial[0]].rows, return_inverse=True)
    judged: dict[tuple, list[_Judged]] = {}
    results = {}
    for name, attack in attacks.items():
        questions, calibrating = asking.questions(attack, rows, trial)
        same = attack.online, attack.craft  # for attacks that differ in choice and score alone
        if same not in judged:
            features = _features(name, attack, asking, questions, calibrating, rows)
            judged[same] = list(_judge(attack, features, asking.split, calibrating, rows))
        results[name] = _run(name, attack, asking, questions, rows, judged[same], cap, place)
    return results


def _features(name: str, attack: PerExample, asking: Asking, questions: Questions | None, trial, rows) -> np.ndarray:
    """The features [P K F] of the shadow models."""
    if questions is not None:
        return asking.questioner.margins(questions, trial[1:])
    by_model = {int(k): asking.statistic(name, attack, k, rows).features for k in trial[1:]}
    features = np.zeros((len(rows), len(asking.split.members), next(iter(by_model.values()))[0].size), np.float32)
    for k, values in by_model.items():
        features[:, k] = values.reshape(len(rows), -1)
    return features


def _judge(attack: PerExample, features: np.ndarray, split: Split, trial: np.ndarray, rows: np.ndarray):
    """The target and its stand-ins, each with the shadow models that calibrate it."""
    shadows = trial[1:]
    for model in trial[: 1 + min(STAND_INS, len(shadows))]:
        others = shadows[shadows != model]
        inside, outside = splits.calibration_models(split, model, others, rows)
        reference = Reference(features, inside if attack.online else np.zeros_like(inside), outside)
        yield _Judged(model, reference, None if attack.statistic else chosen.answer_rates(reference))


def _run(name: str, attack: PerExample, asking: Asking, questions: Questions | None, rows, judged, cap, place) -> Trial:
    (target, *stand_ins), y = judged, asking.dataset.y[rows]
    is_member = [np.isin(rows, asking.split.members[one.model]) for one in stand_ins]
    scored = [_score(attack, one, one.reference.features[:, one.model], y) for one in stand_ins]
    scores, members = np.concatenate([one.score for one in scored]), np.concatenate(is_member)
    null = np.concatenate([one.false_positive_rate[~inside] for one, inside in zip(scored, is_member, strict=True)])
    if questions is None:
        answers = asking.statistic(name, attack, target.model, rows, cap)
        features = answers.features.reshape(len(rows), -1)
    else:
        stop, order = attack.stop, _order(attack, target)
        rule = stop and (lambda answers, points: stop(answers, order[points], _at(target.rates, points)))
        answers = asking.questioner.answers(questions, int(target.model), order, cap, rule)
        features = answers.features[:, 0]
    result = _score(attack, target, np.where(np.isnan(features), 0, features), y, True)
    rate = corrected_rate(result.false_positive_rate, null)
    score, rate = (
        np.where(answers.finished, values, np.nan)[place].astype(np.float32) for values in (result.score, rate)
    )
    answers = Answers(answers.features[place], answers.queries[place], answers.finished[place], answers.phases)
    threshold = metrics.best_threshold(scores, members)
    return Trial(attack, threshold, _accuracy(scored, is_member), scores, None, answers, score, rate)


def _order(attack: PerExample, one: _Judged) -> np.ndarray:
    assert attack.choose is not None and one.rates is not None
    return attack.choose(one.rates, attack.pool)


def _at(rates: AnswerRates | None, points: np.ndarray) -> AnswerRates:
    assert rates is not None
    return AnswerRates(*(rate[points] for rate in rates))


def _score(attack: PerExample, one: _Judged, features: np.ndarray, y: np.ndarray, asked: bool = False) -> PointScores:
    """The scores of a model by its features [P F]: with a pool those of all questions, or of those it was `asked`."""
    if attack.statistic is not None:
        return attack.score(features, y, one.reference, None)
    order = _order(attack, one)
    answers = features > 0 if asked else np.take_along_axis(features, order, 1) > 0
    return attack.score(answers, order, one.reference, one.rates)


def _accuracy(scored: list[PointScores], is_member: list[np.ndarray]) -> float:
    """The balanced accuracy on each stand-in at the threshold that is best on the others, or on itself if alone."""
    accuracies = []
    for i, (one, members) in enumerate(zip(scored, is_member, strict=True)):
        others = [j for j in range(len(scored)) if j != i] or [i]
        seen = np.concatenate([scored[j].score for j in others]), np.concatenate([is_member[j] for j in others])
        accuracies.append(metrics.balanced_accuracy(one.score, members, metrics.best_threshold(*seen)))
    return float(np.mean(accuracies))


def corrected_rate(rate: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Returns how often a non-member has a rate at most as large as each of `rate`, by those in `null`; never 0.

    (1 + the number of `null` at or below) / (1 + all): a conformal p-value, valid for a non-member that is exchangeable
    with those of `null`, whatever the rates are worth.
    """
    return (1 + np.searchsorted(np.sort(null), rate, side="right")) / (1 + len(null))
