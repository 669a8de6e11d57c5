"""One file for each data set that is made from originals: what its files are, and how they are read.

Every file defines `ORIGINAL`, an `Original`; `builder.py` turns it into a TFDS builder that needs no TensorFlow,
and `cache.py` keeps what the builder prepared. A reader knows nothing of caches: it yields the rows of its files,
in their order, and raises one `ValueError` line, naming the file and the row, where a file is not what it should
be. `raw.py` holds what the readers share, `fetch.py` downloads. Nothing here imports `tensorflow_datasets` (a
second or two) before a data set must be prepared.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Rows = Iterator[tuple[int, np.ndarray]]  # (0-based label, x), in the order of the pool
Files = tuple[str, ...]  # relative to the folder of originals, / between folders


class Original(NamedTuple):
    """A data set as it is published: its files, and how rows are read from them."""

    alternatives: tuple[Files, ...]  # each a set of files that together hold the data; the first one there is read
    read_rows: Callable[[Path, Files], Rows]  # (folder, one of the alternatives) -> rows
    shape: tuple[int | None, ...]  # of x: (H, W, C) or (F,); (None,): the original says how many columns there are
    num_classes: int
    rows: int  # as published; a file that was cut between two lines has fewer, and only this number tells
    description: str  # the docstring of its module
    upstream: str  # who publishes it and where, for the message that says what to put where
    homepage: str
    terms: str  # the licence, as far as it is known
    urls: dict[str, str]  # file -> its public address, for the files of one alternative
    dtype: type = np.uint8  # of x, or float32; uint8 images are divided by 255 on loading, uint8 tables are not
    binary: np.ndarray | None = None  # bool [F], which columns of a table are 0/1; None: told from the values


def listed(files: Files) -> str:
    """Returns the names of the files in one phrase, a folder that they share named once."""
    folder, slash, _ = files[0].rpartition("/")
    if len(files) == 1 or not slash:
        return " + ".join(files)
    return f"{folder}/{{{', '.join(file.rpartition('/')[2] for file in files)}}}"
