"""TFDS builders that need no TensorFlow, one file for each data set, named as in `mi_jax.data.DATASETS`.

Every file defines one class `Builder` with
* features `x`, uint8 or float32 (an image [H W C], or a table row [F]; uint8 images are divided by 255 on
  loading, uint8 tables stay as they are), and `y`, a 0-based `ClassLabel`;
* one split, `pool`, which yields the rows in the order of the original (`disable_shuffling=True`, integer keys);
* `skip_registration=True`, so that our `mnist` and TFDS's own do not collide.

A builder takes its original from `dl_manager.manual_dir` and raises one `ValueError` line where the original is
not what it should be. It knows nothing of caches and checksums; those are `mi_jax.data`'s. `import
tensorflow_datasets` takes a second or two, so these modules are imported only when a data set is prepared.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def read_from_archive(path: Path, member: str) -> Iterator[bytes]:
    """Returns the lines of the file called `member`, in whatever folder, of the .tgz at `path`.

    Nothing is held in memory. The archive is decompressed once to its end before the first line is given out:
    gzip has its checksum there, and tarfile stops before it, so that a flipped bit could pass as data.

    Raises ValueError if the archive is damaged, truncated or without that file.
    """
    try:
        with gzip.open(path) as packed:
            while packed.read(1 << 20):
                pass
        with tarfile.open(path, "r:gz") as archive:
            yield from archive.extractfile(_find(archive, path, member))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path}: damaged or truncated archive ({error}); fetch it again") from error


def _find(archive: tarfile.TarFile, path: Path, member: str) -> tarfile.TarInfo:
    for entry in archive:
        if entry.isfile() and Path(entry.name).name == member:
            return entry
    held = ", ".join(archive.getnames()[:5]) or "nothing"
    raise ValueError(f"{path}: expected an archive with a file {member!r}, this one holds {held}")
