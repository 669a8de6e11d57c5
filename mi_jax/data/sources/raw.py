"""What the readers of originals share: lines, members of archives, checksums, and the parsing of labels and bits."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

import numpy as np

from mi_jax.data.sources import Files, Rows

Row = TypeVar("Row")
ARCHIVES = (".tgz", ".tar.gz")
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)


def read_lines(path: Path, member: str | None = None) -> Iterator[bytes]:
    """Yields the lines of a plain file, of a compressed file (.gz), or of `member` of an archive (.tgz, .tar.gz).

    The member may be in any folder of the archive. The content is streamed, never held in memory. A compressed file
    is first decompressed to its end, where gzip has its checksum: tarfile stops before the end, and a flipped bit
    could otherwise pass as data.

    Raises ValueError for an unreadable, damaged or truncated file, and for an archive without the member.
    """
    try:
        if path.name.endswith(ARCHIVES):
            _decompress_to_end(path)
            with tarfile.open(path, "r:gz") as archive:
                yield from _extract(archive, _find_member(archive, path, member))
        elif path.suffix == ".gz":
            _decompress_to_end(path)
            with gzip.open(path) as file:
                yield from file
        else:
            with path.open("rb") as file:
                yield from file
    except DAMAGED as error:
        raise ValueError(_damage_message(path, error)) from error


def read_members(path: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the content of each of `members` of the archive at `path`; ValueErrors are those of `read_lines`."""
    try:
        _decompress_to_end(path)
        with tarfile.open(path, "r:gz") as archive:
            entries = {member: _find_member(archive, path, member) for member in members}
            in_order = sorted(members, key=lambda member: entries[member].offset)  # going back decompresses again
            return {member: _extract(archive, entries[member]).read() for member in in_order}
    except DAMAGED as error:
        raise ValueError(_damage_message(path, error)) from error


def read_file(path: Path) -> bytes:
    """Returns the content of a file, decompressed if its name ends in .gz; ValueErrors are those of `read_lines`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read()
    except DAMAGED as error:
        raise ValueError(_damage_message(path, error)) from error


def _decompress_to_end(path: Path) -> None:
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def _damage_message(path: Path, error: Exception) -> str:
    if path.suffix in (".gz", ".tgz"):
        return f"{path}: damaged or truncated archive ({error}); download it again"
    return f"{path}: cannot be read ({error})"


def _find_member(archive: tarfile.TarFile, path: Path, member: str | None) -> tarfile.TarInfo:
    if member is None:
        raise ValueError(f"{path}: an archive, expected the name of one of its files with it")
    parts = PurePosixPath(member).parts
    for entry in archive.getmembers():
        if entry.isfile() and PurePosixPath(entry.name).parts[-len(parts) :] == parts:
            return entry
    names = ", ".join(archive.getnames()[:5]) or "nothing"
    raise ValueError(f"{path}: expected an archive with a file {member!r}, this one holds {names}")


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry)
    if file is None:
        raise ValueError(f"{archive.name}: {entry.name} is not a file, expected one")
    return file


def parse_lines(path: Path, lines: Iterator[bytes], parse: Callable[[str], Row], expected: str) -> Iterator[Row]:
    """Yields `parse(line)` for every line that is not blank.

    Raises ValueError naming the file at `path` and the number (from 1) of an invalid row. A file without rows is also
    refused; `expected` then says what its rows should be.
    """
    count = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse(line.decode("ascii", errors="replace").strip())
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: {error}") from None
        count += 1
        yield row
    if not count:
        raise ValueError(f"{path}: expected rows of {expected}, found none")


def parse_label(text: str, num_classes: int) -> int:
    """Returns the label 0..num_classes-1 for a text 1..num_classes, which may be in double quotes."""
    number = text.strip().strip('"')
    if not (number.isdecimal() and 1 <= int(number) <= num_classes):
        raise ValueError(f"label {text[:20]!r}, expected 1..{num_classes}")
    return int(number) - 1


def parse_bits(values: list[str], *, columns_before: int = 0) -> np.ndarray:
    """Returns texts "0" and "1" as uint8. ValueErrors name the column, counted after `columns_before` others."""
    if not set(values) <= {"0", "1"}:
        column = next(i for i, value in enumerate(values) if value not in ("0", "1"))
        number = column + columns_before + 1
        raise ValueError(f"value {values[column][:20]!r} in column {number}, expected 0 or 1")
    return np.frombuffer("".join(values).encode(), np.uint8) - ord("0")


def labelled_bits_reader(member: str, num_columns: int, num_classes: int) -> Callable[[Path, Files], Rows]:
    """Returns a reader (folder, files) -> rows (label, bits [num_columns] uint8) of a CSV without a header.

    Each line is a label 1..num_classes and then `num_columns` values 0 or 1. The file is the CSV itself or an archive
    that contains it as `member`. Blank lines are skipped. ValueErrors are those of `parse_lines`.
    """

    def parse(line: str) -> tuple[int, np.ndarray]:
        first, *values = line.split(",")
        label = parse_label(first, num_classes)
        if len(values) != num_columns:
            raise ValueError(f"{len(values)} values after the label, expected {num_columns}")
        return label, parse_bits(values, columns_before=1)

    def read_rows(folder: Path, files: Files) -> Rows:
        path = folder / files[0]
        yield from parse_lines(path, read_lines(path, member), parse, f"a label and {num_columns} values")

    return read_rows


def check_md5(path: Path, expected: str) -> None:
    """Raises ValueError unless the file has the MD5 that its publisher states."""
    md5 = _file_digest("md5", path)
    if md5 != expected:
        raise ValueError(f"{path}: md5 {md5}, expected {expected}: a different or damaged file; download it again")


def sha256(*files: Path) -> str:
    """Returns the SHA-256 of a file, or of the joined SHA-256s of several; ValueError if one cannot be read."""
    digests = [_file_digest("sha256", path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _file_digest(algorithm: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def check_agreement(folder: Path, first: Files, second: Files) -> None:
    """Raises ValueError unless two alternatives in `folder` hold the same bytes once decompressed.

    An archive is compared with the files extracted from it, and a compressed file with the plain one.
    """
    names = first if len(first) == len(second) else first * len(second)  # one archive is compared with many files
    digests = zip(_content_digests(folder, first, second), _content_digests(folder, second, second), strict=True)
    for a, b, (digest_a, digest_b) in zip(names, second, digests, strict=True):
        if digest_a != digest_b:
            raise ValueError(f"{folder}: {a} and {b} disagree; expected the same content: remove one of them")


def _content_digests(folder: Path, files: Files, members: Files) -> list[str]:
    if files[0].endswith(ARCHIVES):
        return [_lines_digest(read_lines(folder / files[0], member)) for member in members]
    return [_lines_digest(read_lines(folder / file)) for file in files]


def _lines_digest(lines: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()
