"""Adult: 48,842 people of the US census of 1994; the label is an income above 50,000 dollars a year.

Source: Becker and Kohavi, "Adult" (UCI Machine Learning Repository, 1996): `adult.data`, then `adult.test`, each as
published or compressed (.gz). A line holds 14 attributes and the income, separated by a comma and a space. The
second file begins with a line `|1x3 Cross validator`, and its incomes end in a full stop.

The encoding has the paper's 107 columns, 6 continuous and then 101 binary. The paper does not explain the number
101. This is the simplest encoding that has it:
* Continuous attributes (age, fnlwgt, education-num, capital-gain, capital-loss, hours-per-week) are scaled to [0, 1]
  by their minimum and maximum in the two files, `CONTINUOUS`. The scale is fixed, so a subset of the rows has the
  same encoding.
* An attribute with more than two categories is one-hot encoded, and `?` (unknown) is a category:
  9 + 16 + 7 + 15 + 6 + 5 + 42 = 100 columns, in the order of the attributes, each in alphabetical order.
* Sex has two categories and is one column: 0 Female, 1 Male.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mi_jax.data.sources import Files, Original, Rows, raw

PLAIN = ("adult.data", "adult.test")
COMPRESSED = ("adult.data.gz", "adult.test.gz")
INCOMES = ("<=50K", ">50K")
CONTINUOUS = {  # column of the file: name, minimum, maximum
    0: ("age", 17, 90),
    2: ("fnlwgt", 12285, 1490400),
    4: ("education-num", 1, 16),
    10: ("capital-gain", 0, 99999),
    11: ("capital-loss", 0, 4356),
    12: ("hours-per-week", 1, 99),
}
CATEGORIES = {  # column of the file: name, categories
    1: (
        "workclass",
        "? Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc State-gov Without-pay",
    ),
    3: (
        "education",
        "10th 11th 12th 1st-4th 5th-6th 7th-8th 9th Assoc-acdm Assoc-voc Bachelors Doctorate HS-grad Masters "
        "Preschool Prof-school Some-college",
    ),
    5: (
        "marital-status",
        "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent Never-married Separated Widowed",
    ),
    6: (
        "occupation",
        "? Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing Handlers-cleaners "
        "Machine-op-inspct Other-service Priv-house-serv Prof-specialty Protective-serv Sales Tech-support "
        "Transport-moving",
    ),
    7: ("relationship", "Husband Not-in-family Other-relative Own-child Unmarried Wife"),
    8: ("race", "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White"),
    9: ("sex", "Female Male"),
    13: (
        "native-country",
        "? Cambodia Canada China Columbia Cuba Dominican-Republic Ecuador El-Salvador England France Germany Greece "
        "Guatemala Haiti Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica Japan Laos Mexico "
        "Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines Poland Portugal Puerto-Rico Scotland South Taiwan "
        "Thailand Trinadad&Tobago United-States Vietnam Yugoslavia",
    ),
}
ATTRIBUTES, COLUMNS = 14, 107
BINARY = np.arange(COLUMNS) >= len(CONTINUOUS)


def _one_hot_columns() -> dict[int, dict[str, int | None]]:
    """Returns column of the file -> category -> the column of x that it sets to 1, or None."""
    columns, start = {}, len(CONTINUOUS)
    for column, (_, names) in CATEGORIES.items():
        categories = names.split()
        encoded = categories[1:] if len(categories) == 2 else categories
        columns[column] = {category: None for category in categories} | {c: start + i for i, c in enumerate(encoded)}
        start += len(encoded)
    return columns


ONE_HOT_COLUMNS = _one_hot_columns()


def parse_row(line: str) -> tuple[int, np.ndarray]:
    """Returns the label of a line (1: more than 50,000) and its 107 columns as float32.

    Raises ValueError naming an attribute with a missing or unknown value.
    """
    *values, income = (value.strip() for value in line.split(","))
    if len(values) != ATTRIBUTES:
        raise ValueError(f"{len(values) + 1} values, expected {ATTRIBUTES} attributes and the income")
    income = income.removesuffix(".")
    if income not in INCOMES:
        raise ValueError(f"label {income[:20]!r}, expected {' or '.join(INCOMES)}")
    x = np.zeros(COLUMNS, np.float32)
    for i, (column, (name, low, high)) in enumerate(CONTINUOUS.items()):
        value = values[column]
        if not (value.isdecimal() and low <= int(value) <= high):
            raise ValueError(f"{name} is {value[:20]!r}, expected a whole number {low}..{high}")
        x[i] = (int(value) - low) / (high - low)
    for column, x_columns in ONE_HOT_COLUMNS.items():
        value = values[column]
        if value not in x_columns:
            raise ValueError(f"{CATEGORIES[column][0]} is {value[:20]!r}, expected one of {', '.join(x_columns)}")
        if x_columns[value] is not None:
            x[x_columns[value]] = 1
    return INCOMES.index(income), x


def read_rows(folder: Path, files: Files) -> Rows:
    """Yields the rows (label, x) of both files. Blank lines and lines that begin with | are skipped."""
    for file in files:
        path = folder / file
        yield from raw.parse_lines(path, _without_headers(path), parse_row, f"{ATTRIBUTES} attributes and the income")


def _without_headers(path: Path) -> Iterator[bytes]:
    for line in raw.read_lines(path):
        yield (b"" if line.startswith(b"|") else line)  # blank, not dropped: error messages count the lines of the file


ORIGINAL = Original(
    alternatives=(PLAIN, COMPRESSED),
    read_rows=read_rows,
    shape=(COLUMNS,),
    num_classes=2,
    rows=48_842,
    description=__doc__,
    upstream="the UCI Machine Learning Repository, archive.ics.uci.edu/dataset/2/adult",
    homepage="https://archive.ics.uci.edu/dataset/2/adult",
    terms="CC BY 4.0 (UCI); Becker and Kohavi 1996",
    urls={file: f"https://archive.ics.uci.edu/ml/machine-learning-databases/adult/{file}" for file in PLAIN},
    dtype=np.float32,
    binary=BINARY,
)
