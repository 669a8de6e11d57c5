"""Classifiers as pairs of pure functions, `init` and `apply`.

`build` returns one of `MODELS` by name. A new model is a function and a line in that dict (`architectures.py`).
`heads` separates the last layer from the layers below it. `pretrained` reads and writes the networks that transfer
learning starts from.
"""

from mi_jax.models.architectures import MODELS, build, cnn, conv3x3, max_pool, mlp, wide_resnet

__all__ = ["MODELS", "build", "cnn", "conv3x3", "max_pool", "mlp", "wide_resnet"]
