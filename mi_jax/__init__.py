"""Label-only membership inference in JAX: attacks, defenses, training of many models, and statistics."""

import importlib
import importlib.metadata
import os
from typing import Any

__version__ = "0.1.0"

# XLA:CPU of jaxlib 0.10 computes convolutions by a single-threaded library. With this flag a training step of the
# paper's CNN is 3.3x faster and a forward pass 2x faster. The flag must be set before jax starts its backend. Versions
# that do not know it abort the process, so it is set by version.
_NO_YNN_CONVOLUTION = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


def _set_compiler_flags() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    needed = importlib.metadata.version("jaxlib").startswith("0.10.")
    if needed and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_YNN_CONVOLUTION}".strip()


_set_compiler_flags()
_ELSEWHERE = dict.fromkeys(
    ("audit_model", "make_privacy_scorer"), "external"
)  # loaded on first use, so that importing the package loads nothing


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
