"""Pools of labelled examples, and who is trained on what.

`load` finds a data set by name (`DATASETS`), `from_arrays` takes yours; `splits` is the only place where membership
is drawn, `outliers` says which points lie alone. A new data set is one file in `sources/` and one line in
`sources/originals.py`. `python -m mi_jax.data NAME` prints a card.
"""

from mi_jax.data.catalogue import (
    DATASETS,
    TERMS,
    card,
    check_dataset,
    digits,
    download,
    from_arrays,
    from_generator,
    from_npz,
    from_original,
    known_names,
    load,
)

__all__ = [
    "DATASETS",
    "TERMS",
    "card",
    "check_dataset",
    "digits",
    "download",
    "from_arrays",
    "from_generator",
    "from_npz",
    "from_original",
    "known_names",
    "load",
]
