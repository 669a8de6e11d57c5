"""TFDS builders that need no TensorFlow, made from the `Original` of a data set."""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from mi_jax.data.sources import Files, Original, listed


def pool_builder(dataset: str, original: Original, files: Files) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns the TFDS builder class that prepares a data set from `files` in `manual_dir`.

    It has features `x` and `y` (a 0-based `ClassLabel`) and one split, `pool`, with the rows in the order of the
    original. It is not registered, so that our `mnist` and TFDS's own do not collide.
    """

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {listed(files)} here (published by {original.upstream})."

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "x": tfds.features.Tensor(shape=original.shape, dtype=original.dtype),
                "y": tfds.features.ClassLabel(num_classes=original.num_classes),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=original.description,
                features=tfds.features.FeaturesDict(features),
                homepage=original.homepage,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
            return {"pool": self._generate_examples(Path(dl_manager.manual_dir))}

        def _generate_examples(self, folder: Path) -> Iterator[tuple[int, dict]]:
            for key, (y, x) in enumerate(original.read_rows(folder, files)):
                yield key, {"x": x, "y": y}

    return Builder
