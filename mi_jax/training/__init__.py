"""Training of many models at once, each exactly as if it were trained alone.

`train_ensemble` and `train` are the interface. `steps` trains one model for an epoch, `batches` draws the batches of an
epoch, and `checks` refuses invalid arguments before the first step. A new optimizer is a line in `steps.OPTIMIZERS`.
"""

from mi_jax.training.ensemble import History, default_models_at_once, train, train_ensemble

__all__ = ["History", "default_models_at_once", "train", "train_ensemble"]
