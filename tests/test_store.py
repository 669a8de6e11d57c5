"""Parts of a run on disk: computed once, whole or absent, and never those of other settings or other code."""

import functools
import json

import numpy as np
import pytest

from mi_jax import store


class Calls:
    """A computation that counts how often it was carried out."""

    def __init__(self, part):
        self.part, self.count = part, 0

    def __call__(self):
        self.count += 1
        return self.part


PART = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int64(7), "nan": np.array([np.nan, -0.0])}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


def test_a_part_is_computed_once_and_comes_back_to_the_bit(tmp_path):
    compute = Calls(PART)
    for _ in range(2):
        assert same(store.cache_in(tmp_path / "new" / "folder")("one", compute), PART)
    assert compute.count == 1


def test_parts_are_told_apart_by_name(tmp_path):
    keep, other = store.cache_in(tmp_path), {"a": np.zeros(1)}
    keep("one", lambda: PART)
    assert same(keep("two", lambda: other), other) and same(keep("one", lambda: other), PART)


def test_a_damaged_part_is_computed_anew(tmp_path):
    keep, compute = store.cache_in(tmp_path), Calls(PART)
    keep("one", compute)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    assert same(keep("one", compute), PART) and compute.count == 2
    assert same(keep("one", compute), PART) and compute.count == 2


def test_what_fails_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        store.cache_in(tmp_path / "cache")("one", fail)
    assert not list(tmp_path.iterdir())


def test_a_run_that_keeps_nothing_computes_every_time():
    compute = Calls(PART)
    assert store.no_cache("one", compute) is store.no_cache("one", compute) is PART
    assert compute.count == 2


def test_the_digest_changes_with_every_setting_and_every_line_of_code(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("x = 1\n")
    found = {store.run_digest(settings, [code]) for settings in ({"n": 1}, {"n": 2}, {"n": 1, "m": 1})}
    (code / "a.py").write_text("x = 2\n")
    found.add(store.run_digest({"n": 1}, [code]))
    assert len(found) == 4
    assert store.run_digest({"n": 1, "m": 1}, [code]) == store.run_digest({"m": 1, "n": 1}, [code])


def test_removing_the_cache_of_a_run_leaves_those_of_others(tmp_path):
    for name in ("mine", "theirs"):
        store.cache_in(tmp_path / "cache" / name)("one", lambda: PART)
    store.remove(tmp_path / "cache" / "mine")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["theirs"]
    store.remove(tmp_path / "cache" / "theirs")
    assert not list(tmp_path.iterdir())
    store.remove(tmp_path / "cache" / "theirs")  # nothing there: nothing to do


def test_the_digest_changes_with_code_in_packages_inside_of_packages(tmp_path):
    (tmp_path / "package" / "inner").mkdir(parents=True)
    found = set()
    for line in ("x = 1\n", "x = 2\n"):
        (tmp_path / "package" / "inner" / "a.py").write_text(line)
        found.add(store.run_digest({}, [tmp_path / "package"]))
    assert len(found) == 2


QUERIES = np.arange(6, dtype=np.float32).reshape(3, 2)


def first_column(queries):
    return queries[:, 0].astype(np.uint8)


def test_an_answer_is_found_by_its_queries_and_by_how_often_they_were_put(tmp_path):
    path, put = tmp_path / "new" / "log", []

    def counting(queries):
        put.append(len(queries))
        return first_column(queries) + len(put)

    log = store.AnswerLog(path)
    answers = [log.ask(queries, counting) for queries in (QUERIES, QUERIES, QUERIES[:2], QUERIES.astype(np.float64))]
    assert put == [3, 3, 2, 3] and not any(stored for _, stored in answers)
    again = store.AnswerLog(path)
    for queries, (expected, _) in zip((QUERIES, QUERIES, QUERIES[:2]), answers, strict=False):
        found, stored = again.ask(queries, counting)
        assert stored and found.tobytes() == expected.tobytes() and found.dtype == expected.dtype
    assert not again.ask(QUERIES, counting)[1] and put == [3, 3, 2, 3, 3] and again.unanswered == 0


@pytest.mark.parametrize("kept", [-1, -20, -60])
def test_a_line_that_was_cut_off_is_asked_again_and_counted(tmp_path, kept):
    path = tmp_path / "log"
    store.AnswerLog(path).ask(QUERIES[:1], first_column)
    store.AnswerLog(path).ask(QUERIES, first_column)
    path.write_bytes(path.read_bytes()[:kept])
    for expected in (False, True):  # the second time from a file whose middle is damaged
        log = store.AnswerLog(path)
        assert log.ask(QUERIES[:1], first_column)[1] and log.ask(QUERIES, first_column)[1] is (expected or kept == -1)
        assert log.unanswered == (0 if kept == -1 else 3)


def test_queries_without_an_answer_are_counted(tmp_path):
    def fail(queries):
        raise ConnectionError

    for count in (1, 2):
        log = store.AnswerLog(tmp_path / "log")
        assert log.unanswered == 3 * (count - 1)
        with pytest.raises(ConnectionError):
            log.ask(QUERIES, fail)
    log = store.AnswerLog(tmp_path / "log")
    assert not log.ask(QUERIES, first_column)[1] and log.unanswered == 6
    assert store.AnswerLog(tmp_path / "log").unanswered == 6


def test_an_answer_that_was_changed_on_disk_is_asked_again(tmp_path):
    path = tmp_path / "log"
    store.AnswerLog(path).ask(QUERIES, first_column)
    lines = path.read_text().splitlines()
    entry = json.loads(lines[1])
    lines[1] = json.dumps(entry | {"answers": entry["answers"][:-4] + "AQAA"})
    path.write_text("\n".join(lines))
    log = store.AnswerLog(path)
    answers, stored = log.ask(QUERIES, first_column)
    assert not stored and log.unanswered == 3 and (answers == first_column(QUERIES)).all()


def test_code_is_told_apart_by_its_text_and_by_what_it_encloses():
    def enclosing(value):
        return lambda x: (x, value)

    def other(value):
        return lambda x: (value, x)

    functions = [enclosing(1), enclosing(2), enclosing("1"), other(1), lambda x: (x, 1), functools.partial(other, 1)]
    functions += [functools.partial(other, 2), None, len]
    functions += [lambda x, value=value: (x, value) for value in (1, 2)]
    functions += [enclosing(np.arange(3)), enclosing(np.arange(3.0)), enclosing(np.ones(3)), enclosing(np.float32(1))]
    described = [json.dumps(store.describe_code(function)) for function in functions]
    assert len(set(described)) == len(functions) and described[0] == json.dumps(store.describe_code(enclosing(1)))


def test_code_that_encloses_itself_has_an_end():
    def repeat(times):
        return repeat(times - 1) if times else 0

    assert store.describe_code(repeat) == store.describe_code(repeat)
