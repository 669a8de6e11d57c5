"""What is finished of a long run, on disk: named parts, each there whole or not at all.

A run that was stopped is started again with the same words: what `keep` finds is not computed again, and because no
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

Part = dict[str, np.ndarray]
Keep = Callable[[str, Callable[[], Part]], Part]
"""(name, compute) -> what compute returns, or returned when this name was last asked for."""


def keep_nothing(name: str, compute: Callable[[], Part]) -> Part:
    """`compute()`: the Keep of runs that are not to be resumed."""
    del name
    return compute()


def keep_in(folder: Path) -> Keep:
    """A Keep with one .npz a name in `folder`, which is made with the first part. A damaged part is computed anew."""

    def keep(name: str, compute: Callable[[], Part]) -> Part:
        path = folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except Exception:  # not there, or whatever NumPy and zipfile raise over damage
            part = compute()
        folder.mkdir(parents=True, exist_ok=True)
        put(path, packed(part))
        return part

    return keep


def packed(part: Part) -> bytes:
    """The .npz of named arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **part)
    return buffer.getvalue()


def digest(settings: dict, code: list[Path]) -> str:
    """16 letters that change with any of these settings (JSON) and any line of Python in these folders."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(path for folder in code for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def remove(folder: Path) -> None:
    """Deletes the parts of a finished run, and the folder around them if it held no others."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def put(path: Path, content: bytes) -> None:
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
