"""Synthetic tables in the shape of Purchase-100 and Texas-100: class prototypes plus bit flips.

For speed, scale and trying out the pipeline where the originals are not at hand. What is found on them says
nothing about the real data, so their name and their source begin with "synthetic".

How they are drawn: one row of bits is common to all (each 1 with probability `density`); the prototype of a class
is that row with each bit flipped with probability `apart`; a row has a class drawn evenly and is its prototype
with each bit flipped with probability `flips`. The probabilities are chosen so that the classes overlap: the means
of the classes over 10,000 rows, taken as a classifier, are right about 95 times in 100 on those rows or better, and
about two times in three on others.
"""

from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """The shape and the difficulty of one synthetic data set."""

    shaped_like: str
    features: int
    classes: int
    density: float
    apart: float
    flips: float


KINDS = {
    "purchase": Kind("Purchase-100", 600, 100, 0.25, 0.013, 0.2),
    "texas": Kind("Texas-100", 6169, 100, 0.1, 0.002, 0.2),
}
ROWS = 40_000  # four sets of the paper's 10,000
MOST = 1_000_000


def parse(wanted: str) -> tuple[Kind, int]:
    """Returns the kind and the rows that `KIND` or `KIND:ROWS` asks for; ValueError says what else was asked."""
    name, colon, rows = wanted.partition(":")
    if name not in KINDS:
        raise ValueError(f"synthetic:{wanted}: unknown kind {name!r}; known: {', '.join(KINDS)}")
    if colon and not (rows.isdecimal() and len(rows) < 9 and KINDS[name].classes <= int(rows) <= MOST):
        raise ValueError(f"synthetic:{wanted}: {rows!r} rows; expected {KINDS[name].classes}..{MOST}")
    return KINDS[name], int(rows) if colon else ROWS


def draw(kind: Kind, rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [rows features] uint8 of 0 and 1, and y [rows]; fewer rows are the beginning of more."""
    rng, noise = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    common = rng.random(kind.features) < kind.density
    prototypes = common ^ (rng.random((kind.classes, kind.features)) < kind.apart)  # [C F]
    y = rng.integers(kind.classes, size=rows)
    x = np.empty((rows, kind.features), np.uint8)
    for i, label in enumerate(y):  # row by row: the noise of all at once would be many times the data
        x[i] = prototypes[label] ^ (noise.random(kind.features, np.float32) < kind.flips)
    return x, y.astype(np.int32)
