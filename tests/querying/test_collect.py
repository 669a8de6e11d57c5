"""Asking in parts: the same answers as at once, also where a run was stopped; nothing is asked twice."""

import jax
import numpy as np
import pytest

from mi_jax import attacks, store
from mi_jax.attacks import schedules
from mi_jax.querying import collect, driver, oracle
from mi_jax.types import Dataset

SHAPE, P = (6,), 40
KEY = jax.random.key(3)
W = np.linspace(-1, 1, 6).astype(np.float32)
TASK = attacks.AttackContext(SHAPE, 2, None, budget=60)


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset("points", rng.random((100, *SHAPE), np.float32), rng.integers(0, 2, 100).astype(np.int32), 2)


@pytest.fixture
def parts_of_sixteen(monkeypatch):
    monkeypatch.setattr(collect, "CHUNK", 16)


POINTS = collect.Points(np.arange(50, 50 + P), np.arange(P) < P // 2)


def counted(limit=10**9):
    """(target, rows put so far): a linear classifier that breaks down when asked more than `limit` rows."""
    put = [0]

    def classify(x):
        put[0] += len(x)
        if put[0] > limit:
            raise ConnectionError("the target hung up")
        return (x.reshape(len(x), -1) @ W > 0.1).astype(np.int32)

    return (lambda k, access: oracle.function_oracle(classify, 2, access=access)), put


def same(a, b) -> bool:
    return a.features.tobytes() == b.features.tobytes() and (a.queries == b.queries).all() and a.phases == b.phases


@pytest.mark.parametrize("name", ["gap", "noise", "boundary", "rays"])
def test_chunks_do_not_change_an_answer(name, dataset, parts_of_sixteen):
    (attack, *_), (target, put) = attacks.build(name, TASK), counted()
    answers = collect.collector(KEY, dataset, target)(attack, 3, POINTS)
    x, y = dataset.x[POINTS.rows], dataset.y[POINTS.rows]
    own = jax.random.fold_in(KEY, 3)
    assert same(answers, driver.query(target(3, "label"), attack, own, x, y, POINTS.rows))
    assert answers.queries.sum() == put[0] / 2 == sum(answers.phases.values())


def test_an_interrupted_collection_resumes_to_the_same_bits(dataset, parts_of_sixteen, tmp_path):
    (attack,), (target, put) = attacks.build("boundary", TASK), counted()
    whole = collect.collector(KEY, dataset, target)(attack, 0, POINTS)
    broken, _ = counted(limit=put[0] // 2)
    with pytest.raises(ConnectionError):
        collect.collector(KEY, dataset, broken, cache=store.cache_in(tmp_path))(attack, 0, POINTS)
    finished = len(list(tmp_path.iterdir()))
    again, asked = counted()
    resumed = collect.collector(KEY, dataset, again, cache=store.cache_in(tmp_path))(attack, 0, POINTS)
    assert same(resumed, whole) and 0 < finished < len(list(tmp_path.iterdir())) == 3
    assert asked[0] == resumed.queries[16 * finished :].sum()


def test_models_strengths_and_points_have_their_own_entries(dataset, tmp_path):
    (weak, strong, *_), (target, _) = attacks.build("noise", TASK), counted()
    ask = collect.collector(KEY, dataset, target, cache=store.cache_in(tmp_path))
    for attack, k, points in ((weak, 0, POINTS), (strong, 0, POINTS), (weak, 1, POINTS), (weak, 0, POINTS.first(5))):
        ask(attack, k, points)
    assert len(list(tmp_path.iterdir())) == 4


def test_strengths_that_signs_or_brackets_distinguish_have_their_own_entries(dataset, tmp_path):
    (attack, *_), (target, _) = attacks.build("noise", TASK), counted()
    ask = collect.collector(KEY, dataset, target, cache=store.cache_in(tmp_path))
    for settings in ({"by": -0.1}, {"by": 0.1}, {"by": (1, 2)}, {"by": (1, -2)}):
        ask(attack._replace(settings=settings), 0, POINTS.first(3))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cap_on_queries_is_refused_where_gradients_are_spent(dataset):
    (attack,), (target, put) = attacks.build("white_box", TASK), counted()
    with pytest.raises(ValueError, match="cap=9: expected none with white_box, which computes gradients"):
        collect.collector(KEY, dataset, target)(attack, 0, POINTS, 9)
    assert put[0] == 0


def test_a_cap_counts_over_all_chunks(dataset, parts_of_sixteen):
    (attack,), (target, put) = attacks.build("boundary", TASK), counted()
    whole = collect.collector(KEY, dataset, target)(attack, 0, POINTS)
    cap = int(whole.queries[:16].sum()) + 20  # the first part, and the first labels of the second
    put[0] = 0
    answers = collect.collector(KEY, dataset, target)(attack, 0, POINTS, cap)
    assert answers.finished[:16].all() and not answers.finished[32:].any()
    assert answers.queries.sum() == put[0] <= cap
    np.testing.assert_array_equal(answers.features[:16], whole.features[:16])


def test_progress_adds_up_to_what_was_planned(dataset, parts_of_sixteen):
    (attack,), (target, _), message = attacks.build("boundary", TASK), counted(), []
    collect.collector(KEY, dataset, target, progress=message.append)(attack, 0, POINTS)
    price = 1 + schedules.total_queries(schedules.schedule(60, 6))
    assert collect.max_cost(dataset, attack) == price and sum(message) == P * price and len(message) > 3


def test_the_first_points_are_taken_from_either_side():
    points = POINTS.first(3)
    np.testing.assert_array_equal(points.rows, [50, 51, 52, 70, 71, 72])
    assert points.is_member.tolist() == [True] * 3 + [False] * 3
    np.testing.assert_array_equal(POINTS.first(100).rows, POINTS.rows)


def test_what_is_asked_of_a_model_is_kept_where_that_model_belongs():
    kept = {"even": [], "odd": []}

    def keep_of(k):
        def keep(name, compute):
            kept["odd" if k % 2 else "even"].append(name)
            return compute()

        return keep

    keep = collect.cache_by_model(keep_of)
    for name in ("noise-p-0.5-model-4-points-0-of-40", "boundary-model-13-points-2560-of-5000"):
        assert keep(name, lambda: {"a": np.ones(1)})["a"] == 1
    assert [len(kept[side]) for side in ("even", "odd")] == [1, 1] and "model-13" in kept["odd"][0]


def test_answers_about_other_rows_and_under_another_cap_are_kept_apart(dataset, tmp_path):
    (attack, *_), (target, _) = attacks.build("noise", TASK), counted()
    ask, few = collect.collector(KEY, dataset, target, cache=store.cache_in(tmp_path)), POINTS.first(3)
    others = few._replace(rows=few.rows + 1)
    for points, cap in ((few, None), (others, None), (few, 1000), (few, 1001)):
        ask(attack, 0, points, cap)
    assert len(list(tmp_path.iterdir())) == 4
