"""A cache of finished results of a long run on disk: named entries, each written whole or not at all.

An interrupted run is resumed by the same command. Cached results are not computed again. No result depends on what
was computed beside it, so a resumed run gives the same results to the bit.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Entry = dict[str, np.ndarray]
Cache = Callable[[str, Callable[[], Entry]], Entry]
"""(name, compute) -> the cached entry of this name, or else `compute()`, which is then cached."""


def no_cache(name: str, compute: Callable[[], Entry]) -> Entry:
    """Returns `compute()`: the Cache of a run that cannot be resumed."""
    del name
    return compute()


def cache_in(folder: Path) -> Cache:
    """Returns a Cache with one .npz per name in `folder`, which the first entry creates.

    A damaged entry is computed again.
    """

    def cache(name: str, compute: Callable[[], Entry]) -> Entry:
        path = folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except Exception:  # a missing file; NumPy and zipfile raise many types of exception for a damaged one
            entry = compute()
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, npz_bytes(entry))
        return entry

    return cache


def npz_bytes(entry: Entry) -> bytes:
    """Returns the content of an .npz file with these named arrays."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = entry  # np.savez has options among its keyword arguments
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def run_digest(settings: dict, code: list[Path]) -> str:
    """Returns 16 hex digits that change with any setting (JSON) and any line of Python in the folders `code`."""
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(path for folder in code for path in folder.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def remove(folder: Path) -> None:
    """Deletes the cache of a finished run, and its parent folder if that is then empty."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(scratch, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
