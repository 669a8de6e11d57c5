"""Training many models at once, each exactly as if it were trained alone.

`train_ensemble` and `train` are what others use. `steps` has what happens to one model in an epoch, `batches` what an
epoch goes over, `checks` what is refused before the first step. A new optimizer is a line in `steps.OPTIMIZERS`.
"""

from mi_jax.training.ensemble import History, default_models_at_once, train, train_ensemble

__all__ = ["History", "default_models_at_once", "train", "train_ensemble"]
