import datetime

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mi_jax import perturbations
from mi_jax.data import tables

N = 400


@pytest.fixture(scope="module")
def frame():
    """A column of every kind, some with missing values, and three one-hot columns of one category."""
    rng = np.random.default_rng(0)
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, N), unit="D")
    made = pd.DataFrame(
        {
            "age": rng.integers(18, 90, N),
            "income": np.round(rng.lognormal(10, 1, N), 2),
            "real": rng.normal(size=N),
            "single": rng.normal(size=N).astype(np.float32),
            "sex": rng.choice(["m", "f"], N),
            "city": rng.choice(list("abcdefgh"), N, p=np.arange(1, 9) / 36),
            "grade": pd.Categorical(rng.choice(["x", "y", "z"], N), categories=["z", "x", "y", "unused"]),
            "ok": rng.random(N) < 0.3,
            "day": days,
            "moment": days + pd.to_timedelta(rng.integers(0, 10**8, N), unit="ms"),
            "gaps": np.where(rng.random(N) < 0.1, np.nan, rng.integers(0, 50, N)),
            "nullable": pd.array(rng.integers(0, 50, N), dtype="Int64"),
            "id": rng.integers(0, 10**15, N),
            "constant": 7,
        }
    )
    made.loc[3, "city"], made.loc[4, "nullable"], made.loc[5, "day"] = None, pd.NA, pd.NaT
    return pd.concat([made, pd.get_dummies(pd.Series(rng.choice(["r", "g", "b"], N)), prefix="colour")], axis=1)


def test_rows_that_nothing_changed_come_back_as_they_were(frame):
    codec = tables.codec_of(frame)
    x = codec.encode(frame)
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    pd.testing.assert_frame_equal(codec.decode(x), frame)
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame[::-1])), frame[::-1].reset_index(drop=True))


def test_every_column_is_described_by_its_kind_and_one_hot_columns_are_one(frame):
    columns = {column["column"]: column for column in tables.codec_of(frame).columns}
    kinds = {name: column["kind"] for name, column in columns.items()}
    assert kinds["age"] == kinds["id"] == kinds["gaps"] == "integer" and kinds["income"] == kinds["real"] == "number"
    assert kinds["sex"] == kinds["ok"] == "bit" and kinds["city"] == kinds["grade"] == "category"
    assert kinds["day"] == kinds["moment"] == "date" and kinds["colour_b, colour_g, colour_r"] == "one-hot category"
    assert columns["gaps"]["missing"] == frame["gaps"].isna().sum() and columns["day"]["range"][0] == str(
        frame["day"].min().date()
    )


@pytest.fixture(scope="module")
def changed(frame):
    """Many noisy copies of the first row, and that row."""
    codec = tables.codec_of(frame)
    noise = perturbations.column_noise(codec.binary, codec.categorical)
    copies = noise({"p": 0.5, "sigma": 0.2}, jax.random.key(0), codec.encode(frame)[0], 4000)
    return codec.decode(np.asarray(copies))


def test_changed_rows_have_values_that_such_rows_can_have(frame, changed):
    assert (changed.dtypes == frame.dtypes).all()
    assert changed["age"].between(18, 89).all() and changed["age"].nunique() > 20
    np.testing.assert_array_equal(changed["income"], np.round(changed["income"], 2))
    assert set(changed["city"].dropna()) <= set("abcdefgh") and set(changed["grade"].dropna()) == {"x", "y", "z"}
    assert changed["day"].dropna().dt.normalize().equals(changed["day"].dropna())
    assert (changed["constant"] == 7).all() and changed["gaps"].isna().any() and changed["gaps"].notna().any()
    assert (changed[["colour_b", "colour_g", "colour_r"]].sum(axis=1) == 1).all()


def test_a_category_is_drawn_as_often_as_it_occurs(frame, changed):
    """With p = 1/2: the first row's own half of the time, and else by the shares in the data."""
    expected = 0.5 * frame["city"].value_counts(normalize=True, dropna=False)
    expected[frame["city"][0]] += 0.5
    found = changed["city"].value_counts(normalize=True, dropna=False)
    for city, share in expected.items():
        place = found.index.isna() if city is None or city != city else found.index == city
        assert abs(float(found[place].sum()) - share) < 4 * np.sqrt(share * (1 - share) / len(changed))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool])
def test_an_array_of_any_type_comes_back_as_it_was(dtype):
    array = (np.random.default_rng(0).random((50, 6)) * 100).astype(dtype)
    codec = tables.codec_of(array)
    back = codec.decode(codec.encode(array))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 3), (5, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_of_any_scale_and_order_are_channels_last_inside(shape, dtype):
    images = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    codec = tables.codec_of(images)
    x = codec.encode(images)
    assert x.shape == (5, 8, 8, 1 if len(shape) == 3 else 3) and codec.binary is None and 0 <= x.min() < x.max() <= 1
    np.testing.assert_allclose(codec.decode(x), images, rtol=1e-6, atol=1e-4)
    assert codec.decode(x).dtype == dtype


def test_a_table_of_arrow_comes_back_as_one():
    table = pa.table({"a": [1, 2, 3, 4], "b": ["x", "y", "z", "x"], "c": [0.5, 0.25, 0.125, 1.0]})
    codec = tables.codec_of(table)
    assert codec.decode(codec.encode(table)).equals(table)


def test_only_columns_that_are_one_hot_together_are_one():
    rng = np.random.default_rng(0)
    array = np.concatenate([np.eye(4)[rng.integers(0, 4, 60)], rng.integers(0, 2, (60, 3))], axis=1)
    kinds = [column["kind"] for column in tables.codec_of(array).columns]
    assert kinds == ["one-hot category", "bit", "bit", "bit"]


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.zeros(3), "rows of shape [3]"),
        (np.zeros((0, 3)), "rows of shape [0, 3]"),
        (np.array([[1.0, np.inf]]), "column 'column 1': an infinite number"),
        (pd.DataFrame({"a": [[1], [2]]}), "column 'a': unhashable"),
        (pd.DataFrame(), "a table of 0 rows"),
        (np.zeros((2, 4, 4), complex), "images of type complex128"),
    ],
)
def test_rows_without_a_codec_are_refused_in_one_line(rows, message):
    with pytest.raises(ValueError) as error:
        tables.codec_of(rows)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("column, value", [("sex", "q"), ("city", "q"), ("age", np.nan)])
def test_a_value_that_is_not_among_the_known_ones_is_named(frame, column, value):
    codec, other = tables.codec_of(frame), frame.copy()
    other[column] = other[column].astype(object if isinstance(value, str) else float)
    other.loc[0, column] = value
    with pytest.raises(ValueError, match=f"column '{column}'"):
        codec.encode(other)


def test_rows_of_two_tables_need_the_same_columns(frame):
    with pytest.raises(ValueError, match="column 'age' is in one of the two tables only"):
        tables.stack(frame, frame.drop(columns="age"))
    with pytest.raises(ValueError, match="expected rows of one type"):
        tables.stack(frame, frame.to_numpy())
    assert len(tables.stack(frame, frame)) == 2 * N and len(tables.take(frame, np.array([3, 1]))) == 2


def test_dates_of_python_are_dates():
    rows = pd.DataFrame({"d": [datetime.date(2020, 1, day) for day in range(1, 9)], "v": range(8)})
    codec = tables.codec_of(rows)
    assert codec.decode(codec.encode(rows))["d"].tolist() == rows["d"].tolist()
