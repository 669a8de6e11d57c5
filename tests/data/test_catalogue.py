"""Every data set is what its card says, and data that are not as they should be are refused in one line."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_jax import data
from mi_jax.data.sources import prepare, synthetic
from mi_jax.types import Dataset
from tests.programs import run_program

PLACES = 446


def refusal(action, *arguments, **options) -> str:
    """Returns the message of the ValueError that the action must raise, which must be one line."""
    with pytest.raises(ValueError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# ---- check: the door ----


def table(**changes) -> Dataset:
    x = np.array([[0, 1, 0.5], [1, 0, 0.25]], np.float32)
    return Dataset("toy", x, np.array([0, 1]), 2, np.array([True, True, False]))._replace(**changes)


def images(**changes) -> Dataset:
    x = np.linspace(0, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    return Dataset("toy", x, np.array([0, 1], np.uint8), 2)._replace(**changes)


@pytest.mark.parametrize("dataset", [table(), images()])
def test_a_right_data_set_leaves_as_float32_and_int32_and_otherwise_unchanged(dataset):
    checked = data.check_dataset(dataset)
    assert checked.x.dtype == np.float32 and checked.y.dtype == np.int32
    np.testing.assert_array_equal(checked.x, dataset.x.astype(np.float32))
    np.testing.assert_array_equal(checked.y, dataset.y)
    assert checked._replace(x=0, y=0) == dataset._replace(x=0, y=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0, 1e300])
@pytest.mark.parametrize("dataset", [table(), images()])
def test_a_value_outside_0_to_1_is_refused_with_its_place(dataset, value):
    x = dataset.x.astype(np.float64)
    last = tuple(n - 1 for n in x.shape)
    x[last] = value
    message = refusal(data.check_dataset, dataset._replace(x=x))
    assert str(list(last)) in message and "[0, 1]" in message


@pytest.mark.parametrize(
    ("y", "named"),
    [
        ([0, 2], "label 2 in row 1; expected labels in 0..1"),
        ([-1, 1], "label -1 in row 0"),
        ([0.0, 1.0], "float64"),
        ([0.0, np.nan], "float64"),
        (["a", "b"], "integer"),
        ([False, True], "bool"),
        ([0, 1, 1], "[3]; expected [2]"),
        ([0], "[1]; expected [2]"),
        ([[0], [1]], "[2, 1]; expected [2], a label for each row of x (y.ravel())"),
        ([[1, 0, 0], [0, 1, 0]], "[2, 3]; expected [2], a label for each row of x (of one-hot rows: y.argmax(axis=1))"),
        ([[1.0, 0.0], [0.0, 1.0]], "one-hot"),
        (np.zeros((2, 1, 1), int), "[2, 1, 1]; expected [2]"),
        (0, "[]; expected [2]"),
        (np.array([0, 1], object), "object"),
        (np.array(["2026-01-01"] * 2, "datetime64[D]"), "datetime64"),
        ([-1, 1], "label -1 in row 0; expected labels from 0 on (np.unique("),
        (np.array([0, 2**32], np.int64), "label 4294967296 in row 1"),  # 0 as int32
        (np.array([0, 2**63], np.uint64), "label 9223372036854775808 in row 1"),
        (np.array([0, -(2**32)], np.int64), "label -4294967296 in row 1"),
        ([[0, 1], [1]], "cannot be read as an array"),
        ([0, 2**70], "object"),
        (np.ma.array([0, 1], mask=[True, False]), "masked"),
    ],
)
def test_labels_that_are_not_one_class_number_per_row_are_refused(y, named):
    assert named in refusal(data.check_dataset, table(y=y))
    assert named in refusal(data.from_arrays, "toy", table().x, y, num_classes=2)


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.0, True, None, "2", 100_001, 10**12])
def test_num_classes_below_two_or_not_an_integer_is_refused(num_classes):
    assert "num_classes" in refusal(data.check_dataset, table(y=np.array([0, 0]), num_classes=num_classes))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 4, 4, 1), (2, 4, 0, 1), (), (2,), (2, 4, 4), (2, 4, 4, 1, 1)])
def test_data_without_rows_or_of_another_rank_are_refused(shape):
    assert str(list(shape)) in refusal(data.check_dataset, images(x=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("dtype", ["U1", object, complex, "datetime64[s]", "m8[s]", [("a", int)]])
def test_data_that_are_not_numbers_are_refused(dtype):
    x = np.zeros((2, 3), dtype)
    assert str(x.dtype) in refusal(data.check_dataset, table(x=x))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (2, 4, 5, 6)])
def test_images_with_channels_before_rows_are_refused_with_what_moves_them(shape):
    message = refusal(data.from_arrays, "toy", np.zeros(shape), [0, 1])
    assert f"{list(shape)}; expected [N H W C], as np.moveaxis(x, 1, -1) makes it" in message
    moved = np.moveaxis(np.zeros(shape), 1, -1)
    assert data.from_arrays("toy", moved, [0, 1]).x.shape == moved.shape
    for other in ((2, 3, 32, 3), (2, 1, 8, 1), (2, 4, 4, 5), (2, 8, 8, 12)):  # low images, many channels
        assert data.from_arrays("toy", np.zeros(other), [0, 1]).x.shape == other


LAYOUTS = {
    "lists": lambda x: x.tolist(),
    "Fortran order": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "not writable": lambda x: np.broadcast_to(x, x.shape),
    "jax": jnp.asarray,
    "a mask that hides nothing": np.ma.array,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout_give_the_same_data_set(layout):
    x, y = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)), np.arange(6) % 3
    for own in (x.astype(np.uint8), (x / 255).astype(np.float32), x > 99):
        given, expected = LAYOUTS[layout](own), data.from_arrays("toy", own, y)
        if layout != "lists" or own.dtype != np.uint8:  # a list of whole numbers does not say that 255 is white
            found = data.from_arrays("toy", given, LAYOUTS[layout](y))
            assert found.x.flags.c_contiguous and found.x.dtype == np.float32 and found.y.dtype == np.int32
            np.testing.assert_array_equal(found.x, expected.x)
            np.testing.assert_array_equal(found.y, y)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_labels_are_kept_or_refused_and_never_changed(draw):
    """Integers of every width: labels are accepted exactly if they are 0..C-1 and every class has a row."""
    dtype = draw.draw(st.sampled_from(["i1", "u1", "<i2", ">i4", "i8", "u8"]))
    limits = np.iinfo(dtype)
    wild = st.integers(int(limits.min), int(limits.max))
    y = np.array(draw.draw(st.lists(st.one_of(st.integers(0, 3), wild), min_size=1, max_size=8)), dtype)
    x = np.zeros((len(y), 2))
    classes = len(set(y.tolist()))
    if classes >= 2 and set(y.tolist()) == set(range(classes)):
        dataset = data.from_arrays("toy", x, y)
        assert dataset.num_classes == classes and dataset.y.tolist() == y.tolist()
    else:
        refusal(data.from_arrays, "toy", x, y)


def test_what_a_data_set_holds_is_described_and_printed():
    x = np.array([[0, 1, 0.5], [1, 1, 0.25], [0, 1, 0.5], [0, 1, 0.5]], np.float32)
    dataset = data.from_arrays("toy", x, [0, 3, 0, 3], num_classes=5, source="by hand")
    assert data.describe(dataset) == {
        "rows": 4, "shape": [3], "classes": 5, "rows_per_class": [0, 2], "classes_without_rows": [1, 2, 4],
        "values": [0.0, 1.0], "mean": x.mean(), "binary_columns": 2, "constant_columns": 1, "duplicate_rows": 2,
        "relabelled_rows": 1, "source": "by hand",
    }  # fmt: skip
    card = data.card(dataset)
    assert "5, 0 to 2 rows each; without rows: 1, 2, 4\n" in card
    assert "2 rows repeat an earlier one, 1 under another label" in card and "1 columns" in card
    grey = data.from_arrays("toy", x.reshape(4, 3, 1, 1), [0, 1, 2, 3])
    facts = data.describe(grey)
    assert facts["binary_columns"] is None and facts["shape"] == [3, 1, 1] and facts["classes_without_rows"] == []
    assert json.loads(json.dumps(facts)) == facts  # it is a part of report.json


@pytest.mark.parametrize("name", ["digits", "npz:own.npz", "synthetic:purchase:200"])
def test_a_folder_for_data_that_are_made_from_none_is_refused(name):
    assert "data_dir=originals: expected none" in refusal(data.load, name, "originals")


def test_binary_must_fit_the_columns_and_be_true_of_them():
    assert "column 2" in refusal(data.check_dataset, table(binary=np.array([True, True, True])))
    assert "bool [3]" in refusal(data.check_dataset, table(binary=np.array([True, True])))
    assert "bool [3]" in refusal(data.check_dataset, table(binary=np.array([1, 1, 0])))
    assert "bool [3]" in refusal(data.check_dataset, table(binary=None))
    assert "None for images" in refusal(data.check_dataset, images(binary=np.array([True])))
    assert data.check_dataset(table(binary=np.array([True, False, False]))).binary.tolist() == [True, False, False]


def test_binary_may_be_a_list_and_leaves_as_an_array():
    listed = [True, True, False]
    for checked in (
        data.check_dataset(table(binary=listed)),
        data.from_arrays("toy", table().x, [0, 1], binary=listed),
    ):
        assert checked.binary.dtype == bool and data.describe(checked)["binary_columns"] == 2
    ragged = [[True], [True, False], [True]]
    assert "binary cannot be read as an array" in refusal(data.check_dataset, table(binary=ragged))
    assert "binary cannot be read as an array" in refusal(data.from_arrays, "toy", table().x, [0, 1], binary=ragged)


@pytest.mark.parametrize(
    ("entry", "named"),
    [(lambda folder: None, "NoneType"), (lambda folder: (1, 2), "tuple"), (lambda: table(), "TypeError"),
     (lambda folder: {}["a\nb"], "KeyError"), (lambda folder: exec("raise RuntimeError('a\\nb')"), "RuntimeError: a,")],
)  # fmt: skip
def test_an_entry_that_makes_no_data_set_is_refused(monkeypatch, entry, named):
    monkeypatch.setitem(data.DATASETS, "mine", entry)
    assert named in refusal(data.load, "mine")


# ---- arrays of the user's own ----


def saved(folder: Path, **arrays) -> str:
    np.savez(folder / "own.npz", **arrays)
    return f"npz:{folder / 'own.npz'}"


GREY = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4) * 8 + 7  # 7..255


def test_uint8_images_are_divided_by_255_and_grey_ones_get_a_channel(tmp_path):
    dataset = data.load(saved(tmp_path, x=GREY, y=np.array([0, 1])))
    assert dataset.x.shape == (2, 4, 4, 1) and dataset.num_classes == 2 and dataset.binary is None
    # float32 rounds the quotient once: half a unit in the last place of a value up to 1 is 6e-8
    np.testing.assert_allclose(dataset.x[..., 0], GREY.astype(np.float64) / 255, rtol=0, atol=6e-8)
    assert dataset.x.max() == 1
    colour = data.load(saved(tmp_path, x=np.stack([GREY] * 3, axis=-1), y=np.array([0, 1])))
    np.testing.assert_array_equal(colour.x[..., 2], dataset.x[..., 0])


def test_float_images_are_taken_as_they_are(tmp_path):
    x = np.linspace(0, 1, 32).reshape(2, 4, 4).astype(np.float32)
    np.testing.assert_array_equal(data.load(saved(tmp_path, x=x, y=np.array([0, 1]))).x[..., 0], x)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_a_table_of_0_and_1_stays_so_whatever_its_dtype_and_is_binary(tmp_path, dtype):
    x = np.array([[0, 1, 1], [1, 1, 0]])
    dataset = data.load(saved(tmp_path, x=x.astype(dtype), y=np.array([0, 1])))
    np.testing.assert_array_equal(dataset.x, x)
    assert dataset.binary.tolist() == [True, True, True]


def test_binary_names_the_columns_that_hold_only_0_and_1(tmp_path):
    dataset = data.load(saved(tmp_path, x=np.array([[0, 0.5, 1], [1, 0, 1]]), y=np.array([0, 1])))
    assert dataset.binary.tolist() == [True, False, True]


def test_uint8_values_are_never_scaled_unseen(tmp_path):
    assert "[0, 1]" in refusal(data.load, saved(tmp_path, x=GREY[:, 0], y=np.array([0, 1])))  # a table
    assert "expected 0..255" in refusal(data.load, saved(tmp_path, x=GREY % 2, y=np.array([0, 1])))
    binary_images = data.load(saved(tmp_path, x=(GREY > 99), y=np.array([0, 1])))
    np.testing.assert_array_equal(binary_images.x[..., 0], GREY > 99)


def test_binary_in_the_file_counts(tmp_path):
    x, y = np.array([[0, 1.0], [1, 0]]), np.array([0, 1])
    assert data.load(saved(tmp_path, x=x, y=y, binary=np.array([True, False]))).binary.tolist() == [True, False]
    assert "bool [2]" in refusal(data.load, saved(tmp_path, x=x, y=y, binary=np.array([1, 0])))
    assert "column 1" in refusal(data.load, saved(tmp_path, x=x / 2, y=y, binary=np.array([False, True])))


def test_num_classes_in_the_file_counts(tmp_path):
    x, y = np.zeros((2, 3)), np.array([0, 1])
    assert data.load(saved(tmp_path, x=x, y=y, num_classes=5)).num_classes == 5
    assert "0..1" in refusal(data.load, saved(tmp_path, x=x, y=y + 1, num_classes=2))
    for wrong in (2.0, np.array([2, 2]), "2"):
        assert "one integer" in refusal(data.load, saved(tmp_path, x=x, y=y, num_classes=wrong))


def test_the_source_of_an_npz_is_its_name_and_checksum(tmp_path):
    name = saved(tmp_path, x=np.zeros((2, 3)), y=np.array([0, 1]))
    digest = hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()
    assert data.load(name).source == f"own.npz, sha256 {digest}"


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x": GREY}, "found x"),
        ({"y": np.array([0, 1])}, "found y"),
        ({"images": GREY, "labels": np.array([0, 1])}, "found images, labels"),
        ({}, "found none"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "at least one row"),
        ({"x": GREY, "y": np.array([0.0, 1.0])}, "float64"),
        ({"x": GREY, "y": np.array([0, -1])}, "label -1"),
        ({"x": GREY, "y": np.array([0, 1, 2])}, "expected [2]"),
        ({"x": GREY, "y": np.array([0, 0])}, "num_classes is 1"),
        ({"x": GREY, "y": np.array([1, 2])}, "labels 1..2, no rows of class 0; expected 0..C-1"),
        ({"x": GREY, "y": np.array([5, 999_999])}, "no rows of class 0 and 999997 others; expected 0..C-1"),
        ({"x": GREY, "y": np.array([0, 1]), "num_classes": 10**6}, "num_classes is 1000000"),
        ({"x": np.zeros((2, 3, 32, 32)), "y": np.array([0, 1])}, "[2, 3, 32, 32]; expected [N H W C]"),
        ({"x": GREY / 255 + 0.01, "y": np.array([0, 1])}, "[0, 1]"),
        ({"x": np.full((2, 3), np.nan), "y": np.array([0, 1])}, "nan"),
        ({"x": np.array([{}, {}]), "y": np.array([0, 1])}, "cannot read this (x holds Python objects, not numbers)"),
        ({"x": GREY, "y": np.array([0, None])}, "cannot read this (y holds Python objects, not numbers)"),
    ],
)
def test_an_npz_with_wrong_arrays_is_refused(tmp_path, arrays, named):
    assert named in refusal(data.load, saved(tmp_path, **arrays))


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    refusal(data.load, saved(tmp_path, x=np.array([Planted(), Planted()]), y=np.array([0, 1])))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"PK\x03\x04 and nothing more", None])
def test_what_is_not_an_npz_is_refused(tmp_path, content):
    if content is None:
        np.save(tmp_path / "own.npy", np.zeros(3))
        content = (tmp_path / "own.npy").read_bytes()
    (tmp_path / "own.npz").write_bytes(content)
    said = refusal(data.load, f"npz:{tmp_path / 'own.npz'}")
    assert said.endswith("expected an .npz of plain arrays, cannot read this (it is no zip archive, or cut off)")


def test_a_missing_npz_is_named(tmp_path):
    assert "nowhere.npz" in refusal(data.load, "npz:nowhere.npz")
    assert "no such file" in refusal(data.load, f"npz:{tmp_path}")
    assert "npz:FILE" in refusal(data.load, "npz:")


def test_a_damaged_npz_is_refused_or_what_was_damaged_did_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 30)), np.arange(20)
    name = saved(tmp_path, x=x, y=y)
    path = tmp_path / "own.npz"
    whole = path.read_bytes()
    refused = 0
    for trial in range(300):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(broken if trial % 2 else whole[: rng.integers(len(whole))])
        try:
            dataset = data.load(name)
        except ValueError as error:
            refused += "\n" not in str(error)
            continue
        np.testing.assert_array_equal(dataset.x, x.astype(np.float32))
        np.testing.assert_array_equal(dataset.y, y)
    assert refused >= 280  # every truncation, and all flips but those in a zip field that nobody reads


def test_a_header_that_asks_for_less_than_there_is_does_not_pass_the_checksum(tmp_path):
    name = saved(tmp_path, x=np.zeros((20, 30)), y=np.arange(20))
    path = tmp_path / "own.npz"
    path.write_bytes(path.read_bytes().replace(b"(20, 30)", b"(10, 30)").replace(b"(20,)", b"(10,)"))
    assert len(np.load(path)["x"]) == 10  # NumPy alone does not notice
    assert "checksum" in refusal(data.load, name)


# ---- names ----


def test_an_unknown_name_lists_the_known_ones():
    for name in ("digit", "", "npz", "digits:1"):
        message = refusal(data.load, name)
        assert repr(name) in message and "digits, location30" in message and "npz:FILE" in message


def test_digits_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.delenv("MI_JAX_DATA", raising=False)
    dataset = data.load("digits")
    assert dataset.x.shape == (1797, 8, 8, 1) and dataset.num_classes == 10 and dataset.binary is None
    assert set(np.unique(dataset.x * 16)) == set(range(17))
    # rows per class as the UCI description of the test part of the data lists them
    assert np.bincount(dataset.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


# ---- synthetic tables ----


@pytest.mark.parametrize(("name", "features"), [("purchase", 600), ("texas", 6169)])
def test_a_synthetic_table_says_so_and_is_the_same_at_every_call(name, features):
    dataset, again, more = (data.load(f"synthetic:{name}:{rows}") for rows in (200, 200, 300))
    assert dataset.x.shape == (200, features) and dataset.num_classes == 100 and dataset.binary.all()
    assert (
        dataset.name == f"synthetic:{name}:200" and "SYNTHETIC" in dataset.source and "SYNTHETIC" in data.card(dataset)
    )
    np.testing.assert_array_equal(dataset.x, again.x)
    np.testing.assert_array_equal(dataset.x, more.x[:200])
    np.testing.assert_array_equal(dataset.y, more.y[:200])


def test_synthetic_rows_are_prototypes_with_as_many_bits_flipped_as_stated():
    shape = synthetic.SyntheticTable("a test", 600, 100, p_one=0.3, p_class_flip=0.1, p_row_flip=0.0)
    x, y = synthetic.generate(shape, 3000)
    prototypes = np.array([x[y == label][0] for label in range(100)])
    np.testing.assert_array_equal(x, prototypes[y])  # without flips a class has one row
    noisy, same = synthetic.generate(shape._replace(p_row_flip=0.2), 3000)
    np.testing.assert_array_equal(same, y)
    # 1.8 million bits: the share of flips lies within 5 standard deviations of sqrt(.2 * .8 / 1.8e6) = 3e-4
    assert abs((noisy != prototypes[y]).mean() - 0.2) < 0.0015
    # two prototypes differ in a bit with probability 2 * .1 * .9 = .18; over 600 bits and 4,950 pairs, which share
    # 60,000 flips, the mean is within 5 * .0012 of it
    differ = (prototypes[:, None] != prototypes[None]).mean(axis=2)[np.triu_indices(100, 1)]
    assert abs(differ.mean() - 0.18) < 0.006
    assert not np.array_equal(synthetic.generate(shape, 50, seed=1)[0], x[:50])


def test_the_default_of_a_synthetic_table_fills_four_sets_of_the_papers_size():
    assert synthetic.parse_spec("purchase") == (synthetic.TABLES["purchase"], 40_000)
    assert synthetic.parse_spec("texas:100") == (synthetic.TABLES["texas"], 100)


@pytest.mark.parametrize(
    "wanted", ["", "location", "purchase:", "purchase:99", "texas:-5", "texas:1e4", "texas:10000000"]
)
def test_another_synthetic_table_is_refused(wanted):
    message = refusal(data.load, f"synthetic:{wanted}")
    assert message.startswith(f"synthetic:{wanted}: ") and (
        "known: purchase, texas" in message or "100..1000000" in message
    )


# ---- Location-30: small files of the true format ----


def lines(count: int = 40, seed: int = 0) -> list[str]:
    bits = np.random.default_rng(seed).integers(0, 2, (count, PLACES))
    return [f'"{i % 30 + 1}",' + ",".join(map(str, row)) for i, row in enumerate(bits)]


def parsed(rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([[int(value.strip('"')) for value in row.split(",")] for row in rows])
    return values[:, 1:], values[:, 0] - 1


def tgz(content: bytes, member: str = "bangkok") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def text(rows: list[str], end: str = "\n") -> bytes:
    return (end.join(rows) + end).encode()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "cache"  # neither exists yet
    monkeypatch.setenv("MI_JAX_CACHE", str(folder))
    return folder


@pytest.fixture
def place(tmp_path, cache):
    """Puts files into an empty data_dir and returns it."""

    def put(**files: bytes) -> str:
        folder = tmp_path / "originals"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, content in files.items():
            (folder / {"tgz": "dataset_location.tgz"}.get(name, name)).write_bytes(content)
        return str(folder)

    return put


def test_archive_and_extracted_file_give_the_same_rows_in_the_order_of_the_file(place):
    rows = lines()
    x, y = parsed(rows)
    for files in ({"tgz": tgz(text(rows))}, {"bangkok": text(rows)}, {"tgz": tgz(text(rows), "sub/bangkok")}):
        dataset = data.load("location30", place(**files))
        np.testing.assert_array_equal(dataset.x, x)
        np.testing.assert_array_equal(dataset.y, y)
        assert dataset.num_classes == 30 and dataset.binary.all()
        content = next(iter(files.values()))
        assert hashlib.sha256(content).hexdigest() in dataset.source


def test_unquoted_labels_windows_line_ends_and_a_blank_last_line_are_accepted(place):
    rows = lines()
    dataset = data.load("location30", place(bangkok=text([r.replace('"', "") for r in rows] + [""], "\r\n")))
    np.testing.assert_array_equal(dataset.x, parsed(rows)[0])


def test_classes_count_thirty_though_the_file_holds_fewer(place):
    assert data.load("location30", place(bangkok=text(lines(3)))).num_classes == 30


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda row: row[:-1] + "2", "value '2' in column 447"),
        (lambda row: row[:-2], "445 values"),
        (lambda row: row[:-1], "value '' in column 447"),
        (lambda row: row + ",1", "447 values"),
        (lambda row: row.replace(",", ",NaN,", 1), "447 values"),
        (lambda row: row[:-1] + "?", "value '?'"),
        (lambda row: row[:-1] + "0.5", "value '0.5'"),
        (lambda row: '"31"' + row[row.index(",") :], "label '\"31\"'"),
        (lambda row: '"0"' + row[row.index(",") :], "expected 1..30"),
        (lambda row: '"x"' + row[row.index(",") :], "expected 1..30"),
        (lambda row: row[row.index(",") :], "expected 1..30"),
    ],
)
def test_a_damaged_row_is_refused_with_its_number(place, cache, damage, named):
    rows = lines()
    rows[16] = damage(rows[16])
    for files in ({"tgz": tgz(text(rows))}, {"bangkok": text(rows)}):
        message = refusal(data.load, "location30", place(**files))
        assert "row 17:" in message and named in message
    assert list(cache.iterdir()) == []


def test_a_damaged_or_wrong_archive_is_refused_and_leaves_nothing_in_the_cache(place, cache):
    whole = tgz(text(lines()))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    unpacked = gzip.decompress(whole)
    cases = {
        "truncated": whole[: len(whole) // 2],
        "without its last byte": whole[:-1],
        "a flipped bit": bytes(flipped),
        "a wrong checksum": whole[:-8] + b"\0\0\0\0" + whole[-4:],
        "empty": b"",
        "a web page": b"<html>not found</html>",
        "not packed": unpacked,
        "a tar cut short": gzip.compress(unpacked[:3000]),
        "no tar": gzip.compress(b"bangkok"),
    }
    for case, content in cases.items():
        message = refusal(data.load, "location30", place(tgz=content))
        assert "dataset_location.tgz: damaged or truncated archive" in message, case
    assert list(cache.iterdir()) == []


def test_an_archive_without_the_file_is_refused_with_what_it_holds(place):
    message = refusal(data.load, "location30", place(tgz=tgz(text(lines()), "dataset_purchase")))
    assert "'bangkok'" in message and "dataset_purchase" in message


@pytest.mark.parametrize("content", [b"", b"\n\n", bytes(range(256)) * 40])
def test_a_file_without_rows_is_refused(place, content):
    assert "bangkok: " in refusal(data.load, "location30", place(bangkok=content))
    assert "bangkok: " in refusal(data.load, "location30", place(bangkok=content)), "and again: nothing was cached"


def test_a_missing_original_says_what_belongs_where(place, tmp_path, monkeypatch):
    monkeypatch.delenv("MI_JAX_DATA", raising=False)
    (tmp_path / "file").touch()
    for folder in (place(), place(other=b""), str(tmp_path / "none"), str(tmp_path / "file"), None):
        message = refusal(data.load, "location30", folder)
        assert "dataset_location.tgz" in message and "privacytrustlab/datasets" in message
        assert (folder or "MI_JAX_DATA") in message


def test_without_data_dir_the_folder_of_that_name_in_mi_jax_data_counts(place, monkeypatch):
    folder = Path(place(bangkok=text(lines())))
    folder.rename(folder.parent / "location30")
    monkeypatch.setenv("MI_JAX_DATA", str(folder.parent))
    assert len(data.load("location30").x) == 40


# ---- the cache ----


def test_the_second_load_reads_the_cache_and_the_original_folder_stays_as_it_was(place, cache, monkeypatch):
    content = text(lines())
    folder = place(bangkok=content)
    first = data.load("location30", folder)
    digest = hashlib.sha256(content).hexdigest()
    assert [entry.name for entry in cache.iterdir()] == [f"location30-{digest[:16]}.npz"]
    assert os.listdir(folder) == ["bangkok"]
    monkeypatch.setattr(prepare, "write_entry", None)  # cannot be called
    second = data.load("location30", folder)
    np.testing.assert_array_equal(second.x, first.x)
    np.testing.assert_array_equal(second.y, first.y)
    assert second._replace(x=0, y=0, binary=0) == first._replace(x=0, y=0, binary=0)


def test_another_original_is_another_cache_entry(place, cache):
    first = data.load("location30", place(bangkok=text(lines(seed=1))))
    second = data.load("location30", place(bangkok=text(lines(seed=2))))
    assert len(list(cache.iterdir())) == 2 and not np.array_equal(first.x, second.x)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_half_written_cache_entry_is_made_anew(place, cache, keep):
    folder = place(bangkok=text(lines()))
    first = data.load("location30", folder)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[: int(len(whole) * keep)])
    np.testing.assert_array_equal(data.load("location30", folder).x, first.x)
    np.testing.assert_array_equal(np.load(entry)["x"], first.x)


def test_a_cache_entry_with_a_flipped_bit_or_other_arrays_is_made_anew(place, cache):
    folder = place(bangkok=text(lines()))
    first = data.load("location30", folder)
    (entry,) = cache.iterdir()
    flipped = bytearray(entry.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    entry.write_bytes(flipped)
    np.testing.assert_array_equal(data.load("location30", folder).x, first.x)
    np.savez(entry, x=first.x)
    np.testing.assert_array_equal(data.load("location30", folder).y, first.y)


def test_a_cache_folder_that_cannot_be_made_is_named(place, tmp_path, monkeypatch):
    (tmp_path / "occupied").touch()
    monkeypatch.setenv("MI_JAX_CACHE", str(tmp_path / "occupied"))
    message = refusal(data.load, "location30", place(bangkok=text(lines())))
    assert "occupied" in message and "MI_JAX_CACHE" in message


def test_the_cache_folder_is_mi_jax_cache_or_below_the_home_folder(monkeypatch):
    monkeypatch.setenv("MI_JAX_CACHE", "~/elsewhere")
    assert prepare.cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("MI_JAX_CACHE")
    assert prepare.cache_folder() == Path.home() / ".cache" / "mi_jax"


# ---- the real original ----


@pytest.fixture(scope="module")
def location30(data_root) -> Dataset:
    return data.load("location30", str(data_root / "location30"))


def test_the_real_location_data_have_the_published_counts(location30):
    x, y = location30.x, location30.y
    assert x.shape == (5010, PLACES) and location30.num_classes == 30 and location30.binary.all()
    per_class = np.bincount(y)
    assert (len(per_class), per_class.min(), per_class.max()) == (30, 97, 308)
    assert round(float(x.sum(1, dtype=np.float64).mean()), 2) == 53.70


def test_the_real_location_data_are_every_value_of_the_file_in_its_order(location30, data_root):
    with tarfile.open(data_root / "location30" / "dataset_location.tgz") as archive:
        content = archive.extractfile("bangkok").read().replace(b'"', b"").replace(b"\n", b",")
    values = np.array(content.rstrip(b",").split(b",")).astype(int).reshape(5010, 1 + PLACES)
    np.testing.assert_array_equal(location30.x, values[:, 1:])
    np.testing.assert_array_equal(location30.y, values[:, 0] - 1)


# ---- the command, and what it must not load ----


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_a_prepared_data_set_needs_no_tensorflow_and_prints_nothing_else(place):
    code = "import sys; from mi_jax import data; data.load('location30', sys.argv[1]); "
    code += "assert 'tensorflow_datasets' in sys.modules; assert 'tensorflow' not in sys.modules"
    done = run("-c", code, place(tgz=tgz(text(lines()))))
    cut = f"location30: dataset_location.tgz: {len(lines())} rows where the published set has 5010\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", cut)


def test_digits_do_not_wait_for_tensorflow_datasets():
    code = "import sys; from mi_jax import data; data.load('digits'); assert 'tensorflow_datasets' not in sys.modules"
    assert run("-c", code).returncode == 0


def test_the_command_prints_the_card(place):
    folder = place(bangkok=text(lines()))
    done = run_program("mi_jax.data", "location30", f"--data_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == data.card(data.load("location30", folder)) + "\n"
    for fact in ("40 rows of [446]", "30, 1 to 2 rows each", "0 to 1", "446 of 446 columns", "bangkok"):
        assert fact in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["digit"], "unknown dataset 'digit'"), (["npz:nowhere.npz"], "nowhere.npz"), (["location30"], "MI_JAX_DATA")],
)
def test_the_command_refuses_in_one_line_and_with_a_non_zero_exit(arguments, named):
    done = run_program("mi_jax.data", *arguments, MI_JAX_DATA="")
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
