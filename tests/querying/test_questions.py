"""Questions of a pool: who is asked what, how often it is counted, and what is remembered."""

import jax.numpy as jnp
import numpy as np
import pytest

from mi_jax.attacks import AttackContext, pools
from mi_jax.querying import oracle
from mi_jax.querying.questions import Questioner, Questions
from mi_jax.types import Dataset, Pool

C, F, N = 3, 5, 40
RNG = np.random.default_rng(0)
DATASET = Dataset("table", RNG.random((N, F), np.float32), RNG.integers(0, C, N).astype(np.int32), C, np.zeros(F, bool))
ROWS = np.array([3, 4, 10, 21, 22, 39])


def shifted(step: float, count: int):
    return lambda key, x: jnp.clip(x + step * np.arange(1, count + 1, dtype=np.float32)[:, None], 0, 1)


POOL = Pool(("itself", "up", "down"), (lambda key, x: x[None], shifted(0.1, 4), shifted(-0.2, 3)), (1, 4, 3))
Q = sum(POOL.counts)


def every_question() -> np.ndarray:
    """All questions [P Q *x] in plain NumPy."""
    return np.stack([np.concatenate([make(None, x) for make in POOL.make]) for x in DATASET.x[ROWS]])


def logits_of(x: np.ndarray, k: int) -> np.ndarray:
    return np.asarray(x, np.float32) @ np.random.default_rng(k).normal(size=(F, C)).astype(np.float32)


class Models:
    """Linear models that record what they are asked: access -> k -> rows in order."""

    def __init__(self, *, label_only=False, digest=True, answer=None):
        self.asked, self.label_only, self.digest = {"label": {}, "confidence": {}}, label_only, digest
        self.answer = answer or logits_of

    def __call__(self, k: int, access: str) -> oracle.Oracle:
        def answer(x, live):
            x = np.asarray(x)
            self.asked[access].setdefault(k, []).append(x[:live])
            logits = self.answer(x, k)
            if access == "label" or self.label_only:
                return logits.argmax(1).astype(np.int32)
            return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)

        return oracle.Oracle(answer, access, C, f"digest {k}" if self.digest else None)

    def put(self, access: str, k: int) -> np.ndarray:
        return np.concatenate(self.asked[access].get(k, [np.zeros((0, F))]))


def test_margins_are_the_logit_of_the_label_less_the_largest_other_one():
    models = Models()
    found = Questioner(DATASET, models, 4).margins(Questions(POOL, ROWS), np.array([1, 3]))
    assert found.shape == (len(ROWS), 4, Q)
    for k in (1, 3):
        for point, (row, asked) in enumerate(zip(ROWS, every_question(), strict=True)):
            logits, y = logits_of(asked, k), DATASET.y[row]
            expected = logits[:, y] - np.delete(logits, y, axis=1).max(1)
            np.testing.assert_allclose(found[point, k], expected, atol=1e-4)
    np.testing.assert_array_equal(found[:, [0, 2]], 0)


def test_models_that_answer_labels_alone_have_margins_of_plus_and_minus_one():
    found = Questioner(DATASET, Models(label_only=True), 2).margins(Questions(POOL, ROWS), np.array([1]))
    is_label = logits_of(every_question(), 1).argmax(-1) == DATASET.y[ROWS][:, None]
    np.testing.assert_array_equal(found[:, 1], np.where(is_label, 1, -1))


def test_probabilities_of_0_have_finite_margins_with_their_sign():
    certain = Models(answer=lambda x, k: np.where(np.arange(C) == 1, 0.0, -np.inf) + np.zeros((len(x), 1)))
    with np.errstate(invalid="ignore"):
        found = Questioner(DATASET, certain, 1).margins(Questions(POOL, ROWS), np.array([0]))[:, 0]
    assert np.isfinite(found).all()
    assert (found[DATASET.y[ROWS] == 1] > 100).all()
    assert (found[DATASET.y[ROWS] != 1] < -100).all()


def test_a_shadow_model_is_asked_all_questions_once_however_many_trials_it_serves():
    models, reported = Models(), []
    questioner = Questioner(DATASET, models, 4, progress=reported.append)
    first = questioner.margins(Questions(POOL, ROWS), np.array([0, 1])).copy()
    again = questioner.margins(Questions(POOL, ROWS), np.array([1, 2, 0]))
    np.testing.assert_array_equal(again[:, :2], first[:, :2])
    assert questioner.queries == {k: len(ROWS) * Q for k in (0, 1, 2)} and sum(reported) == 3 * len(ROWS) * Q
    for k in (0, 1, 2):
        np.testing.assert_allclose(models.put("confidence", k), every_question().reshape(-1, F), atol=1e-6)
    assert not models.asked["label"] and 3 not in models.asked["confidence"]


def test_the_target_is_asked_for_labels_of_the_questions_of_its_order_and_nothing_else():
    models, order = Models(), np.argsort(RNG.random((len(ROWS), Q)))[:, :3]
    questioner = Questioner(DATASET, models, 4)
    found = questioner.answers(Questions(POOL, ROWS), 2, order)
    chosen = np.take_along_axis(every_question(), order[..., None], 1)
    np.testing.assert_allclose(models.put("label", 2), chosen.reshape(-1, F), atol=1e-6)
    assert not models.asked["confidence"] and list(models.asked["label"]) == [2]
    expected = logits_of(chosen, 2).argmax(-1) == DATASET.y[ROWS][:, None]
    np.testing.assert_array_equal(found.features, expected[:, None].astype(np.float32))
    np.testing.assert_array_equal(found.queries, 3)
    assert found.finished.all() and found.phases == {"questions": 18} and questioner.queries == {2: 18}


@pytest.mark.parametrize("cap, finished", [(3, 1), (17, 5), (18, 6), (10**6, 6)])
def test_points_beyond_a_cap_are_not_asked(cap, finished):
    models, order = Models(), np.tile(np.arange(3), (len(ROWS), 1))
    found = Questioner(DATASET, models, 4).answers(Questions(POOL, ROWS), 0, order, cap)
    assert len(models.put("label", 0)) == found.queries.sum() == 3 * finished <= cap
    np.testing.assert_array_equal(found.finished, np.arange(len(ROWS)) < finished)
    np.testing.assert_array_equal(np.isnan(found.features[:, 0]).all(1), ~found.finished)


def test_points_in_many_chunks_are_answered_as_in_one(monkeypatch):
    order = np.argsort(RNG.random((len(ROWS), Q)))[:, :3]

    def both():
        models = Models()
        questioner = Questioner(DATASET, models, 1)
        margins = questioner.margins(Questions(POOL, ROWS), np.array([0]))
        answers = questioner.answers(Questions(POOL, ROWS), 0, order)
        assert questioner.queries == {0: len(ROWS) * (Q + 3)}
        assert len(models.put("confidence", 0)) == len(ROWS) * Q and len(models.put("label", 0)) == len(ROWS) * 3
        return margins, answers

    margins, answers = both()
    monkeypatch.setattr("mi_jax.querying.questions.POINTS", 4)  # a full chunk, and one of two points
    few_margins, few_answers = both()
    np.testing.assert_allclose(few_margins, margins, atol=1e-5)
    np.testing.assert_array_equal(few_answers.features, answers.features)


def test_a_point_is_asked_until_it_is_decided():
    models, order = Models(), np.tile(np.arange(5), (len(ROWS), 1))
    needed = np.array([1, 5, 2, 3, 1, 4])
    questioner = Questioner(DATASET, models, 1)
    whole = questioner.answers(Questions(POOL, ROWS), 0, order).features[:, 0]
    models.asked["label"].clear()
    found = questioner.answers(Questions(POOL, ROWS), 0, order, stop=lambda a, points: a.shape[1] >= needed[points])
    np.testing.assert_array_equal(found.queries, needed)
    assert len(models.put("label", 0)) == needed.sum() == found.phases["questions"]
    asked = np.arange(5) < needed[:, None]
    np.testing.assert_array_equal(found.features[:, 0], np.where(asked, whole, 0))


def remembering(entries: dict):
    def cache(name, compute):
        if name not in entries:
            entries[name] = compute()
        return entries[name]

    return cache


def test_cached_answers_are_not_asked_for_again():
    entries, order = {}, np.zeros((len(ROWS), 1), int)
    first = Questioner(DATASET, Models(), 2, cache=remembering(entries)).margins(
        Questions(POOL, ROWS), np.array([0, 1])
    )
    models = Models()
    again = Questioner(DATASET, models, 2, cache=remembering(entries))
    np.testing.assert_array_equal(again.margins(Questions(POOL, ROWS), np.array([0, 1])), first)
    assert not models.asked["confidence"]
    assert again.queries == {0: len(ROWS) * Q, 1: len(ROWS) * Q}  # an audit counts what its answers cost
    again.answers(Questions(POOL, ROWS), 0, order)
    assert len(models.put("label", 0)) == len(ROWS)


@pytest.mark.parametrize("changed", ["model", "rows", "labels", "examples", "pool", "code"])
def test_answers_of_another_model_pool_example_or_label_are_kept_apart(changed):
    entries = {}
    Questioner(DATASET, Models(), 1, cache=remembering(entries)).margins(Questions(POOL, ROWS), np.array([0]))
    dataset, pool, rows, count = DATASET, POOL, ROWS, len(entries)
    models = Models()
    target = models
    if changed == "model":
        target = lambda k, access: models(k, access)._replace(digest="other")  # noqa: E731
    elif changed == "rows":
        rows = ROWS + np.array([0, 1, 0, 0, 1, 0])
    elif changed == "labels":
        dataset = DATASET._replace(y=(DATASET.y + 1) % C)
    elif changed == "examples":
        dataset = DATASET._replace(x=1 - DATASET.x)
    elif changed == "pool":
        pool = Pool((*POOL.kinds, "more"), (*POOL.make, shifted(0.3, 1)), (*POOL.counts, 1))
    else:
        pool = POOL._replace(make=(POOL.make[0], shifted(0.15, 4), POOL.make[2]))
    Questioner(dataset, target, 1, cache=remembering(entries)).margins(Questions(pool, rows), np.array([0]))
    assert len(entries) == 2 * count and len(models.put("confidence", 0)) == len(rows) * sum(pool.counts)


def test_models_without_a_digest_are_not_cached():
    entries, models = {}, Models(digest=False)
    for _ in range(2):
        questioner = Questioner(DATASET, models, 1, cache=remembering(entries))
        questioner.margins(Questions(POOL, ROWS), np.array([0]))
    assert not entries and len(models.put("confidence", 0)) == 2 * len(ROWS) * Q


def test_a_model_that_answers_nan_is_refused():
    broken = Models(answer=lambda x, k: np.full((len(x), C), np.nan))
    with pytest.raises(ValueError, match="the target answered NaN"):
        Questioner(DATASET, broken, 1).margins(Questions(POOL, ROWS), np.array([0]))


def test_questions_of_a_context_are_the_same_for_shadow_models_and_target():
    context = AttackContext((F,), C, np.zeros(F, bool), 10, np.full(F, 0.3), 0.0, 1.0)
    noisy, models = pools.pool_of(context), Models()
    questioner, number = Questioner(DATASET, models, 2), sum(noisy.counts)
    questioner.margins(Questions(noisy, ROWS), np.array([0]))
    questioner.answers(Questions(noisy, ROWS), 1, np.tile(np.arange(number), (len(ROWS), 1)))
    np.testing.assert_array_equal(models.put("label", 1), models.put("confidence", 0))
