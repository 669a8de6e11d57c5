"""Texas-100: about 6,170 binary attributes of a hospital stay; 67,330 stays in 100 classes (procedures).

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), from the hospital
discharge data of the Texas Department of State Health Services, published as `dataset_texas.tgz` in the GitHub
repository privacytrustlab/datasets. The archive holds two files without a header: `texas/100/feats`, a CSV of 0
and 1, and `texas/100/labels`, a procedure 1..100 on each line. Publications disagree on whether a row has 6,168, 6,169
or 6,170 values. The first row decides here, and all other rows must have as many. No checksum is published and no
licence is stated.
"""

import itertools
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Original, Rows, raw

ARCHIVE, FEATS, LABELS = "dataset_texas.tgz", "texas/100/feats", "texas/100/labels"
CLASSES, MIN_COLUMNS, MAX_COLUMNS = 100, 6168, 6170


def read_rows(folder: Path, files: Files) -> Rows:
    """Yields the rows (label, bits) of the archive or of the extracted files. Blank lines are skipped.

    Raises ValueError naming the file and the invalid row, and for different numbers of labels and rows.
    """
    feats, labels = (folder / files[0], folder / files[-1])
    num_columns: list[int] = []  # empty until the first row was parsed

    def parse(line: str) -> np.ndarray:
        values = line.split(",")
        allowed = num_columns or range(MIN_COLUMNS, MAX_COLUMNS + 1)
        if len(values) not in allowed:
            expected = num_columns[0] if num_columns else f"{MIN_COLUMNS} to {MAX_COLUMNS}"
            raise ValueError(f"{len(values)} values, expected {expected}")
        num_columns[:] = [len(values)]
        return raw.parse_bits(values)

    label_lines, feat_lines = raw.read_lines(labels, LABELS), raw.read_lines(feats, FEATS)
    all_labels = list(raw.parse_lines(labels, label_lines, lambda line: raw.parse_label(line, CLASSES), "a label"))
    all_bits = raw.parse_lines(feats, feat_lines, parse, f"{MIN_COLUMNS} to {MAX_COLUMNS} values")
    for number, (label, bits) in enumerate(itertools.zip_longest(all_labels, all_bits), start=1):
        if label is None or bits is None:
            longer, shorter = (FEATS, LABELS) if label is None else (LABELS, FEATS)
            missing = f"row {number} of {longer} has none in {shorter}"
            raise ValueError(f"{feats}: {missing}; expected as many labels as rows")
        yield label, bits


ORIGINAL = Original(
    alternatives=((ARCHIVE,), (FEATS, LABELS)),
    read_rows=read_rows,
    shape=(None,),
    num_classes=CLASSES,
    rows=67_330,
    description=__doc__,
    upstream="privacytrustlab/datasets on GitHub",
    homepage="https://github.com/privacytrustlab/datasets",
    terms="no licence stated; cite Shokri et al. 2017 and the Texas Department of State Health Services",
    urls={ARCHIVE: f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE}"},
)
