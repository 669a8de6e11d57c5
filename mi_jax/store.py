"""What a long run keeps on disk: a cache of finished results, and a log of the answers of targets.

An interrupted run is resumed by the same command. Cached results are not computed again. No result depends on what
was computed beside it, so a resumed run gives the same results to the bit.

A cache entry has a name, which must change with everything that the entry depends on. An `AnswerLog` needs less care:
an answer is found by the queries themselves, so whatever changes an attack changes what is found.
"""

import base64
import collections
import functools
import hashlib
import inspect
import io
import json
import marshal
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
    folder = Path(folder)

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


class AnswerLog:
    """The answers of one target in a file, one line for each batch, written before and after the target answers.

    A run that asks the same batch as often gets the stored answers, in the order in which they came: a batch asked
    twice has two answers. A line that was cut off or damaged counts as not written.
    """

    def __init__(self, path: Path):
        if path.is_dir() or path.parent.exists() and not path.parent.is_dir():
            raise ValueError(f"{path}: expected a file in a folder, to store answers in")
        self.path = path
        self.unanswered = 0  # queries of earlier runs that were put and got no answer
        self.probed = 0  # queries put again, in this run and before, to compare stored answers with the target's
        self.replayed = 0  # queries of this run whose answers were stored; those of a batch count once
        self._answers: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self._asked: collections.Counter[str] = collections.Counter()  # batches of this run
        lines = path.read_bytes().splitlines() if path.is_file() else []
        for line in lines:
            self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if "probe" in entry:
                self.probed += int(entry["probe"])
                return
            if "put" in entry:
                self.unanswered += int(entry["put"])
                return
            content = base64.b64decode(entry["answers"])
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                return
            answers = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, KeyError, TypeError, EOFError):  # cut off, or damaged
            return
        self.unanswered -= len(answers)
        self._answers[entry["queries"]].append(answers)

    def ask(self, queries: np.ndarray, answer: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, bool]:
        """Returns (the answers to queries [R *x], whether they were stored); `answer` gives those that were not."""
        sha = hashlib.sha256(f"{queries.dtype}{queries.shape}".encode())
        sha.update(np.ascontiguousarray(queries).tobytes())
        batch = sha.hexdigest()[:32]
        number = self._asked[batch]
        self._asked[batch] += 1
        if number < len(self._answers[batch]):
            self.replayed += 0 if number else len(queries)
            return self._answers[batch][number], True
        self._append({"put": len(queries), "queries": batch})
        answers, buffer = answer(queries), io.BytesIO()
        np.save(buffer, answers, allow_pickle=False)
        content = buffer.getvalue()
        written = {"answers": base64.b64encode(content).decode(), "sha256": hashlib.sha256(content).hexdigest()}
        self._append({"queries": batch} | written)
        self._answers[batch].append(answers)
        return answers, False

    def probe(self, queries: int) -> None:
        """Counts queries that are put to compare stored answers with the target's."""
        self._append({"probe": queries})
        self.probed += queries

    def _append(self, entry: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            cut_off = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write((b"\n" if cut_off else b"") + json.dumps(entry).encode() + b"\n")


def npz_bytes(entry: Entry) -> bytes:
    """Returns the content of an .npz file with these named arrays."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = entry  # np.savez has options among its keyword arguments
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def describe_code(function: Any, inside: tuple[int, ...] = ()) -> Any:
    """Returns, for JSON, what identifies the code of a function; None for None.

    That is its name in this package, or else its name and the content of its file or notebook cell, and in both cases
    the numbers, texts, arrays and functions that it encloses or has as defaults. Other objects count by their type, and
    modules that it imports are not covered. `inside` are the functions it is enclosed by.
    """
    if isinstance(function, functools.partial):
        return [describe_code(part, inside) for part in (function.func, *function.args, *function.keywords.items())]
    if isinstance(function, tuple | list):
        return [describe_code(part, inside) for part in function]
    if isinstance(getattr(function, "dtype", None), np.dtype):  # an array; random keys have another kind of dtype
        array = np.asarray(function)
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    unwrapped: Any = inspect.unwrap(function) if callable(function) else None
    code = getattr(unwrapped, "__code__", None)
    if code is None:
        return repr(function) if isinstance(function, str | int | float | bool | None) else type(function).__qualname__
    inside = (*inside, id(unwrapped))
    cells = [cell.cell_contents for cell in unwrapped.__closure__ or () if _is_set(cell)]
    cells += [*(unwrapped.__defaults__ or ()), *(unwrapped.__kwdefaults__ or {}).values()]
    held = [describe_code(value, inside) for value in cells if id(inspect.unwrap(value)) not in inside]
    name = [f"{unwrapped.__module__}.{unwrapped.__qualname__}", *held]
    if f"{unwrapped.__module__}.".startswith("mi_jax."):
        return name
    file = Path(code.co_filename)
    try:
        content = file.read_bytes() if file.is_file() else inspect.getsource(unwrapped).encode()
    except OSError:
        content = b""
    return [*name, hashlib.sha256(content + marshal.dumps(code)).hexdigest()]


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is assigned later
        return False


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
