"""Classifiers as pairs of pure functions, `init` and `apply`.

`build` returns one of `MODELS` by name. A new model is a function and a line in that dict (`architectures.py`).
`as_model` takes a flax linen module where a Model is expected, and `check_model` traces one before it is trained.
`heads` separates the last layer from the layers below it. `pretrained` reads and writes the networks that transfer
learning starts from.
"""

from mi_jax.models.architectures import MODELS, build, cnn, conv3x3, max_pool, mlp, wide_resnet
from mi_jax.models.convert import as_model, check_model, from_flax

__all__ = [
    "MODELS",
    "as_model",
    "build",
    "check_model",
    "cnn",
    "conv3x3",
    "from_flax",
    "max_pool",
    "mlp",
    "wide_resnet",
]
