"""The originals of every data set are read as they are published, and refused, in one line, where they are not."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mi_jax import data
from mi_jax.data.sources import (
    adult,
    cifar,
    cifar10,
    cifar100,
    mnist,
    prepare,
    purchase100,
    raw,
    texas100,
)
from tests.data.test_catalogue import refusal


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """Returns the cache folder of one test."""
    monkeypatch.setenv("MI_JAX_CACHE", str(tmp_path / "prepared"))
    (tmp_path / "prepared").mkdir()
    return tmp_path / "prepared"


@pytest.fixture
def put(tmp_path, prepared):
    """Writes files, given as {name: content}, into an emptied data_dir and returns it."""

    def write(files: dict[str, bytes]) -> Path:
        folder = tmp_path / "originals"
        for old in sorted(folder.rglob("*"), reverse=True):
            old.rmdir() if old.is_dir() else old.unlink()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return write


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def table(read_rows, folder: Path, *files: str) -> tuple[np.ndarray, np.ndarray]:
    y, x = zip(*read_rows(folder, files), strict=True)
    return np.stack(x), np.array(y)


def reading(read_rows, folder: Path, *files: str) -> str:
    return refusal(lambda: list(read_rows(folder, files)))


def csv(rows) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


# ---- MNIST ----


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def digit_files(packed: bool = True, **changes: np.ndarray) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.array([5, 0, 4, 1, 9], np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.array([7, 2], np.uint8),
    }
    arrays |= {name: changes[short] for short in changes for name in arrays if name.startswith(short.replace("_", "-"))}
    return {n + ".gz" * packed: gzip.compress(idx(a), mtime=0) if packed else idx(a) for n, a in arrays.items()}


@pytest.fixture
def any_md5(monkeypatch):
    """Lets small files stand for the originals, whose MD5s they cannot have."""
    monkeypatch.setattr(raw, "check_md5", lambda path, expected: None)


def test_mnist_is_the_training_rows_and_then_the_test_rows_packed_or_not(put, any_md5):
    pixels = np.frombuffer(digit_files(packed=False)["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(2, 28, 28, 1)
    for packed in (True, False):
        dataset = data.load("mnist", put(digit_files(packed)))
        assert dataset.y.tolist() == [5, 0, 4, 1, 9, 7, 2] and dataset.num_classes == 10 and dataset.binary is None
        np.testing.assert_array_equal(dataset.x[5:], pixels.astype(np.float32) / 255)


def test_a_file_of_mnist_with_another_md5_is_refused(put):
    message = reading(mnist.read_rows, put(digit_files()), *mnist.COMPRESSED)
    assert "train-images-idx3-ubyte.gz: md5 " in message and "expected f68b3c2dcbeaaa9fbdd348bbdeb94873" in message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08\x03\0\0", "expected 00000803"),
        (idx(np.zeros(5, np.uint8)), "begins with 00000801"),
        (b"\0\0\x0d\x03" + bytes(12), "begins with 00000d03"),
        (idx(np.zeros((5, 28, 28), np.uint8))[:-1], "3919 values, expected 3920"),
        (idx(np.zeros((5, 28, 28), np.uint8)) + b"\0", "3921 values, expected 3920"),
        (idx(np.zeros((5, 28, 27), np.uint8)), "[5, 28, 27], expected [5, 28, 28]"),
        (idx(np.zeros((4, 28, 28), np.uint8)), "[4, 28, 28], expected [5, 28, 28]"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "0 values, expected"),
    ],
)
def test_images_that_are_no_idx_of_this_shape_are_refused(put, any_md5, content, named):
    for packed in (True, False):
        files = digit_files(packed)
        name = next(iter(files))
        folder = put(files | {name: gzip.compress(content) if packed else content})
        message = reading(mnist.read_rows, folder, *files)
        assert f"{name}: " in message and named in message


def test_a_truncated_gzip_and_a_label_beyond_nine_are_refused(put, any_md5):
    files = digit_files()
    folder = put(files | {"t10k-images-idx3-ubyte.gz": files["t10k-images-idx3-ubyte.gz"][:-30]})
    assert "t10k-images-idx3-ubyte.gz: damaged or truncated" in reading(mnist.read_rows, folder, *mnist.COMPRESSED)
    folder = put(digit_files(t10k_labels=np.array([7, 10], np.uint8)))
    assert "row 1: label 10, expected 0..9" in reading(mnist.read_rows, folder, *mnist.COMPRESSED)


# ---- CIFAR ----


def python2_pickle(value) -> bytes:
    """Returns what cPickle of Python 2 would write at protocol 2, less the memo, for dict, list, int, str, array."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2_pickle(k) + python2_pickle(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    content, kind = value.tobytes(), value.dtype.str[1:].encode()
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    shape = b"(" + b"".join(map(python2_pickle, value.shape)) + b"t"
    dtype = (
        b"cnumpy\ndtype\nU"
        + bytes([len(kind)])
        + kind
        + b"K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    return start + b"(K\x01" + shape + dtype + b"\x89" + python2_pickle(content) + b"tb"


def batch(seed: int = 0, rows: int = 3, key: bytes = b"labels", **changes) -> bytes:
    rng = np.random.default_rng(seed)
    values = {key: [(seed + i) % 10 for i in range(rows)], b"data": rng.integers(0, 256, (rows, 3072), np.uint8)}
    values |= {name.encode(): value for name, value in changes.items()}
    return b"\x80\x02" + python2_pickle({k: v for k, v in values.items() if v is not None}) + b"."


def test_a_batch_stores_planes_of_red_green_and_blue():
    x, y = cifar.parse_batch(batch(), b"labels", 10)
    stored = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    assert x.shape == (3, 32, 32, 3) and x.dtype == np.uint8 and y.tolist() == [0, 1, 2]
    for row, i, j, colour in [(0, 0, 0, 0), (1, 0, 31, 0), (1, 31, 0, 1), (2, 17, 5, 2)]:
        assert x[row, i, j, colour] == stored[row, 1024 * colour + 32 * i + j]


def test_the_pickle_of_these_tests_is_one_that_pickle_itself_reads():
    read = pickle.loads(batch(), encoding="bytes")
    np.testing.assert_array_equal(read[b"data"], np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": [0, 1, 10]}, "image 2: label 10, expected 0..9"),
        ({"labels": [0, -1, 1]}, "image 1: label -1"),
        ({"labels": [0, 1, b"2"]}, "image 2: label b'2'"),
        ({"labels": [0, 1]}, "a list of 3 labels"),
        ({"labels": 3}, "a list of 3 labels"),
        ({"labels": None}, "a dictionary with data and labels"),
        ({"data": None}, "a dictionary with data and labels"),
        ({"data": [0, 1, 2]}, "data is not an array"),
        ({"data": np.zeros((3, 3071), np.uint8)}, "uint8 [n, 3072]"),
        ({"data": np.zeros((0, 3072), np.uint8)}, "uint8 [n, 3072]"),
        ({"data": np.zeros(3 * 3072, np.uint8)}, "uint8 [n, 3072]"),
        ({"data": np.zeros((3, 3072), np.float32)}, "uint8 [n, 3072]"),
        ({"data": np.zeros((3, 3072), np.int8)}, "uint8 [n, 3072]"),
    ],
)
def test_a_batch_with_other_arrays_is_refused(changes, named):
    assert named in refusal(cifar.parse_batch, batch(**changes), b"labels", 10)


def test_an_array_of_another_size_than_it_states_is_refused():
    stated = python2_pickle(3) + python2_pickle(3072)
    assert batch().count(stated) == 1
    content = batch().replace(stated, python2_pickle(4) + python2_pickle(3072))
    assert "uint8 [n, 3072]" in refusal(cifar.parse_batch, content, b"labels", 10)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x02]q\x01.", pickle.dumps({"data": 1})])
def test_what_is_no_batch_is_refused(content):
    assert "CIFAR" in refusal(cifar.parse_batch, content, b"labels", 10)


def test_a_truncated_or_altered_pickle_is_refused_or_read_as_a_batch():
    whole, rng = batch(), np.random.default_rng(0)
    for cut in rng.integers(len(whole), size=50):
        refusal(cifar.parse_batch, whole[:cut], b"labels", 10)
    for place in (*range(60), *range(len(whole) - 150, len(whole))):  # all but the pixels, which may be anything
        altered = bytearray(whole)
        altered[place] ^= 1 << rng.integers(8)
        try:
            x, y = cifar.parse_batch(bytes(altered), b"labels", 10)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert x.shape == (3, 32, 32, 3) and y.shape == (3,)


@pytest.mark.parametrize(
    "function", ["os\nmkdir", "posix\nmkdir", "builtins\neval", "__builtin__\neval", "numpy\nload"]
)
def test_a_pickle_that_asks_for_a_function_is_refused_unrun(tmp_path, function):
    target = str(tmp_path / "ran").encode()
    content = b"\x80\x02c" + function.encode() + b"\nX" + struct.pack("<I", len(target)) + target + b"\x85R."
    message = refusal(cifar.parse_batch, content, b"labels", 10)
    assert "it refers to" in message and not (tmp_path / "ran").exists()


TEN = {name: batch(seed, rows=seed + 1) for seed, name in enumerate(cifar10.BATCHES)}
HUNDRED = {
    name: batch(seed, key=b"fine_labels", fine_labels=[99, seed, 7]) for seed, name in enumerate(cifar100.BATCHES)
}


def test_cifar10_is_the_training_batches_in_order_and_then_the_test_batch(put, any_md5):
    expected = [(seed + i) % 10 for seed in range(6) for i in range(seed + 1)]
    shuffled = dict(sorted(TEN.items(), key=lambda item: item[0][::-1]))  # upstream's archive is in no order either
    first = data.load("cifar10", put(TEN))
    assert first.y.tolist() == expected and first.x.shape == (21, 32, 32, 3) and first.x.max() == 1
    np.testing.assert_array_equal(
        first.x[0], cifar.parse_batch(batch(0, rows=1), b"labels", 10)[0][0] / np.float32(255)
    )
    second = data.load("cifar10", put({cifar10.ARCHIVE: archive(shuffled)}))
    np.testing.assert_array_equal(second.x, first.x)
    np.testing.assert_array_equal(second.y, first.y)


def test_a_file_of_cifar10_with_another_md5_is_refused(put, prepared):
    message = refusal(data.load, "cifar10", put({cifar10.ARCHIVE: archive(TEN)}))
    assert "cifar-10-python.tar.gz: md5 " in message and "c58f30108f718f92721af3b95e74349a" in message
    message = refusal(data.load, "cifar10", put(TEN))
    assert "data_batch_1: md5 " in message and "c99cafc152244af753f735de768cd75f" in message
    assert list(prepared.iterdir()) == []


def test_a_batch_at_fault_is_named_and_so_is_the_archive_it_is_in(put, any_md5):
    wrong = TEN | {"cifar-10-batches-py/test_batch": batch(labels=[0, 1, 10])}
    named = "test_batch: image 2: label 10"
    assert named in reading(cifar10.read_rows, put(wrong), *cifar10.BATCHES)
    message = reading(cifar10.read_rows, put({cifar10.ARCHIVE: archive(wrong)}), cifar10.ARCHIVE)
    assert named in message and cifar10.ARCHIVE in message
    message = reading(cifar10.read_rows, put({cifar10.ARCHIVE: archive(HUNDRED)}), cifar10.ARCHIVE)
    assert "expected an archive with a file 'cifar-10-batches-py/data_batch_1'" in message


def test_cifar100_has_fine_labels_and_takes_batches_in_any_order_of_rows(put):
    x, y = table(cifar100.read_rows, put(HUNDRED), *cifar100.BATCHES)
    assert y.tolist() == [99, 0, 7, 99, 1, 7] and x.shape == (6, 32, 32, 3)
    message = reading(cifar100.read_rows, put({cifar100.ARCHIVE: archive(HUNDRED)}), cifar100.ARCHIVE)
    assert "eb9058c3a382ffc7106e4002c42a8d85" in message


# ---- Adult ----

FIRST = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, "
    "United-States, <=50K"
)
SECOND = (
    "54, ?, 180211, Some-college, 10, Married-civ-spouse, ?, Husband, Asian-Pac-Islander, Male, 0, 0, 60, South, >50K"
)
THIRD = (
    "28, Private, 338409, Bachelors, 13, Married-civ-spouse, Prof-specialty, Wife, Black, Female, 0, 0, 40, Cuba, "
    "<=50K."
)
TRAIN = f"{FIRST}\n{SECOND}\n\n".encode()
TEST = f"|1x3 Cross validator\n{THIRD}\n\n".encode()
PLAIN = {"adult.data": TRAIN, "adult.test": TEST}
PACKED = {f"{name}.gz": gzip.compress(content) for name, content in PLAIN.items()}
STARTS = {1: 6, 3: 15, 5: 31, 6: 38, 7: 53, 8: 59, 9: 64, 13: 65}  # of the attributes' columns, counted by hand


def test_adult_has_six_continuous_columns_and_101_binary_ones(put):
    for files in (PLAIN, PACKED):
        dataset = data.load("adult", put(files))
        assert dataset.x.shape == (3, 107) and dataset.y.tolist() == [0, 1, 0] and dataset.num_classes == 2
        assert dataset.binary.tolist() == [False] * 6 + [True] * 101  # though capital-loss is 0 throughout these rows


def test_a_row_of_adult_is_encoded_as_by_hand():
    label, x = adult.parse_row(FIRST)
    scaled = [(39 - 17) / 73, (77516 - 12285) / 1478115, 12 / 15, 2174 / 99999, 0, 39 / 98]
    np.testing.assert_allclose(x[:6], scaled, rtol=1e-7)  # float32 rounds once: 6e-8
    places = [
        STARTS[1] + 7,
        STARTS[3] + 9,
        STARTS[5] + 4,
        STARTS[6] + 1,
        STARTS[7] + 1,
        STARTS[8] + 4,
        64,
        STARTS[13] + 39,
    ]
    assert label == 0 and np.flatnonzero(x[6:]).tolist() == [place - 6 for place in places]


def test_not_known_is_a_category_and_sex_is_one_column():
    _, x = adult.parse_row(SECOND)
    assert x[STARTS[1]] == x[STARTS[6]] == 1 and x[STARTS[13]] == 0
    _, woman = adult.parse_row(THIRD)
    assert x[6:].sum() == 8 and woman[6:].sum() == 7 and x[64] == 1 and woman[64] == 0


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("28", "", "age is ''"),
        ("28", "?", "age is '?'"),
        ("28", "28.5", "age is '28.5'"),
        ("28", "-28", "17..90"),
        ("28", "280", "17..90"),
        ("Private", "private", "workclass is 'private'"),
        ("Female", "?", "sex is '?', expected one of Female, Male"),
        ("Cuba", "", "native-country is ''"),
        ("<=50K.", "50K", "label '50K', expected <=50K or >50K"),
        ("<=50K.", "", "label ''"),
        ("Cuba, ", "", "14 values, expected 14 attributes and the income"),
    ],
)
def test_a_damaged_row_of_adult_is_refused_with_its_number(put, prepared, old, new, named):
    folder = put({"adult.data": TRAIN, "adult.test": TEST.replace(old.encode(), new.encode(), 1)})
    message = refusal(data.load, "adult", folder)
    assert "adult.test: row 2: " in message and named in message
    assert list(prepared.iterdir()) == []


def test_a_truncated_gzip_of_adult_is_refused(put):
    files = PACKED | {"adult.test.gz": PACKED["adult.test.gz"][:-5]}
    assert "adult.test.gz: damaged or truncated" in reading(adult.read_rows, put(files), *files)


# ---- Purchase-100 and Texas-100 ----


def purchases(rows: int = 12) -> list[list]:
    bits = np.random.default_rng(0).integers(0, 2, (rows, 600))
    return [[i * 37 % 100 + 1, *bits[i]] for i in range(rows)]


def test_purchase_is_every_row_of_the_file_archive_or_extracted(put):
    rows = purchases()
    content = csv(rows)
    for files in ({"dataset_purchase.tgz": archive({"dataset_purchase": content})}, {"dataset_purchase": content}):
        dataset = data.load("purchase100", put(files))
        np.testing.assert_array_equal(dataset.x, [row[1:] for row in rows])
        assert dataset.y.tolist() == [row[0] - 1 for row in rows] and dataset.num_classes == 100
        assert dataset.binary.all() and dataset.x.shape == (12, 600)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (0, 101, "row 8: label '101', expected 1..100"),
        (0, 0, "row 8: label '0'"),
        (600, "", "row 8: value '' in column 601"),
        (1, 2, "row 8: value '2' in column 2"),
        (300, "0,1", "row 8: 601 values after the label, expected 600"),
    ],
)
def test_a_damaged_row_of_purchase_is_refused_with_its_number(put, place, value, named):
    rows = purchases()
    rows[7][place] = value
    assert named in reading(purchase100.read_rows, put({"dataset_purchase": csv(rows)}), "dataset_purchase")


def stays(columns: int, rows: int = 4) -> tuple[np.ndarray, dict[str, bytes]]:
    bits = np.random.default_rng(columns).integers(0, 2, (rows, columns), np.uint8)
    labels = "".join(f"{label}\n" for label in [100, 1, 55, 2][:rows]).encode()
    return bits, {"texas/100/feats": csv(bits), "texas/100/labels": labels}


@pytest.mark.parametrize("columns", [6168, 6169, 6170])
def test_texas_has_as_many_columns_as_the_file(put, columns):
    bits, files = stays(columns)
    dataset = data.load("texas100", put({"dataset_texas.tgz": archive(files)}))
    np.testing.assert_array_equal(dataset.x, bits)
    assert dataset.y.tolist() == [99, 0, 54, 1] and dataset.num_classes == 100 and dataset.binary.all()
    x, y = table(texas100.read_rows, put(files), *files)
    np.testing.assert_array_equal(x, bits)
    np.testing.assert_array_equal(y, dataset.y)


def test_rows_of_texas_that_do_not_fit_are_refused(put):
    def message(feats: bytes, labels: bytes) -> str:
        files = {"texas/100/feats": feats, "texas/100/labels": labels}
        return reading(texas100.read_rows, put(files), *files)

    (_, short), (_, right), (_, other), (_, long) = map(stays, (6167, 6168, 6170, 6171))
    feats, labels = right.values()
    mixed = feats[: 2 * 6168 * 2] + other["texas/100/feats"][2 * 6170 * 2 :]
    assert "feats: row 1: 6167 values, expected 6168 to 6170" in message(short["texas/100/feats"], labels)
    assert "feats: row 1: 6171 values" in message(long["texas/100/feats"], labels)
    assert "feats: row 3: 6170 values, expected 6168" in message(mixed, labels)
    assert "feats: row 2: value '7' in column 6168" in message(
        feats[: 4 * 6168 - 2] + b"7" + feats[4 * 6168 - 1 :], labels
    )
    assert "labels: row 3: label '0'" in message(feats, b"100\n1\n0\n2\n")
    assert "row 4 of texas/100/feats has none in texas/100/labels" in message(feats, b"100\n1\n55\n")
    assert "row 5 of texas/100/labels has none in texas/100/feats" in message(feats, labels + b"3\n")
    assert "labels: expected rows of a label, found none" in message(feats, b"\n")


# ---- two originals, a missing one, a cache that fails ----


def test_two_originals_that_agree_are_read_and_two_that_disagree_are_refused(put, prepared):
    right, wrong = csv(purchases()), csv(purchases()[:-1])
    packed = archive({"dataset_purchase": right})
    both = put({"dataset_purchase.tgz": packed, "dataset_purchase": right})
    assert len(data.load("purchase100", both).x) == 12 and len(list(prepared.iterdir())) == 1
    both = put({"dataset_purchase.tgz": packed, "dataset_purchase": wrong})
    message = refusal(data.load, "purchase100", both)
    assert "dataset_purchase.tgz and dataset_purchase disagree" in message and str(both) in message
    assert len(list(prepared.iterdir())) == 1  # the entry of before


@pytest.mark.parametrize(
    ("name", "packed", "plain", "named"),
    [
        ("mnist", digit_files(), digit_files(False), "t10k-labels-idx1-ubyte"),
        ("adult", PACKED, PLAIN, "adult.test"),
        ("cifar10", {cifar10.ARCHIVE: archive(TEN)}, TEN, "cifar-10-batches-py/test_batch"),
        ("cifar100", {cifar100.ARCHIVE: archive(HUNDRED)}, HUNDRED, "cifar-100-python/test"),
        ("texas100", {"dataset_texas.tgz": archive(stays(6168)[1])}, stays(6168)[1], "texas/100/labels"),
    ],
)
def test_every_file_of_two_originals_is_compared(put, any_md5, name, packed, plain, named):
    first, second = (alternative for alternative in data.ORIGINALS[name].alternatives)
    folder = put(packed | plain)
    raw.check_agreement(folder, first, second)
    (folder / named).write_bytes(plain[named] + b"\n")
    message = refusal(data.load, name, folder)
    assert f"{named} " in message.replace(".gz", "") and "disagree" in message


@pytest.mark.parametrize("name", sorted(data.ORIGINALS))
def test_an_empty_data_folder_says_what_belongs_there_and_where_it_is_published(put, tmp_path, monkeypatch, name):
    monkeypatch.delenv("MI_JAX_DATA", raising=False)
    original = data.ORIGINALS[name]
    put({})
    for folder in (tmp_path, tmp_path / "none", None):
        message = refusal(data.load, name, folder and str(folder))
        assert message.startswith(f"{name}: ") and original.upstream in message
        assert all(Path(file).name in message for files in original.alternatives for file in files)


def test_half_of_an_original_is_none(put):
    message = refusal(data.load, "adult", put({"adult.data": TRAIN}))
    assert "lacks the data" in message and "adult.data + adult.test" in message


def test_a_full_disk_leaves_nothing_in_the_cache(put, prepared, monkeypatch):
    def fail(path, **arrays):
        Path(path).write_bytes(b"PK half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(prepare.np, "savez", fail)
    message = refusal(data.load, "purchase100", put({"dataset_purchase": csv(purchases())}))
    assert "No space left" in message and "MI_JAX_CACHE" in message
    assert list(prepared.iterdir()) == []


def test_download_fetches_what_is_lacking_and_nothing_else(put, tmp_path, monkeypatch):
    upstream = put(PLAIN)
    addresses = {file: (upstream / file).as_uri() for file in PLAIN}
    monkeypatch.setitem(data.ORIGINALS, "adult", adult.ORIGINAL._replace(urls=addresses))
    folder = tmp_path / "new" / "adult"
    assert data.download("adult", str(folder)) == ["adult.data", "adult.test"]
    assert (folder / "adult.test").read_bytes() == TEST and len(data.load("adult", str(folder)).x) == 3
    assert data.download("adult", str(folder)) == []
    (folder / "adult.data").unlink()
    assert data.download("adult", str(folder)) == ["adult.data"]
    assert sorted(file.name for file in folder.iterdir()) == ["adult.data", "adult.test"]


def test_a_download_that_fails_or_stops_short_leaves_nothing(put, tmp_path, monkeypatch):
    upstream = put({"adult.data": TRAIN})
    addresses = {file: (upstream / file).as_uri() for file in PLAIN}
    monkeypatch.setitem(data.ORIGINALS, "adult", adult.ORIGINAL._replace(urls=addresses))
    message = refusal(data.download, "adult", str(tmp_path / "new"))
    assert "adult.test: cannot be downloaded from file:" in message
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["adult.data"]
    monkeypatch.setattr(prepare.shutil, "copyfileobj", lambda source, target: target.write(source.read(100)))
    message = refusal(data.download, "adult", str(tmp_path / "cut"))
    assert f"(100 bytes of {len(TRAIN)})" in message and list((tmp_path / "cut").iterdir()) == []


def test_a_download_needs_an_original_and_a_folder(monkeypatch):
    monkeypatch.delenv("MI_JAX_DATA", raising=False)
    assert "nothing to download" in refusal(data.download, "digits", "anywhere")
    assert "MI_JAX_DATA" in refusal(data.download, "adult")


@pytest.mark.parametrize("name", sorted(data.ORIGINALS))
def test_the_addresses_are_those_of_one_alternative(name):
    original = data.ORIGINALS[name]
    assert tuple(original.urls) in original.alternatives
    assert all(url.startswith("https://") and url.endswith(f"/{file}") for file, url in original.urls.items())


def test_the_card_names_the_terms_of_every_original(put):
    assert set(data.TERMS) == set(data.DATASETS)
    card = data.card(data.load("purchase100", put({"dataset_purchase": csv(purchases())})))
    for fact in ("12 rows of [600]", "100, 0 to 1 rows each", "600 of 600", "privacytrustlab", "no licence stated"):
        assert fact in card


def test_an_original_that_was_cut_between_two_rows_says_so_wherever_it_is_named(put, capsys):
    folder = put({"dataset_purchase": csv(purchases())})
    for _ in range(2):  # read, and from the cache
        note = "12 rows where the published set has 197324"
        assert note in data.load("purchase100", folder).source
        assert capsys.readouterr().err == f"purchase100: dataset_purchase: {note}\n"


# ---- the real originals ----


def original(data_root: Path, name: str) -> Path:
    if not (data_root / name).is_dir():
        pytest.skip(f"needs the original of {name} in the folder of originals")
    return data_root / name


def test_real_mnist_has_the_published_counts_and_mean(data_root):
    x, y = table(mnist.read_rows, original(data_root, "mnist"), *mnist.COMPRESSED)
    assert x.shape == (70000, 28, 28, 1) and y[:5].tolist() == [5, 0, 4, 1, 9] and y[60000:60003].tolist() == [7, 2, 1]
    assert np.bincount(y[:60000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(y[60000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(x[:60000].mean() / 255, 4) == 0.1307  # the mean that everybody normalises by


def test_real_adult_is_what_scikit_learn_makes_of_it(data_root):
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    folder = original(data_root, "adult")
    x, y = table(adult.read_rows, folder, *adult.COMPRESSED)
    text = b"".join(gzip.decompress((folder / file).read_bytes()) for file in adult.COMPRESSED).decode()
    fields = np.array([line.rstrip(".").split(", ") for line in text.splitlines() if line.count(",") == 14])
    assert x.shape == (48842, 107) and [y[:32561].sum(), y[32561:].sum()] == [7841, 3846]
    np.testing.assert_array_equal(y, fields[:, 14] == ">50K")
    scaled = MinMaxScaler().fit_transform(fields[:, list(adult.CONTINUOUS)].astype(np.float64))
    np.testing.assert_allclose(x[:, :6], scaled, rtol=0, atol=1e-7)  # float32 rounds a value up to 1 by 6e-8
    encoder = OneHotEncoder(drop="if_binary", sparse_output=False, dtype=np.float32)
    np.testing.assert_array_equal(x[:, 6:], encoder.fit_transform(fields[:, list(adult.CATEGORIES)]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mnist", (70000, 28, 28, 1)), ("adult", (48842, 107))])
def test_real_originals_pass_through_the_cache_unchanged(data_root, prepared, name, shape):
    folder = original(data_root, name)
    files = mnist.COMPRESSED if name == "mnist" else adult.COMPRESSED
    x, y = table(data.ORIGINALS[name].read_rows, folder, *files)
    for _ in range(2):
        dataset = data.load(name, str(folder))
        assert dataset.x.shape == shape
        np.testing.assert_array_equal(dataset.x, x.astype(np.float32) / (255 if name == "mnist" else 1))
        np.testing.assert_array_equal(dataset.y, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar_has_the_published_mean_and_rows_per_class(data_root, tmp_path, name):
    from tests.data.test_catalogue import run

    original(data_root, name)
    assert run(str(data_root / "restore.py"), str(tmp_path), name).returncode == 0
    module = {"cifar10": cifar10, "cifar100": cifar100}[name]
    x, y = table(module.read_rows, tmp_path, *module.BATCHES)
    classes = data.ORIGINALS[name].num_classes
    assert x.shape == (60000, 32, 32, 3) and x.dtype == np.uint8
    assert set(np.bincount(y[:50000])) == {50000 // classes} and set(np.bincount(y[50000:])) == {10000 // classes}
    published = {"cifar10": [0.49139968, 0.48215841, 0.44653091], "cifar100": [0.50707516, 0.48654887, 0.44091784]}
    np.testing.assert_allclose(x[:50000].mean((0, 1, 2)) / 255, published[name], rtol=0, atol=5e-9)  # all digits
