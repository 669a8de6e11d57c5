"""Location-30: which of 446 places in Bangkok a Foursquare user has visited; 5,010 users in 30 clusters.

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), published as
`dataset_location.tgz` in the GitHub repository privacytrustlab/datasets. The archive holds one CSV without a
header, `bangkok`: the cluster, 1..30 in double quotes, then 446 values 0 or 1. No checksum is published, and no
licence is stated.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mi_jax.datasets import read_from_archive

ARCHIVE, EXTRACTED = "dataset_location.tgz", "bangkok"
PLACES, CLASSES = 446, 30


def parse_row(line: str) -> tuple[int, np.ndarray]:
    """Returns the 0-based label and the bits [446] uint8 of one line; ValueError says what is wrong with it."""
    label, *bits = line.strip().split(",")
    number = label.strip('"')
    if not (number.isdecimal() and 1 <= int(number) <= CLASSES):
        raise ValueError(f"label {label[:20]!r}, expected 1..{CLASSES}")
    if len(bits) != PLACES:
        raise ValueError(f"{len(bits)} values after the label, expected {PLACES}")
    if not set(bits) <= {"0", "1"}:
        column = next(i for i, bit in enumerate(bits) if bit not in ("0", "1"))
        raise ValueError(f"value {bits[column][:20]!r} in column {column + 2}, expected 0 or 1")
    return int(number) - 1, np.array([bit == "1" for bit in bits], np.uint8)


def read_rows(folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Returns the rows (label, bits) of the original in `folder`, archive or extracted file, in its order.

    Blank lines are passed over. Raises ValueError naming the file and the number (from 1) of the row at fault.
    """
    path = folder / ARCHIVE if (folder / ARCHIVE).is_file() else folder / EXTRACTED
    if not path.is_file():
        raise ValueError(f"{folder}: expected {ARCHIVE} or the file {EXTRACTED} extracted from it")
    found = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = parse_row(line.decode("ascii", errors="replace"))
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {error}") from None
        found += 1
        yield row
    if not found:
        raise ValueError(f"{path}: expected rows of a label and {PLACES} values, found none")


def _lines(path: Path) -> Iterator[bytes]:
    if path.name == ARCHIVE:
        yield from read_from_archive(path, EXTRACTED)
    else:
        with path.open("rb") as file:
            yield from file


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares Location-30 from the original in `manual_dir`."""

    name = "location30"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {ARCHIVE} of the GitHub repository privacytrustlab/datasets, or the file {EXTRACTED} in it, here."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "x": tfds.features.Tensor(shape=(PLACES,), dtype=np.uint8),
                    "y": tfds.features.ClassLabel(num_classes=CLASSES),
                }
            ),
            homepage="https://github.com/privacytrustlab/datasets",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"pool": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[int, dict]]:
        for key, (label, bits) in enumerate(read_rows(folder)):
            yield key, {"x": bits, "y": label}
