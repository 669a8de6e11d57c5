"""What scores are worth, and how it is shown.

`metrics` has thresholds, rates and intervals (NumPy and SciPy only), `paired` two attacks compared on the same points,
`plots` the figures, `report` a run on disk. A new metric is a function in `metrics`.
"""

__all__ = ["metrics", "paired", "plots", "report"]
