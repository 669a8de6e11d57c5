"""The list of data sets that are made from originals. Being on it puts a data set into `mi_jax.data.DATASETS`."""

from mi_jax.data.sources import Original, adult, cifar10, cifar100, location30, mnist, purchase100, texas100

ORIGINALS: dict[str, Original] = {
    "adult": adult.ORIGINAL,
    "cifar10": cifar10.ORIGINAL,
    "cifar100": cifar100.ORIGINAL,
    "location30": location30.ORIGINAL,
    "mnist": mnist.ORIGINAL,
    "purchase100": purchase100.ORIGINAL,
    "texas100": texas100.ORIGINAL,
}
