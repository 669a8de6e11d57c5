"""What the readers of originals share: lines and members of archives, checksums, bits, labels."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from mi_jax.data.sources import Files, Rows

Row = TypeVar("Row")
ARCHIVES = (".tgz", ".tar.gz")
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)


def lines(path: Path, member: str | None = None) -> Iterator[bytes]:
    """Returns the lines of the file at `path`: plain, packed (.gz), or the `member` of an archive (.tgz, .tar.gz).

    A member is found in whatever folder of the archive. Nothing is held in memory. What is packed is decompressed
    once to its end before the first line is given out: gzip has its checksum there, and tarfile stops before it,
    so that a flipped bit could pass as data.

    Raises ValueError if the file cannot be read, is damaged or truncated, or is an archive without that member.
    """
    try:
        if path.name.endswith(ARCHIVES):
            _drain(path)
            with tarfile.open(path, "r:gz") as archive:
                yield from archive.extractfile(_find(archive, path, member))
        elif path.suffix == ".gz":
            _drain(path)
            with gzip.open(path) as file:
                yield from file
        else:
            with path.open("rb") as file:
                yield from file
    except DAMAGED as error:
        raise ValueError(_damage(path, error)) from error


def contents(path: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the `members` of the archive at `path`, whole and in memory; ValueError as `lines` raises it."""
    try:
        _drain(path)
        with tarfile.open(path, "r:gz") as archive:
            found = {member: _find(archive, path, member) for member in members}
            in_order = sorted(members, key=lambda member: found[member].offset)  # a step back decompresses anew
            return {member: archive.extractfile(found[member]).read() for member in in_order}
    except DAMAGED as error:
        raise ValueError(_damage(path, error)) from error


def content(path: Path) -> bytes:
    """Returns the bytes of the file at `path`, unpacked if its name ends in .gz; ValueError as `lines` raises it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read()
    except DAMAGED as error:
        raise ValueError(_damage(path, error)) from error


def _drain(path: Path) -> None:
    with gzip.open(path) as packed:
        while packed.read(1 << 20):
            pass


def _damage(path: Path, error: Exception) -> str:
    if path.suffix in (".gz", ".tgz"):
        return f"{path}: damaged or truncated archive ({error}); fetch it again"
    return f"{path}: cannot be read ({error})"


def _find(archive: tarfile.TarFile, path: Path, member: str) -> tarfile.TarInfo:
    wanted = PurePosixPath(member).parts
    for entry in archive.getmembers():
        if entry.isfile() and PurePosixPath(entry.name).parts[-len(wanted) :] == wanted:
            return entry
    held = ", ".join(archive.getnames()[:5]) or "nothing"
    raise ValueError(f"{path}: expected an archive with a file {member!r}, this one holds {held}")


def numbered(path: Path, source: Iterator[bytes], parse: Callable[[str], Row], expected: str) -> Iterator[Row]:
    """Returns `parse(line)` for every line of `source` that is not blank.

    Raises ValueError naming the file and the number (from 1) of the row at fault; also if there is no row at all,
    in which case `expected` says what there should be.
    """
    found = 0
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            row = parse(line.decode("ascii", errors="replace").strip())
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {error}") from None
        found += 1
        yield row
    if not found:
        raise ValueError(f"{path}: expected rows of {expected}, found none")


def label(text: str, classes: int) -> int:
    """Returns a label 1..classes, perhaps in double quotes, as 0..classes-1; ValueError names another text."""
    number = text.strip().strip('"')
    if not (number.isdecimal() and 1 <= int(number) <= classes):
        raise ValueError(f"label {text[:20]!r}, expected 1..{classes}")
    return int(number) - 1


def bits(values: list[str], *, before: int = 0) -> np.ndarray:
    """Returns texts "0" and "1" as uint8; ValueError names another text and its column, `before` columns further."""
    if not set(values) <= {"0", "1"}:
        column = next(i for i, value in enumerate(values) if value not in ("0", "1"))
        raise ValueError(f"value {values[column][:20]!r} in column {column + before + 1}, expected 0 or 1")
    return np.frombuffer("".join(values).encode(), np.uint8) - ord("0")


def labelled_bits(member: str, columns: int, classes: int) -> Callable[[Path, Files], Rows]:
    """Returns a reader (folder, files) -> rows (label, bits [columns] uint8) of a CSV without a header.

    A line is a label 1..classes, then `columns` values 0 or 1. The one file read is the CSV itself or an archive with
    a file named `member`. Blank lines are passed over. ValueErrors name the file and the row, as `numbered` does.
    """

    def parse(line: str) -> tuple[int, np.ndarray]:
        first, *values = line.split(",")
        known = label(first, classes)
        if len(values) != columns:
            raise ValueError(f"{len(values)} values after the label, expected {columns}")
        return known, bits(values, before=1)

    def read_rows(folder: Path, files: Files) -> Rows:
        path = folder / files[0]
        yield from numbered(path, lines(path, member), parse, f"a label and {columns} values")

    return read_rows


def check_md5(path: Path, expected: str) -> None:
    """Raises ValueError unless the file at `path` has the MD5 that its publisher states."""
    found = _digest("md5", path)
    if found != expected:
        raise ValueError(f"{path}: md5 {found}, expected {expected}: another file or a damaged one; fetch it again")


def sha256(*files: Path) -> str:
    """Returns the SHA-256 of a file, or of the SHA-256s of several; ValueError if one cannot be read."""
    digests = [_digest("sha256", path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(kind: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, kind).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def check_agreement(folder: Path, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """Raises ValueError unless two sets of files in `folder` hold the same, byte for byte, once unpacked.

    An archive is compared with the files extracted from it, a packed file with the unpacked one.
    """
    names = first if len(first) == len(second) else first * len(second)  # one archive stands beside many files
    pairs = zip(names, second, _unpacked(folder, first, second), _unpacked(folder, second, second), strict=True)
    for one, other, ours, theirs in pairs:
        if ours != theirs:
            raise ValueError(f"{folder}: {one} and {other} disagree; expected the same content: remove one of them")


def _unpacked(folder: Path, files: tuple[str, ...], members: tuple[str, ...]) -> list[str]:
    if files[0].endswith(ARCHIVES):
        return [_digest_of_lines(lines(folder / files[0], member)) for member in members]
    return [_digest_of_lines(lines(folder / file)) for file in files]


def _digest_of_lines(source: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for line in source:
        digest.update(line)
    return digest.hexdigest()
