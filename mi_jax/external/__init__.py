"""Models that were trained elsewhere: from a fitted estimator, a function, a file or a server to a report.

`audits` is the one call; `predictors` makes any library's model a function of rows, `shadows` trains others like it.
"""

from mi_jax.external.audits import Audited, audit_model
from mi_jax.external.predictors import Predictor, predictor_of

__all__ = ["Audited", "Predictor", "audit_model", "predictor_of"]
