"""Asking in parts: the same answers as at once, also where a run was stopped; nothing is asked twice."""

import re

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


def counted(limit=10**9, digest="linear", w=W):
    """(target, rows put so far): a linear classifier that breaks down when asked more than `limit` rows."""
    put = [0]

    def classify(x):
        put[0] += len(x)
        if put[0] > limit:
            raise ConnectionError("the target hung up")
        return (x.reshape(len(x), -1) @ w > 0.1).astype(np.int32)

    def target(k, access):
        made = oracle.function_oracle(classify, 2, access=access, name=f"linear {k}", rows_per_call=8)
        return made._replace(digest=digest)

    return target, put


def same(a, b) -> bool:
    return a.features.tobytes() == b.features.tobytes() and (a.queries == b.queries).all() and a.phases == b.phases


@pytest.mark.parametrize("name", ["gap", "noise", "boundary", "rays"])
def test_chunks_do_not_change_an_answer(name, dataset, parts_of_sixteen):
    (attack, *_), (target, put) = attacks.build(name, TASK), counted()
    answers = collect.Collector(KEY, dataset, target)(attack, 3, POINTS)
    x, y = dataset.x[POINTS.rows], dataset.y[POINTS.rows]
    own = jax.random.fold_in(KEY, 3)
    assert same(answers, driver.query(target(3, "label"), attack, own, x, y, POINTS.rows))
    assert answers.queries.sum() == put[0] / 2 == sum(answers.phases.values())


def test_an_interrupted_collection_resumes_to_the_same_bits(dataset, parts_of_sixteen, tmp_path):
    (attack,), (target, put) = attacks.build("boundary", TASK), counted()
    whole = collect.Collector(KEY, dataset, target)(attack, 0, POINTS)
    broken, _ = counted(limit=put[0] // 2)
    with pytest.raises(ConnectionError):
        collect.Collector(KEY, dataset, broken, cache=store.cache_in(tmp_path))(attack, 0, POINTS)
    finished = len(list(tmp_path.iterdir()))
    again, asked = counted()
    resumed = collect.Collector(KEY, dataset, again, cache=store.cache_in(tmp_path))(attack, 0, POINTS)
    assert same(resumed, whole) and 0 < finished < len(list(tmp_path.iterdir())) == 3
    assert asked[0] == resumed.queries[16 * finished :].sum()


def test_models_strengths_and_points_have_their_own_entries(dataset, tmp_path):
    (weak, strong, *_), (target, _) = attacks.build("noise", TASK), counted()
    ask = collect.Collector(KEY, dataset, target, cache=store.cache_in(tmp_path))
    for attack, k, points in ((weak, 0, POINTS), (strong, 0, POINTS), (weak, 1, POINTS), (weak, 0, POINTS.first(5))):
        ask(attack, k, points)
    assert len(list(tmp_path.iterdir())) == 4


def test_strengths_that_signs_or_brackets_distinguish_have_their_own_entries(dataset, tmp_path):
    (attack, *_), (target, _) = attacks.build("noise", TASK), counted()
    ask = collect.Collector(KEY, dataset, target, cache=store.cache_in(tmp_path))
    for settings in ({"by": -0.1}, {"by": 0.1}, {"by": (1, 2)}, {"by": (1, -2)}):
        ask(attack._replace(settings=settings), 0, POINTS.first(3))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cap_on_queries_is_refused_where_gradients_are_spent(dataset):
    (attack,), (target, put) = attacks.build("white_box", TASK), counted()
    with pytest.raises(ValueError, match="cap=9: expected none with white_box, which computes gradients"):
        collect.Collector(KEY, dataset, target)(attack, 0, POINTS, 9)
    assert put[0] == 0


def test_a_cap_counts_over_all_chunks(dataset, parts_of_sixteen):
    (attack,), (target, put) = attacks.build("boundary", TASK), counted()
    whole = collect.Collector(KEY, dataset, target)(attack, 0, POINTS)
    cap = int(whole.queries[:16].sum()) + 20  # the first part, and the first labels of the second
    put[0] = 0
    answers = collect.Collector(KEY, dataset, target)(attack, 0, POINTS, cap)
    assert answers.finished[:16].all() and not answers.finished[32:].any()
    assert answers.queries.sum() == put[0] <= cap
    np.testing.assert_array_equal(answers.features[:16], whole.features[:16])


def test_progress_adds_up_to_what_was_planned(dataset, parts_of_sixteen):
    (attack,), (target, _), message = attacks.build("boundary", TASK), counted(), []
    collect.Collector(KEY, dataset, target, progress=message.append)(attack, 0, POINTS)
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
    ask, few = collect.Collector(KEY, dataset, target, cache=store.cache_in(tmp_path)), POINTS.first(3)
    others = few._replace(rows=few.rows + 1)
    for points, cap in ((few, None), (others, None), (few, 1000), (few, 1001)):
        ask(attack, 0, points, cap)
    assert len(list(tmp_path.iterdir())) == 4


def test_answers_of_another_model_key_example_or_label_are_kept_apart(dataset, tmp_path):
    attack, few = attacks.build("noise", TASK)[0], POINTS.first(3)
    other = dataset._replace(x=1 - dataset.x), dataset._replace(y=1 - dataset.y)
    for key, data, digest in ((KEY, dataset, "a"), (KEY, dataset, "b"), (jax.random.key(4), dataset, "a"),
                              (KEY, other[0], "a"), (KEY, other[1], "a")):  # fmt: skip
        collect.Collector(key, data, counted(digest=digest)[0], cache=store.cache_in(tmp_path))(attack, 0, few)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_target_that_nothing_identifies_is_not_cached(dataset, tmp_path):
    attack, (target, put) = attacks.build("gap", TASK)[0], counted(digest=None)
    for _ in range(2):
        collect.Collector(KEY, dataset, target, cache=store.cache_in(tmp_path))(attack, 0, POINTS)
    assert not list(tmp_path.iterdir()) and put[0] == 2 * P


def test_a_model_that_serves_two_trials_is_asked_once(dataset):
    attack, (target, put), message = attacks.build("gap", TASK)[0], counted(), []
    collected = collect.Collector(KEY, dataset, target, progress=message.append)
    assert collected(attack, 0, POINTS) is collected(attack, 0, POINTS)
    assert put[0] == P == sum(collected.queries.values()) and sum(message) == 2 * P


def in_logs(folder, target, random=False):
    return collect.AnswerLogs(target, 2, folder, random)


@pytest.mark.parametrize("name", ["noise", "boundary"])
def test_what_a_target_answered_before_it_failed_is_not_asked_again(name, dataset, parts_of_sixteen, tmp_path):
    (attack, *_), (target, put) = attacks.build(name, TASK), counted(digest=None)
    whole = collect.Collector(KEY, dataset, target)(attack, 0, POINTS)
    limit = put[0] // 2
    broken, asked_before = counted(limit=limit, digest=None)
    with pytest.raises(ConnectionError, match="hung up"):
        collect.Collector(KEY, dataset, in_logs(tmp_path, broken).target)(attack, 0, POINTS)
    again, asked = counted(digest=None)
    logs = in_logs(tmp_path, again)
    resumed = collect.Collector(KEY, dataset, logs.target)(attack, 0, POINTS)
    assert same(resumed, whole)
    # Only the batch of at most eight rows in flight is put twice, and what compares the stored answers.
    assert 0 < logs.failed <= 8 and 0 < logs.repeated <= 8 + oracle.PROBES * np.log2(1 + limit / oracle.PROBES)
    assert asked_before[0] + asked[0] == whole.queries.sum() + logs.failed + logs.repeated


def test_a_target_that_fails_says_how_many_queries_the_attack_had_put_to_all_models(dataset, parts_of_sixteen):
    (attack,), (other,), (target, put) = attacks.build("gap", TASK), attacks.build("boundary", TASK), counted(limit=99)
    collected, said = collect.Collector(KEY, dataset, target), "gap: up to 112 queries put to all models so far"
    for k in range(2):
        collected(attack, k, POINTS)
    with pytest.raises(ConnectionError, match="hung up") as error:
        collected(attack, 2, POINTS)
    assert put[0] == 104 and [note[: len(said)] for note in error.value.__notes__] == [said]
    with pytest.raises(ConnectionError) as error:
        collected(other, 2, POINTS)
    assert re.match(r"boundary: up to 16 queries", error.value.__notes__[0])


def test_stored_answers_of_another_model_are_refused(dataset, tmp_path):
    (attack,) = attacks.build("gap", TASK)
    for w, says in ((W, None), (W, None), (-W, r"\d of 8 stored answers are not those of the target linear 0")):
        logs = in_logs(tmp_path, counted(digest=None, w=w)[0])
        if says is None:
            collect.Collector(KEY, dataset, logs.target)(attack, 0, POINTS)
        else:
            with pytest.raises(ValueError, match=says):
                collect.Collector(KEY, dataset, logs.target)(attack, 0, POINTS)
    assert len(list(tmp_path.iterdir())) == 1


def test_only_named_targets_are_logged_and_each_in_its_own_file(dataset, tmp_path):
    (attack,), (target, _) = attacks.build("gap", TASK), counted(digest=None)
    collect.Collector(KEY, dataset, in_logs(None, target).target)(attack, 0, POINTS)
    nameless = in_logs(tmp_path, lambda k, access: target(k, access)._replace(name=None))
    collect.Collector(KEY, dataset, nameless.target)(attack, 0, POINTS)
    assert not list(tmp_path.iterdir())
    logs = in_logs(tmp_path, lambda k, access: target(k, access)._replace(name=("a/b", "a b", "a/b", 5)[k]))
    for k in range(2):
        collect.Collector(KEY, dataset, logs.target)(attack, k, POINTS)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="name=a/b: models 0 and 2 have it, expected a name for each model"):
        logs.target(2, "label")
    with pytest.raises(ValueError, match="name=5 of target 3: expected text"):
        logs.target(3, "label")


def test_a_model_that_differs_only_in_a_later_batch_is_noticed(dataset, tmp_path):
    """The stored answers are compared again and again: here the other model agrees on all examples themselves."""
    attack = attacks.build("noise", TASK)[-1]
    labels = {row.tobytes(): label for row, label in zip(dataset.x, dataset.x @ W > 0.1, strict=True)}
    for sign in (1, -1):

        def classify(x, sign=sign):
            return np.array([labels.get(row.tobytes(), row @ W * sign > 0.1 * sign) for row in x], int)

        named = oracle.function_oracle(classify, 2, name="model", rows_per_call=32)
        logs = in_logs(tmp_path, lambda k, access, named=named: named)
        if sign == 1:
            collect.Collector(KEY, dataset, logs.target)(attack, 0, POINTS)
        else:
            with pytest.raises(ValueError, match=r"of 32 stored answers are not those of the target model"):
                collect.Collector(KEY, dataset, logs.target)(attack, 0, POINTS)


def replayed(path, labels, changed, sizes):
    """Stores labels of numbered queries in batches; which of them a target of `changed` labels is then asked."""
    asked = []

    def answer_all(labels, log):
        def look_up(x):
            asked.append(x[:, 0].astype(int))
            return np.asarray(labels)[asked[-1]]

        target = oracle.logged(oracle.function_oracle(look_up, 10, name="model", rows_per_call=1000), log)
        ends = np.cumsum(sizes)
        for start, end in zip(ends - sizes, ends, strict=True):
            target.answer(np.arange(start, end, dtype=np.float32)[:, None], end - start)

    answer_all(labels, store.AnswerLog(path))
    asked.clear()
    log = store.AnswerLog(path)
    answer_all(changed, log)
    assert log.probed == sum(map(len, asked))
    return np.concatenate(asked)


def test_the_whole_first_batch_and_a_shrinking_share_of_the_others_are_compared(tmp_path):
    labels = np.zeros(5700, int)
    many = replayed(tmp_path / "many", labels, labels, [700, *5 * [1000]])
    np.testing.assert_array_equal(many[:700], np.arange(700))
    due = [int(256 * np.log2(1 + n / 256)) for n in range(700, 5701, 1000)]
    np.testing.assert_array_equal([np.sum(many // 100 >= 7), len(np.unique(many))], [due[-1] - due[0], len(many)])
    one_by_one = replayed(tmp_path / "one by one", labels, labels, np.ones(5700, int))
    np.testing.assert_array_equal(one_by_one[:100], np.arange(100))
    assert due[-1] / 2 < len(one_by_one) <= due[-1] and one_by_one.max() > 5600


@pytest.mark.parametrize("differs", [308, 2123])
def test_a_model_that_differs_in_one_answer_is_noticed(differs, tmp_path):
    """One of the first batch; or of a later one a label unlike those around it, as similar models differ."""
    labels = np.eye(1, 3000, differs, dtype=int)[0]
    with pytest.raises(ValueError, match="1 of [0-9]+ stored answers are not those of the target model"):
        replayed(tmp_path / "log", labels, 0 * labels, 3 * [1000])


def test_a_batch_that_was_put_twice_is_compared_once(tmp_path):
    log, put = store.AnswerLog(tmp_path / "log"), []

    def zeros(x):
        put.append(len(x))
        return np.zeros(len(x), int)

    for _ in range(2):
        log = store.AnswerLog(tmp_path / "log")
        for _ in range(2):
            oracle.logged(oracle.function_oracle(zeros, 2, name="model"), log).answer(np.zeros((9, 3), np.float32), 9)
    assert put == [9, 9, 9] and log.probed == 9


def test_a_log_in_no_folder_is_refused(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a file in a folder, to store answers in"):
        in_logs(tmp_path / "file", counted(digest=None)[0]).target(0, "label")


def test_attacks_of_other_code_or_strength_are_kept_apart(dataset, tmp_path):
    """Under the same settings: strengths that are arrays, and perturbations of other code or enclosed values."""
    few, (noisy, *_), (bit,) = POINTS.first(3), attacks.build("noise", TASK), attacks.build("gap", TASK)
    strength = {"sigma": np.full(6, 0.1, np.float32)}
    scaled = noisy._replace(measure=noisy.measure._replace(strength=strength))
    darker, brighter = ((lambda key, x, by=by: x[None] + 0 * by) for by in (1, 2))
    dimmed = [bit._replace(neighbours=neighbours) for neighbours in (darker, lambda key, x: x[None] / 2, by(1), by(2))]
    ask = collect.Collector(KEY, dataset, counted()[0], cache=store.cache_in(tmp_path))
    for attack in (noisy, scaled, bit, *dimmed, bit._replace(neighbours=brighter)):
        ask(attack, 0, few)
    assert len(list(tmp_path.iterdir())) == 8


def by(amount):
    return lambda key, x: x[None] * amount / 4


def test_what_is_no_oracle_of_these_classes_is_refused():
    with pytest.raises(ValueError, match=r"target\(3, 'label'\) is a ndarray, expected an oracle"):
        in_logs(None, lambda k, access: np.zeros(2)).target(3, "label")
    with pytest.raises(ValueError, match="answers 5 classes: expected 2, as the data set has"):
        in_logs(None, lambda k, access: oracle.function_oracle(len, 5)).target(0, "label")
