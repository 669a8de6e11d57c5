"""Synthetic tables in the shape of Purchase-100 and Texas-100: class prototypes plus bit flips.

They serve for measuring speed and scale, and for trying the pipeline without the originals. Results on them say
nothing about the real data, so their names and sources begin with "synthetic".

How rows are drawn: one vector of bits, each 1 with probability `p_one`, is common to all classes. The prototype of a
class is this vector with each bit flipped with probability `p_class_flip`. A row has a uniformly drawn class, and is
its prototype with each bit flipped with probability `p_row_flip`. The probabilities make the classes overlap. A
nearest-mean classifier, fitted on 10,000 rows, has an accuracy of at least about 0.95 on those rows and of about
two thirds on other rows.
"""

from typing import NamedTuple

import numpy as np


class SyntheticTable(NamedTuple):
    """The shape and the difficulty of one synthetic data set."""

    original: str  # the data set whose shape it has
    num_features: int
    num_classes: int
    p_one: float
    p_class_flip: float
    p_row_flip: float


TABLES = {
    "purchase": SyntheticTable("Purchase-100", 600, 100, 0.25, 0.013, 0.2),
    "texas": SyntheticTable("Texas-100", 6169, 100, 0.1, 0.002, 0.2),
}
DEFAULT_ROWS = 40_000  # four sets of the paper's 10,000
MAX_ROWS = 1_000_000


def parse_spec(spec: str) -> tuple[SyntheticTable, int]:
    """Returns the table and the number of rows that `TABLE` or `TABLE:ROWS` names; ValueError for anything else."""
    name, colon, rows = spec.partition(":")
    if name not in TABLES:
        raise ValueError(f"synthetic:{spec}: unknown table {name!r}; known: {', '.join(TABLES)}")
    min_rows = TABLES[name].num_classes
    if colon and not (rows.isdecimal() and len(rows) < 9 and min_rows <= int(rows) <= MAX_ROWS):
        raise ValueError(f"synthetic:{spec}: {rows!r} rows; expected {min_rows}..{MAX_ROWS}")
    return TABLES[name], int(rows) if colon else DEFAULT_ROWS


def generate(table: SyntheticTable, num_rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [num_rows num_features] uint8 of 0 and 1, and y [num_rows]. A smaller set is a prefix of a larger."""
    rng, row_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    common = rng.random(table.num_features) < table.p_one
    prototypes = common ^ (rng.random((table.num_classes, table.num_features)) < table.p_class_flip)  # [C F]
    y = rng.integers(table.num_classes, size=num_rows)
    x = np.empty((num_rows, table.num_features), np.uint8)
    for i, label in enumerate(y):  # row by row, because the random numbers of all rows take many times the memory of x
        x[i] = prototypes[label] ^ (row_rng.random(table.num_features, np.float32) < table.p_row_flip)
    return x, y.astype(np.int32)
