"""Images in a folder, with a folder for each class."""

from pathlib import Path

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images [N H W C] uint8, names of their classes [N]) in order of class and name.

    C is 1 if all are grey, else 3. Raises ValueError, which names the file, for one that is no image or of another
    size, and for a folder without images.
    """
    from PIL import Image

    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{path}: no images, expected a folder for each class with images in it")
    images: list[np.ndarray] = []
    grey = True
    for file in files:
        try:
            with Image.open(file) as image:
                grey &= image.mode in ("1", "L", "I;16")
                images.append(np.asarray(image.convert("RGB")))
        except OSError as error:  # UnidentifiedImageError is one
            raise ValueError(f"{file}: no image ({' '.join(str(error).split())})") from None
        if images[-1].shape != images[0].shape:
            sizes = [" x ".join(map(str, one.shape[:2])) for one in (images[-1], images[0])]
            raise ValueError(
                f"{file}: {sizes[0]} pixels, expected {sizes[1]} as in {files[0].name}, images of one size"
            )
    stacked = np.stack(images)
    return stacked[..., :1] if grey else stacked, np.array([file.parent.name for file in files])
