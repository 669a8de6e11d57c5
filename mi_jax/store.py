"""Finished results of a long run, on disk: named entries, each there whole or not at all.

A run that was stopped is started again with the same command. What is cached is not computed again, and because no
result depends on what it was computed beside, the outcome is the same to the bit.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Entry = dict[str, np.ndarray]
Cache = Callable[[str, Callable[[], Entry]], Entry]
"""(name, compute) -> what `compute` returns, or returned when this name was first asked for."""


def no_cache(name: str, compute: Callable[[], Entry]) -> Entry:
    """`compute()`: the Cache of runs that are not to be resumed."""
    del name
    return compute()


def cache_in(folder: Path) -> Cache:
    """A Cache with one .npz a name in `folder`, created with the first entry. A damaged entry is computed anew."""

    def cache(name: str, compute: Callable[[], Entry]) -> Entry:
        path = folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except Exception:  # not there, or whatever NumPy and zipfile raise over damage
            entry = compute()
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, npz_bytes(entry))
        return entry

    return cache


def npz_bytes(entry: Entry) -> bytes:
    """The .npz of named arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **entry)
    return buffer.getvalue()


def digest(settings: dict, code: list[Path]) -> str:
    """16 hex digits that change with any of these settings (JSON) and any line of Python in these folders."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(path for folder in code for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def remove(folder: Path) -> None:
    """Deletes the entries of a finished run, and the folder around them if it held no others."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp's own mode would hide the report from everybody else
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
