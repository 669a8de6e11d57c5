"""Texas-100: what is known of a hospital stay, about 6,170 yes-or-no values; 67,330 stays in 100 procedures.

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), from the hospital
discharge data of the Texas Department of State Health Services, published as `dataset_texas.tgz` in the GitHub
repository privacytrustlab/datasets. The archive holds two files without a header: `texas/100/feats`, a CSV of 0
and 1, and `texas/100/labels`, a procedure 1..100 on each line. Accounts differ on whether a row has 6,168, 6,169
or 6,170 values: all that the first row has are taken, and the other rows must have as many. No checksum is
published, and no licence is stated.
"""

import itertools
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Original, Rows, raw

ARCHIVE, FEATS, LABELS = "dataset_texas.tgz", "texas/100/feats", "texas/100/labels"
CLASSES, FEWEST, MOST = 100, 6168, 6170


def read_rows(folder: Path, files: Files) -> Rows:
    """Returns the rows (label, bits) of the original, archive or extracted files. Blank lines are passed over.

    Raises ValueError naming the file and the row at fault; also where there is not one label for each row.
    """
    feats, labels = (folder / files[0], folder / files[-1])
    columns: list[int] = []

    def parse(line: str) -> np.ndarray:
        values = line.split(",")
        expected = columns or range(FEWEST, MOST + 1)
        if len(values) not in expected:
            raise ValueError(f"{len(values)} values, expected {columns[0] if columns else f'{FEWEST} to {MOST}'}")
        columns[:] = [len(values)]
        return raw.bits(values)

    known = list(raw.numbered(labels, raw.lines(labels, LABELS), lambda line: raw.label(line, CLASSES), "a label"))
    stays = raw.numbered(feats, raw.lines(feats, FEATS), parse, f"{FEWEST} to {MOST} values")
    for number, (label, bits) in enumerate(itertools.zip_longest(known, stays), start=1):
        if label is None or bits is None:
            one, other = (FEATS, LABELS) if label is None else (LABELS, FEATS)
            raise ValueError(f"{feats}: row {number} of {one} has none in {other}; expected as many labels as rows")
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
