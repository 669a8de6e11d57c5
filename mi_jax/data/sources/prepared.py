"""Any classification set of TensorFlow Datasets that was prepared before, read without TensorFlow."""

import contextlib
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mi_jax.data import tables
from mi_jax.data.labels import coding_of
from mi_jax.types import Dataset


def from_tfds(spec: str, folder: str | None) -> Dataset:
    """Returns all splits of a prepared data set, one after the other, as one pool: images, or a table of its columns.

    `spec` is `NAME` or `NAME/CONFIG:VERSION` as TensorFlow Datasets has it. `folder` is where it was prepared (None:
    $TFDS_DATA_DIR or ~/tensorflow_datasets). Its features are one image and one label, or numbers, text and one label,
    the one that `supervised_keys` names. Files are ArrayRecord or TFRecord.

    Raises ValueError, in one line, for a set that is not there, and for other features.
    """
    builder = _builder(spec, folder)
    info = builder.info
    label = _label(spec, info)
    rows, labels = [], []
    for split in info.splits.values():
        for example in _examples(builder, split):
            labels.append(example.pop(label))
            rows.append(example)
    if not rows:
        raise ValueError(f"tfds:{spec}: no rows, expected at least two classes of them")
    x = _images(spec, info.features, rows)
    x = _columns(spec, rows) if x is None else x
    codec, coding = tables.codec_of(x), coding_of(np.asarray(labels))
    y, names = coding.encode(np.asarray(labels)), ", ".join(info.splits)
    source = f"TensorFlow Datasets {info.full_name}, splits {names}; {len(rows)} rows"
    number = len(coding.classes)
    return Dataset(f"tfds:{spec}", codec.encode(x), y, number, codec.binary, source, codec.categorical)


def _builder(spec: str, folder: str | None) -> Any:
    import tensorflow_datasets as tfds  # takes a second or two

    logging.getLogger("absl").setLevel(logging.ERROR)  # it advises to install OpenCV
    options: dict[str, Any] = {} if folder is None else {"data_dir": str(Path(folder).expanduser())}
    expected = "expected one that was prepared there, as tfds build does, or another --data_dir"
    try:
        builder = tfds.builder(spec, **options)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"tfds:{spec}: not found ({reason}); {expected}") from None
    if not Path(builder.data_dir).is_dir() or not builder.info.splits:
        raise ValueError(f"tfds:{spec}: {builder.data_dir} holds no data; {expected}")
    return builder


def _label(spec: str, info: Any) -> str:
    keys = info.supervised_keys
    kinds = {name: type(feature).__name__ for name, feature in info.features.items()}
    named = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    label = keys[1] if keys and isinstance(keys[1], str) else named[0] if len(named) == 1 else None
    if label is None or label not in kinds:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(f"tfds:{spec}: features {listed}; expected one label of classes, that of supervised_keys")
    return label


def _images(spec: str, features: Any, rows: list[dict]) -> np.ndarray | None:
    """The images [N H W C] of a set with images; None: it has none."""
    names = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if not names:
        return None
    shapes = {row[names[0]].shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"tfds:{spec}: images of {len(shapes)} sizes, expected one size")
    return np.stack([row[names[0]] for row in rows])


def _columns(spec: str, rows: list[dict]) -> dict[str, np.ndarray]:
    """The numbers and text of all rows by the names of features; nested ones have names like a/b."""
    flat = [dict(_flattened(row)) for row in rows]
    for name, value in flat[0].items():
        if np.ndim(value):
            raise ValueError(f"tfds:{spec}: feature {name} has shape {list(np.shape(value))}, expected single values")
    return {name: np.array([row[name] for row in flat]) for name in flat[0]}


def _flattened(features: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in features.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}/")
        else:
            value = value.item() if isinstance(value, np.generic) else value
            yield prefix + name, value.decode(errors="replace") if isinstance(value, bytes) else value


def _examples(builder: Any, split: Any) -> Iterator[dict]:
    files = [Path(file) for file in split.filepaths]
    if all("tfrecord" in file.name for file in files):
        for file in files:
            for record in _records(file):
                yield builder.info.features.deserialize_example_np(record)
        return
    with contextlib.redirect_stdout(None):
        source = builder.as_data_source(split=split.name)
    for i in range(len(source)):
        yield dict(source[i])


def _records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: a length (8 bytes), its checksum (4), the record, its checksum (4)."""
    with file.open("rb") as stream:
        while header := stream.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            record, checksum = stream.read(length), stream.read(4)
            if len(record) < length or len(checksum) < 4:
                raise ValueError(f"{file}: cut off, expected a TFRecord file")
            yield record
