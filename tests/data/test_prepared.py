import io
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mi_jax import data

N = 12


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


def prepare(name, features, example, folder, label="label"):
    """Prepares a data set as its user would: two splits of rows 0..7 and 8..11."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            keys = (next(iter(features)), label)
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=described, supervised_keys=keys, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 8), "test": self._generate_examples(8, N)}

        def _generate_examples(self, start, end):
            return ((i, example(i)) for i in range(start, end))

    Builder.name = name
    builder = Builder(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    image = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}
    prepare("pictures", image, lambda i: {"image": png(20 * i), "label": i % 2}, folder)
    columns = {
        "age": np.int64, "rate": np.float32, "nested": {"city": tfds.features.Text()},
        "label": tfds.features.ClassLabel(num_classes=3),
    }  # fmt: skip
    row = lambda i: {"age": 20 + i, "rate": i / 7, "nested": {"city": "xyz"[i % 3]}, "label": i % 3}  # noqa: E731
    prepare("people", columns, row, folder)
    prepare("series", {"x": tfds.features.Tensor(shape=(3,), dtype=np.float32)} | {"label": image["label"]},
            lambda i: {"x": np.zeros(3, np.float32), "label": i % 2}, folder)  # fmt: skip
    return folder


def test_prepared_images_are_one_pool_of_all_splits_in_order(folder):
    dataset = data.load("tfds:pictures", str(folder))
    assert dataset.x.shape == (N, 4, 4, 3) and dataset.num_classes == 2 and dataset.binary is None
    np.testing.assert_allclose(dataset.x[:, 0, 0, 0], 20 * np.arange(N) / 255, rtol=1e-6)
    np.testing.assert_array_equal(dataset.y, np.arange(N) % 2)


def test_prepared_columns_are_a_table(folder):
    dataset = data.load("tfds:people", str(folder))
    assert dataset.x.shape == (N, 3) and dataset.num_classes == 3 and dataset.categorical.sum() == 1
    np.testing.assert_array_equal(dataset.y, np.arange(N) % 3)


def test_tfrecord_files_are_read_without_tensorflow(folder, tmp_path):
    """The same records in the framing of TFRecord, which only TensorFlow writes."""
    import shutil

    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    place = tmp_path / "pictures" / "1.0.0"
    for file in place.glob("*array_record*"):
        from array_record.python import array_record_module

        reader = array_record_module.ArrayRecordReader(str(file))
        records = [reader.read([i])[0] for i in range(reader.num_records())]
        framed = b"".join(struct.pack("<Q", len(one)) + bytes(4) + one + bytes(4) for one in records)
        file.with_name(file.name.replace("array_record", "tfrecord")).write_bytes(framed)
        file.unlink()
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    expected, found = (data.load("tfds:pictures", str(one)) for one in (folder, tmp_path))
    np.testing.assert_array_equal(found.x, expected.x)
    np.testing.assert_array_equal(found.y, expected.y)
    file = next(place.glob("*train*"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut off, expected a TFRecord file"):
        data.load("tfds:pictures", str(tmp_path))


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "tfds:nowhere: not found"),
        ("mnist", "holds no data; expected one that was prepared there"),
        ("series", "feature x has shape [3], expected single values"),
    ],
)
def test_a_set_that_cannot_be_read_is_said_in_one_line(folder, name, message):
    with pytest.raises(ValueError) as error:
        data.load(f"tfds:{name}", str(folder))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_images_is_a_data_set(tmp_path):
    for i in range(6):
        (tmp_path / "xy"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(tmp_path / "xy"[i % 2] / f"{i}.png")
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.x.shape == (6, 4, 4, 1) and dataset.y.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="expected none with folder:"):
        data.load(f"folder:{tmp_path}", "data")
    with pytest.raises(ValueError, match="no such folder"):
        data.load(f"folder:{tmp_path}/none")
