"""Location-30: which of 446 places in Bangkok a Foursquare user visited; 5,010 users in 30 classes (clusters).

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), published as
`dataset_location.tgz` in the GitHub repository privacytrustlab/datasets. The archive holds one CSV without a
header, `bangkok`. Each line is the class, 1..30 in double quotes, and then 446 values 0 or 1. No checksum is
published and no licence is stated.
"""

from mi_jax.data.sources import Original, raw

ARCHIVE, EXTRACTED = "dataset_location.tgz", "bangkok"
PLACES, CLASSES = 446, 30

read_rows = raw.labelled_bits_reader(EXTRACTED, PLACES, CLASSES)

ORIGINAL = Original(
    alternatives=((ARCHIVE,), (EXTRACTED,)),
    read_rows=read_rows,
    shape=(PLACES,),
    num_classes=CLASSES,
    rows=5_010,
    description=__doc__,
    upstream="privacytrustlab/datasets on GitHub",
    homepage="https://github.com/privacytrustlab/datasets",
    terms="no licence stated; cite Shokri et al. 2017 and the Foursquare data of Yang et al.",
    urls={ARCHIVE: f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE}"},
)
