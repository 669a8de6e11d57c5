import re

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import mi_jax
from mi_jax.evaluation import report
from mi_jax.external import audits


def halves(load, names=False):
    """(members, non-members) of a data set of scikit-learn in its own units, labels as text if `names`."""
    bunch = load(as_frame=True)
    y = pd.Series(bunch.target_names[bunch.target]) if names else bunch.target
    x_in, x_out, y_in, y_out = train_test_split(bunch.data, y, test_size=0.5, random_state=0)
    return (x_in, y_in), (x_out, y_out)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
@pytest.mark.parametrize("make", [RandomForestClassifier, GradientBoostingClassifier])
def test_gap_of_a_fitted_estimator_is_the_one_counted_by_hand(load, make):
    members, nonmembers = halves(load, names=True)
    model = make(random_state=0).fit(*members)
    audited = mi_jax.audit_model(model, members, nonmembers, attacks=["gap"])
    by_hand = 0.5 + (model.score(*members) - model.score(*nonmembers)) / 2
    assert audited.record["attacks"]["gap"]["balanced_accuracy"]["mean"] == pytest.approx(by_hand, abs=1e-12)
    assert audited.record["models"]["train_accuracy"]["mean"] == pytest.approx(model.score(*members))
    assert set(audited.scores["rows"].ravel()) == set(range(len(members[0]) + len(nonmembers[0])))


@pytest.fixture(scope="module")
def mixed():
    """A table of numbers, categories and missing values, with members that a tree knows by heart."""
    rng, n = np.random.default_rng(0), 160
    rows = pd.DataFrame({
        "a": rng.normal(50, 10, n), "b": rng.integers(0, 9, n), "c": rng.choice(["x", "y", "z"], n),
        "d": rng.random(n) < 0.5, "e": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
    })  # fmt: skip
    y = np.where((rows["a"] > 50) ^ (rng.random(n) < 0.3), "yes", "no")
    return (rows[:80], y[:80]), (rows[80:], y[80:])


def tree():
    return make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=[np.number, bool])),
            remainder="passthrough",
        ),
        DecisionTreeClassifier(random_state=0),
    )


def test_a_pipeline_is_asked_in_its_users_columns_and_every_query_is_counted(mixed):
    members, nonmembers = mixed
    model, seen = tree().fit(*members), []

    def predict(rows):
        assert list(rows.columns) == list("abcde") and (rows.dtypes == members[0].dtypes).all()
        assert set(rows["c"]) <= {"x", "y", "z"} and (rows["b"] % 1 == 0).all()
        seen.append(len(rows))
        return model.predict(rows)

    audited = mi_jax.audit_model(predict, members, nonmembers, budget=20)
    assert sum(seen) == audited.record["queries"]["total"]
    gap = audited.record["attacks"]["gap"]["balanced_accuracy"]["mean"]
    assert gap == pytest.approx(0.5 + (model.score(*members) - model.score(*nonmembers)) / 2)
    assert "confidence_threshold" not in audited.record["attacks"]  # the function has no scores


def test_shadow_models_of_the_users_training_judge_every_point(mixed):
    members, nonmembers = mixed
    model, rows = tree().fit(*members), []

    def fit(x, y):
        rows.append(len(x))
        return tree().fit(x, y)

    by_function, by_clone = (
        mi_jax.audit_model(model, members, nonmembers, fit=one, num_shadows=5, budget=5, group="c",
                           attacks=["gap", "calibrated_label", "chosen:2"])
        for one in (fit, tree())
    )  # fmt: skip
    assert rows == [80] * 5
    for name in ("calibrated_label", "chosen:2"):
        np.testing.assert_array_equal(
            by_function.scores[f"attack/{name}/scores"], by_clone.scores[f"attack/{name}/scores"]
        )
    assert set(by_function.scores["group"].ravel()) == {"x", "y", "z"}
    assert by_function.record["attacks"]["calibrated_label"]["auc"]["mean"] > 0.55


def test_unequal_sides_are_all_counted_without_shadow_models_and_paired_with_them(mixed):
    (x_in, y_in), (x_out, y_out) = mixed
    model = tree().fit(x_in, y_in)
    few = (x_out[:30], y_out[:30])
    alone = mi_jax.audit_model(model, (x_in, y_in), few, attacks=["gap"])
    assert alone.scores["is_member"].sum() == 80 and (~alone.scores["is_member"]).sum() == 30
    sizes = []

    def fit(x, y):
        sizes.append(len(x))
        return tree().fit(x, y)

    judged = mi_jax.audit_model(model, (x_in, y_in), few, fit=fit, num_shadows=5, attacks=["calibrated_label"])
    assert sizes == [80] * 5 and judged.scores["is_member"].sum() == (~judged.scores["is_member"]).sum() == 30


def test_surrogates_are_trained_on_the_targets_labels_which_are_counted():
    members, nonmembers = halves(load_wine)
    model = make_pipeline(StandardScaler(), SVC()).fit(*members)
    attacks = ["gap", "chosen_offline:2"]
    audited = mi_jax.audit_model(model, members, nonmembers, fit="surrogate", num_shadows=5, attacks=attacks)
    queries = audited.record["queries"]
    assert queries["accuracy"] == 178 + 128 + 178 and queries["by_attack"]["chosen_offline:2"]["target"] == 2 * 178
    with pytest.raises(ValueError, match="attack chosen:2: expected one named offline"):
        mi_jax.audit_model(model, members, nonmembers, fit="surrogate", attacks=["chosen:2"])


def test_a_null_control_finds_nothing():
    """Members that the model never saw: no attack exceeds chance by more than its interval, over many seeds."""
    beyond = {}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
        model = LogisticRegression().fit(x[:100], y[:100])
        audited = mi_jax.audit_model(model, (x[100:200], y[100:200]), (x[200:], y[200:]), budget=10, seed=seed)
        for name, entry in audited.record["attacks"].items():
            beyond.setdefault(name, []).append(entry["over_points"]["low"] > 0.5)
    assert len(beyond) == 3 and all(sum(found) <= 3 for found in beyond.values()), beyond  # P(> 3 of 20 at 5 %) = 1.6 %


def test_members_far_from_the_boundary_are_found_by_cross_fitted_noise():
    """All rows are labelled correctly, so that gap finds nobody; noise flips the labels of non-members alone."""
    rng = np.random.default_rng(0)
    sign = np.tile([-1, 1], 100)
    distance = np.where(np.arange(200) < 100, 0.4, 0.02)
    x = np.stack([0.5 + sign * distance, rng.random(200)], axis=1)

    def predict(rows):
        return (rows[:, 0] > 0.5).astype(int)

    y = predict(x)
    audited = mi_jax.audit_model(predict, (x[:100], y[:100]), (x[100:], y[100:]), attacks=["gap", "noise"])
    accuracies = {name: entry["balanced_accuracy"]["mean"] for name, entry in audited.record["attacks"].items()}
    assert accuracies["noise"] > 0.98 and accuracies["gap"] == 0.5


def test_the_report_is_written_and_read_back(mixed, tmp_path):
    members, nonmembers = mixed
    audited = mi_jax.audit_model(tree().fit(*members), members, nonmembers, budget=5, out=tmp_path, dataset="<b>mine")
    record, scores = report.read(tmp_path)
    assert record["target"]["model"] == "Pipeline ending in DecisionTreeClassifier"
    assert record["target"]["classes"] == ["no", "yes"] and str(tmp_path) in str(audited)
    np.testing.assert_array_equal(scores["attack/gap/scores"], audited.scores["attack/gap/scores"])
    assert "<b>mine" not in (tmp_path / "report.html").read_text() and not (tmp_path / "answers").exists()


def test_the_same_seed_gives_the_same_scores(mixed):
    members, nonmembers = mixed
    model = tree().fit(*members)
    first, second = (mi_jax.audit_model(model, members, nonmembers, budget=5, seed=3) for _ in range(2))
    for name in first.scores:
        np.testing.assert_array_equal(first.scores[name], second.scores[name])


def test_an_interrupted_audit_goes_on_where_its_answers_end(mixed, tmp_path):
    members, nonmembers = mixed
    model, put = tree().fit(*members), []

    def predict(rows):
        put.append(len(rows))
        if sum(put) > limit:
            raise RuntimeError("gone")
        return model.predict(rows)

    limit = 9000
    arguments = {"attacks": ["gap", "noise"], "budget": 10, "out": tmp_path, "name": "mine"}
    with pytest.raises(ValueError, match="the model raised RuntimeError: gone"):
        mi_jax.audit_model(predict, members, nonmembers, **arguments)
    limit, first = np.inf, sum(put)
    audited = mi_jax.audit_model(predict, members, nonmembers, **arguments)
    whole = mi_jax.audit_model(model.predict, members, nonmembers, attacks=["gap", "noise"], budget=10)
    np.testing.assert_array_equal(audited.scores["attack/noise/scores"], whole.scores["attack/noise/scores"])
    assert sum(put) - first < whole.record["queries"]["total"] - 5000


BAD = [
    ({"predict": 3}, "model: a int, expected a fitted estimator"),
    ({"members": np.zeros((4, 2))}, "members: a ndarray, expected (x, y)"),
    ({"members": (np.zeros((4, 2)), [0, 1])}, "members: 4 rows and 2 labels"),
    ({"nonmembers": (np.zeros((4, 3)), [0, 1, 0, 1])}, "rows of shape [2] and [3]"),
    ({"fit": 3}, "fit: a int, expected a function (x, y) -> model"),
    ({"fit": lambda x, y: None}, "fit returned None for shadow model 1"),
    ({"fit": lambda x, y: 1 / 0}, "fit raised ZeroDivisionError"),
    ({"attacks": ["gep"]}, "unknown attack 'gep'"),
    ({"attacks": ["lira"]}, "attack lira sees scores"),
    ({"attacks": ["chosen:5"]}, "cross_fit: attack chosen:5 needs shadow models"),
    ({"num_shadows": 4, "fit": lambda x, y: len}, "num_shadows=4: expected an odd number"),
    ({"group": "a"}, "group='a': expected a column of the rows (none, as rows are an array)"),
    ({"budget": 0}, "budget=0"),
    ({"predict": lambda rows: np.zeros(3, int)}, "the model answered [3] for"),
    ({"predict": lambda rows: np.full(len(rows), np.nan)}, "the model answered NaN"),
]


@pytest.mark.parametrize("change, message", BAD, ids=[message for _, message in BAD])
def test_what_does_not_fit_together_is_said_in_one_line(change, message):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 2)), np.arange(60) % 2
    arguments = {"predict": lambda rows: (rows[:, 0] > 0.5).astype(int), "members": (x[:30], y[:30]),
                 "nonmembers": (x[30:], y[30:])} | change  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        mi_jax.audit_model(**arguments)
    assert "\n" not in str(error.value)


def test_nonmembers_that_are_members_are_refused():
    rng = np.random.default_rng(0)
    side = rng.random((30, 2)), np.arange(30) % 2
    with pytest.raises(ValueError, match="nonmembers: 30 of 30 rows are among the members"):
        mi_jax.audit_model(lambda rows: np.zeros(len(rows), int), side, side)


def test_importing_the_package_loads_no_framework():
    assert audits.audit_model is mi_jax.audit_model and jax.__version__
    with pytest.raises(AttributeError, match="has no attribute 'audit_modle'"):
        mi_jax.audit_modle  # noqa: B018
