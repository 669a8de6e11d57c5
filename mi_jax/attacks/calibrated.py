"""Attacks that judge every point by shadow models trained with and without that very point.

One mechanism (`types.PerExample`): a statistic, or the answers to questions, is compared with that of shadow models,
half of them trained with the point. So one line makes an attack of any statistic, and a user's perturbation is one
without a line. They need a split in which shadow models are trained on the target's points (--split=balanced); those
named offline use only models trained without the point, as an attacker has who met it later.

Source: calibration by example is that of LiRA (Carlini et al. 2022, arXiv 2112.03570), there on confidences. For labels
DHAttack (Li et al., USENIX Security 2025) has an offline form. Online calibration of labels and chosen questions are
our own (docs/chosen_queries.md).
"""

from collections.abc import Callable

import numpy as np

from mi_jax.attacks import calibration, chosen, one_threshold, pools, sequential
from mi_jax.attacks.confidence import logits_of
from mi_jax.attacks.context import AttackContext
from mi_jax.types import AnswerRates, Attack, PerExample, PointScores, Reference

MOST = 10_000  # queries of an attack on a pool: the answers of all shadow models to all questions are held at once


def budget_of(name: str, context: AttackContext) -> int:
    """The budget of an attack on a pool; ValueError for one above MOST."""
    if context.budget > MOST:
        reason = f"budget={context.budget} of attack {name}: expected at most {MOST} queries for a point"
        raise ValueError(f"{reason}, because shadow models answer as many and more, and all answers are held at once")
    return context.budget


def calibrated_label(context: AttackContext) -> tuple[PerExample, ...]:
    """Is the label right, beside how often it is in models trained with and without the point: one query."""
    pool = pools.pool_of(context, ())
    return (PerExample("calibrated_label", "label", pool, None, chosen.choose_kind(1, (0,)), chosen.score_answers),)


def calibrated_noise(context: AttackContext) -> tuple[PerExample, ...]:
    """The labels of `budget` noisy copies, at the strength that reveals most on shadow models."""
    pool = pools.pool_of(context, budget=budget_of("calibrated_noise", context))
    choose = chosen.choose_kind(context.budget, pools.kinds_named(pool, "noise"))
    settings = {"queries": context.budget}
    return (PerExample("calibrated_noise", "label", pool, None, choose, chosen.score_answers, settings=settings),)


def perturbation_family(name: str) -> Callable[[AttackContext], tuple[PerExample, ...]]:
    """Returns the function that makes the calibrated attack of a family of PERTURBATIONS: the labels of x and of its
    neighbours at every strength of the grid.
    """

    def calibrated(context: AttackContext) -> tuple[PerExample, ...]:
        pool = pools.pool_of(context, (name,))
        number = sum(pool.counts)
        choose = chosen.choose_kind(number, tuple(range(len(pool.kinds))))
        settings = {"queries": number}
        named = f"calibrated_{name}"
        return (PerExample(named, "label", pool, None, choose, chosen.score_answers, settings=settings),)

    return calibrated


def chosen_queries(context: AttackContext) -> tuple[PerExample, ...]:
    """The labels of the `budget` questions of the pool that reveal most about a point, for each point its own."""
    return _chosen("chosen", context, online=True)


def chosen_offline(context: AttackContext) -> tuple[PerExample, ...]:
    """The same with shadow models that were trained without the point alone; at most SUMMED_OFFLINE questions.

    More are no gain: with one side alone, answers that repeat each other cannot be told from those that add up.
    """
    return _chosen("chosen_offline", context, online=False)


def chosen_sequential(context: AttackContext) -> tuple[PerExample, ...]:
    """Chosen queries, one by one until the likelihood ratio of a point is decided, at most `budget` of them."""
    (attack,) = _chosen("chosen_sequential", context, online=True)
    low, high = sequential.bounds()
    settings = {"queries": context.budget, "non-member below": low, "member above": high}
    score, stop = sequential.score_until_decided, sequential.decided
    return (attack._replace(score=score, stop=stop, settings=settings),)


def _chosen(name: str, context: AttackContext, *, online: bool) -> tuple[PerExample, ...]:
    pool = pools.pool_of(context, budget=budget_of(name, context))
    number = context.budget if online else min(context.budget, chosen.SUMMED_OFFLINE)
    choose, settings = chosen.choose_best(number), {"queries": number, "of": sum(pool.counts)}
    return (PerExample(name, "label", pool, None, choose, chosen.score_answers, online, settings=settings),)


def calibrated_boundary(context: AttackContext) -> tuple[PerExample, ...]:
    """The distance to the decision boundary by HopSkipJump; it takes minutes, for all shadow models are measured."""
    return _distance("calibrated_boundary", one_threshold.boundary(context)[0])


def calibrated_rays(context: AttackContext) -> tuple[PerExample, ...]:
    """The distance to another label along random rays."""
    return _distance("calibrated_rays", one_threshold.rays(context)[0])


def _distance(name: str, statistic: Attack) -> tuple[PerExample, ...]:
    def score(features: np.ndarray, y: np.ndarray, reference: Reference, rates: None) -> PointScores:
        del y, rates
        last = reference._replace(features=reference.features[..., -1:])  # of several checkpoints the last
        return calibration.hurdle(features[:, -1], last)

    return (PerExample(name, "label", None, statistic, None, score, settings=statistic.settings),)


def lira(context: AttackContext) -> tuple[PerExample, ...]:
    """LiRA: the logit of the confidence in y, online; a baseline that sees probabilities."""
    return _confidence("lira", context, online=True)


def lira_offline(context: AttackContext) -> tuple[PerExample, ...]:
    """LiRA with models trained without the point alone."""
    return _confidence("lira_offline", context, online=False)


def _confidence(name: str, context: AttackContext, *, online: bool) -> tuple[PerExample, ...]:
    def score(features: np.ndarray, y: np.ndarray, reference: Reference, rates: None) -> PointScores:
        del rates
        logits, own = _finite_logits(features, reference, y)
        return calibration.student(own, reference._replace(features=logits[..., None]))

    statistic = one_threshold.confidence_threshold(context)[0]
    return (PerExample(name, "confidence", None, statistic, None, score, online),)


def rmia(context: AttackContext) -> tuple[PerExample, ...]:
    """RMIA: the confidence in y over its mean in shadow models, trained with and without the point; sees probabilities.

    Source: Zarifzadeh et al. 2024 (arXiv 2312.03262), which counts how many other points have a smaller ratio. All
    points have the same others, so that their count ranks points as the ratio itself does, which is the score here.
    """

    def score(features: np.ndarray, y: np.ndarray, reference: Reference, rates: None) -> PointScores:
        del rates
        logits, own = _finite_logits(features, reference, y)  # [P K], [P]
        used = reference.inside | reference.outside
        typical = (_sigmoid(logits) * used).sum(1) / used.sum(1)
        ratio = np.log(_sigmoid(own)) - np.log(typical)
        rate = calibration.student(own, reference._replace(features=logits[..., None]))
        return PointScores(ratio, rate.false_positive_rate)

    statistic = one_threshold.confidence_threshold(context)[0]
    return (PerExample("rmia", "confidence", None, statistic, None, score),)


def _finite_logits(features: np.ndarray, reference: Reference, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits of shadow models [P K] and of the target [P]; a probability of 0 or 1 has the nearest finite one.

    Defenses answer such probabilities, votes for example.
    """
    logits = logits_of(reference.features, y)
    finite = logits[np.isfinite(logits) & (reference.inside | reference.outside)]
    low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 1.0)
    shadow, own = (np.nan_to_num(one, nan=0.0, posinf=high, neginf=low) for one in (logits, logits_of(features, y)))
    return shadow, own


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def dhattack(context: AttackContext) -> tuple[PerExample, ...]:
    """DHAttack: how far x moves towards a white image before its label changes, beside models trained without it.

    All `budget` points of the line are asked. Source: Li et al., USENIX Security 2025, with its transformation of the
    distance. Deviations: shadow models trained like the target, where the authors train theirs on rows labelled by the
    target, whose labels are queries that its budget leaves out; variances shrunk to their mean over points, where the
    authors' is 0 if all distances of a point tie.
    """
    number = budget_of("dhattack", context)
    pool = pools.line(context, number)

    def score(answers: np.ndarray, order: np.ndarray, reference: Reference, rates: AnswerRates) -> PointScores:
        del order, rates
        shadow = _line_logit(reference.features > 0)[..., None]
        return calibration.student(_line_logit(answers), reference._replace(features=shadow))

    choose = chosen.choose_kind(number, (0,))
    return (PerExample("dhattack", "label", pool, None, choose, score, False, settings={"queries": number}),)


def _line_logit(is_label: np.ndarray) -> np.ndarray:
    """DHAttack's statistic of the answers [..., n] along a line: it rises with the index of the first other label."""
    n = is_label.shape[-1]
    changed, right = (~is_label).any(-1), is_label.any(-1)
    first = np.where(changed, (~is_label).argmax(-1), n).astype(float)
    run = np.where(right, is_label.argmax(-1), n)  # length of the initial run of other labels
    distance = np.where(is_label[..., 0], first, np.exp(-run.astype(float)) * max(n // 100, 1))
    s = np.exp(-distance) + 1e-8
    return -s - np.log(-np.expm1(-s))
