"""Original data sets: one file for each, which says what the published files are and how to read them.

Every such file defines `ORIGINAL`, an `Original`. Its reader yields the rows of the files in their order. It raises a
one-line `ValueError`, naming the file and the row, for a file that is not as published. `raw` has what the readers
share. `prepare` downloads originals and caches what was read. `synthetic` generates tables instead of reading them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Rows = Iterator[tuple[int, np.ndarray]]  # (0-based label, x), in the order of the pool
Files = tuple[str, ...]  # relative to the folder of originals, / between folders


class Original(NamedTuple):
    """A data set as published: its files, and how to read rows from them."""

    alternatives: tuple[Files, ...]  # each is a set of files with all the data; the first one present is read
    read_rows: Callable[[Path, Files], Rows]  # (folder, one of the alternatives) -> rows
    shape: tuple[int | None, ...]  # of x: (H, W, C) or (F,); (None,): the files decide the number of columns
    num_classes: int
    rows: int  # as published; a file that was truncated between two lines has fewer and shows no other sign of it
    description: str | None  # the docstring of its module; None where Python drops docstrings
    upstream: str  # who publishes it and where, for error messages
    homepage: str
    terms: str  # the licence, as far as it is known
    urls: dict[str, str]  # file -> its public address, for the files of one alternative
    dtype: type = np.uint8  # of x, or float32; uint8 images are divided by 255 when loaded, uint8 tables are not
    binary: np.ndarray | None = None  # bool [F], True for 0/1 columns of a table; None: derived from the values


def format_files(files: Files) -> str:
    """Returns the file names in one phrase; a shared folder is written once."""
    folder, slash, _ = files[0].rpartition("/")
    if len(files) == 1 or not slash:
        return " + ".join(files)
    return f"{folder}/{{{', '.join(file.rpartition('/')[2] for file in files)}}}"
