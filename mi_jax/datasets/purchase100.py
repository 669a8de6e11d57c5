"""Purchase-100: which of 600 products a shopper has bought; 197,324 shoppers in 100 clusters.

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), from Kaggle's
"acquire valued shoppers" challenge, published as `dataset_purchase.tgz` in the GitHub repository
privacytrustlab/datasets. The archive holds one CSV without a header, `dataset_purchase`: the cluster, 1..100,
then 600 values 0 or 1. No checksum is published, and no licence is stated.
"""

from pathlib import Path

import numpy as np

from mi_jax.datasets import Files, Original, Rows, raw

ARCHIVE, EXTRACTED = "dataset_purchase.tgz", "dataset_purchase"
PRODUCTS, CLASSES = 600, 100


def parse_row(line: str) -> tuple[int, np.ndarray]:
    """Returns the 0-based label and the bits [600] uint8 of one line; ValueError says what is wrong with it."""
    first, *values = line.split(",")
    label = raw.label(first, CLASSES)
    if len(values) != PRODUCTS:
        raise ValueError(f"{len(values)} values after the label, expected {PRODUCTS}")
    return label, raw.bits(values, before=1)


def read_rows(folder: Path, files: Files) -> Rows:
    """Returns the rows (label, bits) of the original, archive or extracted file. Blank lines are passed over."""
    path = folder / files[0]
    yield from raw.numbered(path, raw.lines(path, EXTRACTED), parse_row, f"a label and {PRODUCTS} values")


ORIGINAL = Original(
    alternatives=((ARCHIVE,), (EXTRACTED,)),
    read_rows=read_rows,
    shape=(PRODUCTS,),
    num_classes=CLASSES,
    description=__doc__,
    upstream="privacytrustlab/datasets on GitHub",
    homepage="https://github.com/privacytrustlab/datasets",
    terms="no licence stated; cite Shokri et al. 2017 and Kaggle's acquire valued shoppers challenge",
    urls={ARCHIVE: f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE}"},
)
