"""Location-30: which of 446 places in Bangkok a Foursquare user has visited; 5,010 users in 30 clusters.

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), published as
`dataset_location.tgz` in the GitHub repository privacytrustlab/datasets. The archive holds one CSV without a
header, `bangkok`: the cluster, 1..30 in double quotes, then 446 values 0 or 1. No checksum is published, and no
licence is stated.
"""

from mi_jax.data.sources import Original, raw

ARCHIVE, EXTRACTED = "dataset_location.tgz", "bangkok"
PLACES, CLASSES = 446, 30

read_rows = raw.labelled_bits(EXTRACTED, PLACES, CLASSES)

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
