"""Metrics of attack scores, comparisons, figures, and the report of a run.

`metrics` has thresholds, rates and intervals (NumPy and SciPy only), `paired` compares attacks on the same points,
`precision` groups of points, `pareto` defenses; `epsilon` is a lower bound from many models. `plots` draws the figures,
`report` writes and reads a run. A new metric is a function in `metrics`.
"""
