"""Downloading originals from their publishers, on request only."""

import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from mi_jax.data.sources import Original


def fetch(original: Original, folder: Path) -> list[str]:
    """Returns the files that were downloaded into `folder`: those of `original.urls` that it lacks.

    If any alternative of the original is there already, nothing is. A file appears whole or not at all; whether it
    is the right one is found out when it is read. Raises ValueError naming the address that gave nothing.
    """
    if any(all((folder / file).is_file() for file in files) for files in original.alternatives):
        return []
    lacking = {file: url for file, url in original.urls.items() if not (folder / file).is_file()}
    for file, url in lacking.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
                _download(url, Path(scratch) / file)
                os.replace(Path(scratch) / file, folder / file)
        except OSError as error:  # URLError is one
            raise ValueError(f"{file}: cannot be fetched from {url} to {folder} ({error})") from error
    return list(lacking)


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
        promised = response.headers.get("Content-Length")
    if promised is not None and path.stat().st_size != int(promised):  # a broken connection looks like the end
        raise OSError(f"{path.stat().st_size} bytes of {promised}")
