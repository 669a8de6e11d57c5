import time

import numpy as np
import pandas as pd
import pytest

import mi_jax
from mi_jax.querying.server import Server, _after
from tests.querying.faulty_server import Faulty, schedule, serving

PATHS = ("/v1/models/m:predict", "/v2/models/m/infer", "/invocations")
RNG = np.random.default_rng(0)
X = RNG.random((60, 3))
Y = (X.sum(1) > 1.5).astype(int)
Y[::7] = 1 - Y[::7]


def predict(rows):
    """Knows the first half by heart."""
    known = {row.tobytes(): label for row, label in zip(X[:30].astype(np.float32), Y[:30], strict=True)}
    rows = np.asarray(rows, np.float64)
    rule = (rows.sum(1) > 1.5).astype(int)
    return np.array([known.get(row.astype(np.float32).tobytes(), one) for row, one in zip(rows, rule, strict=True)])


def audit(server, **options):
    return mi_jax.audit_model(server, (X[:30], Y[:30]), (X[30:], Y[30:]), attacks=["gap", "noise"], budget=4, **options)


def fast(url, **options):
    return Server(url, **{"timeout": 0.3, "deadline": 20.0, "rows_per_request": 100} | options)


@pytest.fixture(scope="module")
def faultless():
    return audit(predict)


@pytest.mark.parametrize("path", PATHS)
def test_a_server_gives_the_scores_of_the_model_behind_it(path, faultless):
    faulty = Faulty(predict)
    with serving(faulty, path) as url:
        server = fast(url)
        audited = audit(server)
    for name, values in faultless.scores.items():
        np.testing.assert_array_equal(audited.scores[name], values)
    assert faulty.rows == server.put == audited.record["queries"]["total"] and server.retried == 0
    assert max(map(len, faulty.seen)) <= 100


def assert_faults_change_nothing(seed, path, faultless):
    faulty = Faulty(predict, schedule(seed))
    with serving(faulty, path) as url:
        server = fast(url)
        audited = audit(server)
    for name, values in faultless.scores.items():
        np.testing.assert_array_equal(audited.scores[name], values)
    assert faulty.rows == server.put == audited.record["queries"]["total"]
    assert server.retried == audited.record["queries"]["failed"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_faults_change_neither_scores_nor_counts(seed, faultless):
    assert_faults_change_nothing(seed, PATHS[seed], faultless)


@pytest.mark.slow  # two minutes: a hundred schedules of faults
@pytest.mark.parametrize("seed", range(3, 103))
def test_a_hundred_schedules_of_faults_change_neither_scores_nor_counts(seed, faultless):
    assert_faults_change_nothing(seed, PATHS[seed % 3], faultless)


def test_an_answer_to_another_request_is_put_again():
    faulty = Faulty(predict, lambda number: "reorder" if number < 3 else None)
    with serving(faulty, "/v2/models/m/infer") as url:
        server = fast(url)
        np.testing.assert_array_equal(server(X), predict(X))
    assert faulty.requests == 3 and server.retried == 2 * len(X)


@pytest.mark.parametrize("path", PATHS)
def test_a_data_frame_keeps_its_columns(path):
    faulty = Faulty(lambda rows: np.zeros(len(rows), int))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    with serving(faulty, path) as url:
        np.testing.assert_array_equal(Server(url)(frame), [0, 0])
    assert [str(one) for one in faulty.seen[0][0]] == ["1", "x", "2020-01-01 00:00:00"]


def test_the_token_is_sent_and_stands_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", "secret-words")
    with serving(Faulty(predict, token="secret-words")) as url:
        server = Server(url, token_variable="MY_TOKEN")
        audit(server, out=tmp_path, name="mine")
        assert "secret" not in repr(server) + str(vars(server)) + server.name
        with pytest.raises(ValueError, match=r"status 401 .*, expected 200"):
            Server(url)(X)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"secret-words" not in written
    with pytest.raises(ValueError, match="token_variable=NO_TOKEN: the environment has no such variable"):
        Server(url, token_variable="NO_TOKEN")


def test_a_server_that_never_answers_is_given_up_at_the_deadline_in_one_line():
    with serving(Faulty(predict, lambda number: "500")) as url:
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"no answer to 60 rows in 1 seconds \(status 500\)") as error:
            Server(url, deadline=1)(X)
        assert time.monotonic() - started < 5 and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot connect"):
        Server(url, deadline=0.5)(X)


def test_requests_keep_their_rate_and_order():
    faulty = Faulty(lambda rows: (rows[:, 0] > 0.5).astype(int))
    with serving(faulty) as url:
        started = time.monotonic()
        answers = Server(url, rate=20, rows_per_request=10, max_in_flight=6)(X)
        assert time.monotonic() - started > 5 / 20
    np.testing.assert_array_equal(answers, (X[:, 0] > 0.5).astype(int))
    assert faulty.requests == 6


def test_a_model_that_changes_during_a_run_is_found(monkeypatch):
    monkeypatch.setattr("mi_jax.external.cases.EVERY", 500)
    asked = 0

    def changing(rows):
        nonlocal asked
        asked += len(rows)
        return predict(rows) if asked < 900 else 1 - predict(rows)

    with pytest.raises(ValueError, match="the model changed during the audit: 60 of 60 rows"):
        audit(changing)
    asked = 0
    audited = audit(changing, allow_random_target=True)
    assert audited.record["target"]["probes"]["changed"] > 0 and asked == audited.record["queries"]["total"]


def test_retry_after_is_seconds_or_a_date():
    assert _after("2.5") == 2.5 and _after(None) == _after("soon") == 0
    assert _after("Wed, 21 Oct 2015 07:28:00 GMT", now=lambda: 1445412475.0) == 5


@pytest.mark.parametrize(
    "url, options, message",
    [
        ("ftp://host/invocations", {}, "expected http"),
        ("http://host/predict", {}, "path '/predict': expected .../v1/models/NAME:predict"),
        ("http://host/invocations", {"timeout": 0}, "timeout=0: expected a number above 0"),
        ("http://host/invocations", {"rows_per_request": 0}, "rows_per_request=0"),
    ],
)
def test_a_server_that_cannot_be_is_said_in_one_line(url, options, message):
    with pytest.raises(ValueError) as error:
        Server(url, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "user:word" not in repr(Server("http://user:word@host/invocations?key=1"))
