"""Data sets, and the splits that say which rows each model is trained on.

`load` returns a data set by name (`DATASETS`); `from_arrays` makes one from your arrays, and `describe` says what is
in it. `splits` is the only place where membership is drawn. `outliers` finds the points that are isolated in a model's
feature space. A new data set is one file in `sources/` and one line in `catalogue.py`. `python -m mi_jax.data NAME`
prints a data set's card.
"""

from mi_jax.data.arrays import check_dataset, describe, from_arrays
from mi_jax.data.catalogue import (
    DATASETS,
    ORIGINALS,
    TERMS,
    card,
    digits,
    download,
    from_npz,
    from_original,
    from_synthetic,
    known_names,
    load,
)

__all__ = [
    "DATASETS",
    "ORIGINALS",
    "TERMS",
    "card",
    "check_dataset",
    "describe",
    "digits",
    "download",
    "from_arrays",
    "from_npz",
    "from_original",
    "from_synthetic",
    "known_names",
    "load",
]
