"""Models that were trained elsewhere: from a fitted estimator, a function, a file or a server to a report.

`audits` is the one call, on a `cases.Case`; `predictors` makes any library's model a function of rows, `shadows` trains
others like it; `scorer` is for model selection. `targets` and `files` load what a command line names.
"""

from mi_jax.external.audits import Audited, audit_model
from mi_jax.external.predictors import Predictor, predictor_of
from mi_jax.external.scorer import make_privacy_scorer

__all__ = ["Audited", "Predictor", "audit_model", "make_privacy_scorer", "predictor_of"]
