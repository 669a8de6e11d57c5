"""Label-only membership inference in JAX: attacks, defenses, ensembles and their statistics."""

import importlib.metadata
import os

__version__ = "0.1.0"

# XLA:CPU of jaxlib 0.10 hands convolutions to a single-threaded library path: a training step of the paper's CNN
# is 3.3x slower and a forward pass 2x slower than with this setting. It must be in the environment before jax
# starts its backend, and every version that does not know it aborts the process, so it is set by version.
_NO_YNN_CONVOLUTION = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


def _set_compiler_flags() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = importlib.metadata.version("jaxlib").startswith("0.10.")
    if wanted and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_YNN_CONVOLUTION}".strip()


_set_compiler_flags()
