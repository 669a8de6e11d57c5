"""Subgroups of rows: values of a column, quartiles of many numbers, an array beside the data; one line for the rest."""

import numpy as np
import pytest

from mi_jax import data
from mi_jax.data.groups import MOST, groups_of

RNG = np.random.default_rng(0)
TABLE = np.column_stack([RNG.integers(0, 2, 100), RNG.random(100)]).astype(np.float32)
LABELS = np.arange(100) % 2


def test_few_values_of_a_column_are_groups_of_their_own():
    groups = groups_of(data.from_arrays("table", TABLE, LABELS), "0")
    np.testing.assert_array_equal(groups == "1", TABLE[:, 0] == 1)
    assert set(groups) == {"0", "1"}


def test_many_numbers_are_grouped_by_quartiles_of_equal_size():
    groups = groups_of(data.from_arrays("table", TABLE, LABELS), "1")
    names, counts = np.unique(groups, return_counts=True)
    assert len(names) == 4 and counts.tolist() == [25] * 4
    low = {name: TABLE[groups == name, 1].min() for name in names}
    high = {name: TABLE[groups == name, 1].max() for name in names}
    ordered = sorted(names, key=low.get)
    assert all(high[a] <= low[b] for a, b in zip(ordered, ordered[1:], strict=False))


def test_an_array_of_an_npz_file_names_groups(tmp_path):
    site = np.array(["north", "south"])[LABELS]
    np.savez(tmp_path / "mine.npz", x=TABLE, y=LABELS, site=site)
    np.testing.assert_array_equal(groups_of(data.load(f"npz:{tmp_path / 'mine.npz'}"), "site"), site)


@pytest.mark.parametrize("column", ["2", "site", "-1", ""])
def test_what_is_no_column_is_refused_in_one_line(column):
    with pytest.raises(ValueError, match=r"^group=.*expected[^\n]*$"):
        groups_of(data.from_arrays("table", TABLE, LABELS), column)


def test_an_array_that_does_not_fit_the_rows_is_refused(tmp_path):
    for site in (np.arange(99), np.array([f"{i}" for i in range(100)]), np.array([None] * 100)):
        np.savez(tmp_path / "mine.npz", x=TABLE, y=LABELS, site=site)
        with pytest.raises(ValueError, match=r"^group=site: [^\n]*expected[^\n]*$"):
            groups_of(data.load(f"npz:{tmp_path / 'mine.npz'}"), "site")
    assert MOST < 100


def test_images_have_no_columns():
    with pytest.raises(ValueError, match="group=0: .*images"):
        groups_of(data.load("digits"), "0")
