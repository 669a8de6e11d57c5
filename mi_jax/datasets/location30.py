"""Location-30: which of 446 places in Bangkok a Foursquare user has visited; 5,010 users in 30 clusters.

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), published as
`dataset_location.tgz` in the GitHub repository privacytrustlab/datasets. The archive holds one CSV without a
header, `bangkok`: the cluster, 1..30 in double quotes, then 446 values 0 or 1. No checksum is published, and no
licence is stated.
"""

from pathlib import Path

import numpy as np

from mi_jax.datasets import Files, Original, Rows, raw

ARCHIVE, EXTRACTED = "dataset_location.tgz", "bangkok"
PLACES, CLASSES = 446, 30


def parse_row(line: str) -> tuple[int, np.ndarray]:
    """Returns the 0-based label and the bits [446] uint8 of one line; ValueError says what is wrong with it."""
    first, *values = line.split(",")
    label = raw.label(first, CLASSES)
    if len(values) != PLACES:
        raise ValueError(f"{len(values)} values after the label, expected {PLACES}")
    return label, raw.bits(values, before=1)


def read_rows(folder: Path, files: Files) -> Rows:
    """Returns the rows (label, bits) of the original, archive or extracted file. Blank lines are passed over."""
    path = folder / files[0]
    yield from raw.numbered(path, raw.lines(path, EXTRACTED), parse_row, f"a label and {PLACES} values")


ORIGINAL = Original(
    alternatives=((ARCHIVE,), (EXTRACTED,)),
    read_rows=read_rows,
    shape=(PLACES,),
    num_classes=CLASSES,
    description=__doc__,
    upstream="privacytrustlab/datasets on GitHub",
    homepage="https://github.com/privacytrustlab/datasets",
    terms="no licence stated; cite Shokri et al. 2017 and the Foursquare data of Yang et al.",
    urls={ARCHIVE: f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE}"},
)
