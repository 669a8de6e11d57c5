"""Purchase-100: which of 600 products a shopper bought; 197,324 shoppers in 100 classes (clusters).

Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models" (2017), from Kaggle's
"acquire valued shoppers" challenge, published as `dataset_purchase.tgz` in the GitHub repository
privacytrustlab/datasets. The archive holds one CSV without a header, `dataset_purchase`. Each line is the class,
1..100, and then 600 values 0 or 1. No checksum is published and no licence is stated.
"""

from mi_jax.data.sources import Original, raw

ARCHIVE, EXTRACTED = "dataset_purchase.tgz", "dataset_purchase"
PRODUCTS, CLASSES = 600, 100

read_rows = raw.labelled_bits_reader(EXTRACTED, PRODUCTS, CLASSES)

ORIGINAL = Original(
    alternatives=((ARCHIVE,), (EXTRACTED,)),
    read_rows=read_rows,
    shape=(PRODUCTS,),
    num_classes=CLASSES,
    rows=197_324,
    description=__doc__,
    upstream="privacytrustlab/datasets on GitHub",
    homepage="https://github.com/privacytrustlab/datasets",
    terms="no licence stated; cite Shokri et al. 2017 and Kaggle's acquire valued shoppers challenge",
    urls={ARCHIVE: f"https://github.com/privacytrustlab/datasets/raw/master/{ARCHIVE}"},
)
