"""Attacks whose questions are crafted for each point with gradients of shadow models, and judged like other questions.

OSLO and YOQO as published decide by the label alone; their calibrated forms compare it with the labels of the shadow
models that did not craft the question. `chosen_crafted` adds crafted copies to the pool of chosen queries.
"""

from functools import lru_cache, partial

import jax
import numpy as np

from mi_jax.attacks import calibrated, chosen, crafting, pools
from mi_jax.attacks.context import AttackContext
from mi_jax.types import AnswerRates, Crafters, PerExample, PointScores, Reference

SURROGATES, SOURCES = 10, 7  # models that OSLO needs, trained on other rows; so many of them give gradients
NEED_SURROGATES = ("oslo", "calibrated_oslo")
COPIES = 8  # crafted from each strength of noise
NEIGHBOURS, SHARES = 2, (0.2, 0.3, 0.4, 0.5, 0.6)  # rows of other classes, and how far towards each a question lies


def yoqo(context: AttackContext) -> tuple[PerExample, ...]:
    """YOQO online: member iff one crafted copy is labelled y."""
    return (_crafted("yoqo", _yoqo(_mask(context), True), 1)._replace(score=_votes),)


def yoqo_offline(context: AttackContext) -> tuple[PerExample, ...]:
    """YOQO with models trained without the point alone."""
    return (_crafted("yoqo_offline", _yoqo(_mask(context), False), 1)._replace(score=_votes, online=False),)


def calibrated_yoqo(context: AttackContext) -> tuple[PerExample, ...]:
    """The question of YOQO online, beside how other shadow models answer it."""
    return (_crafted("calibrated_yoqo", _yoqo(_mask(context), True), 1),)


def oslo(context: AttackContext) -> tuple[PerExample, ...]:
    """OSLO at five thresholds, one query each: by how many the label stays y, for its full ROC."""
    return (_crafted("oslo", _oslo(_mask(context)), 5)._replace(score=_votes),)


def calibrated_oslo(context: AttackContext) -> tuple[PerExample, ...]:
    """The five questions of OSLO, beside how shadow models answer them."""
    return (_crafted("calibrated_oslo", _oslo(_mask(context)), 5),)


def chosen_crafted(context: AttackContext) -> tuple[PerExample, ...]:
    """Chosen queries of a pool, of copies that a few gradient steps move towards telling members apart, and of points
    on the way to the nearest rows of other classes, where a decision boundary must be crossed.
    """
    pool = pools.pool_of(context, budget=calibrated.budget_of("chosen_crafted", context))
    starts = pools.pool_of(context, (), copies=COPIES)
    craft = _towards_difference(starts, _mask(context))
    crafted = sum(starts.counts) + NEIGHBOURS * len(SHARES)
    settings = {"queries": context.budget, "of": sum(pool.counts) + crafted, "crafted": crafted}
    choose = chosen.choose_best(context.budget)
    return (
        PerExample("chosen_crafted", "label", pool, None, choose, chosen.score_answers, settings=settings, craft=craft),
    )


def _crafted(name: str, craft, number: int) -> PerExample:
    settings = {"queries": number}
    return PerExample(
        name, "label", None, None, chosen.choose_all, chosen.score_answers, settings=settings, craft=craft
    )


def _mask(context: AttackContext) -> bytes | None:
    return None if context.binary is None else np.asarray(context.binary, bool).tobytes()


def _binary(mask: bytes | None) -> np.ndarray | None:
    return None if mask is None else np.frombuffer(mask, bool)


def _votes(answers: np.ndarray, order: np.ndarray, reference: Reference, rates: AnswerRates) -> PointScores:
    """The number of questions answered y, and the rate of the last of them outside, which is the lowest of a path."""
    del order, reference
    votes = crafting.oslo_score(answers)
    last = np.take_along_axis(rates.label_outside, np.maximum(votes - 1, 0)[:, None], 1)[:, 0]
    return PointScores(votes.astype(float), np.where(votes > 0, np.exp(last), 1.0))


@lru_cache
def _yoqo(mask: bytes | None, online: bool):
    def craft(models: Crafters, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        made, able = x.astype(np.float32), _able(models)
        if able.any():
            inside, use = models.inside[able], (models.inside | models.outside)[able]
            options = {"online": online, "binary": _binary(mask)}
            made[able] = crafting.yoqo(models.apply, models.params, inside, use, x[able], y[able], **options)
        return made[:, None]

    return craft


def _able(models: Crafters) -> np.ndarray:
    """Which points [P] have a model on either side. Of few models all may be on one: such a point stays as it is."""
    return np.logical_and(models.inside.any(1), models.outside.any(1))


@lru_cache
def _oslo(mask: bytes | None):
    def craft(models: Crafters, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if models.surrogates is None:
            raise ValueError(
                f"attack oslo: no models trained on rows that are not attacked, expected {SURROGATES} "
                "(--num_surrogates, which needs as many rows as a target's beyond those attacked)"
            )
        source, validation = (
            jax.tree.map(lambda leaf, part=part: leaf[part], models.surrogates)
            for part in (slice(None, SOURCES), slice(SOURCES, None))
        )
        return crafting.oslo(models.apply, source, validation, x, y, binary=_binary(mask))

    return craft


@lru_cache
def _towards_difference(starts, mask: bytes | None):
    make = jax.jit(jax.vmap(partial(pools.questions, starts)))

    def craft(models: Crafters, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        moved, able = np.array(make(x)), _able(models)
        if able.any():
            inside, use, binary = models.inside[able], (models.inside | models.outside)[able], _binary(mask)
            moved[able] = crafting.craft(models.apply, models.params, inside, use, moved[able], y[able], binary=binary)
        return np.concatenate([moved, between(x, y, _binary(mask))], axis=1)

    return craft


def between(x: np.ndarray, y: np.ndarray, binary: np.ndarray | None) -> np.ndarray:
    """Returns the points [P R *x] at SHARES of the way from each x [P *x] to the nearest rows that have another label.

    The nearest are those of x itself, in L2. A binary column takes the value of the other row from a share on that is
    drawn for the column. Where no row has another label, all points are x.
    """
    flat = x.reshape(len(x), -1)
    squares, made = (flat**2).sum(1), np.empty((len(x), NEIGHBOURS * len(SHARES), *x.shape[1:]), np.float32)
    when = np.random.default_rng(0).random(x.shape[1:])
    for point in range(len(x)):
        distance = np.where(y == y[point], np.inf, squares - 2 * flat @ flat[point])
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        ends = x[np.where(np.isfinite(distance[nearest]), nearest, point)]
        for i, share in enumerate(SHARES):
            moved = x[point] + share * (ends - x[point])
            if binary is not None:
                moved = np.where(binary, np.where(when < share, ends, x[point]), moved)
            made[point, i * NEIGHBOURS : (i + 1) * NEIGHBOURS] = moved
    return made
