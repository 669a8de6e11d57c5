"""Classifiers as pairs of pure functions.

`build` makes one of `MODELS`; a new one is a function and a line in that dict (`architectures.py`). `heads` takes the
last layer apart from the others, `pretrained` keeps networks that transfer learning begins from.
"""

from mi_jax.models.architectures import MODELS, build, cnn, conv3x3, max_pool, mlp, wide_resnet

__all__ = ["MODELS", "build", "cnn", "conv3x3", "max_pool", "mlp", "wide_resnet"]
