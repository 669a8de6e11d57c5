"""What a run depends on besides its settings: versions, device and commit; and when and how it was started."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jax

import mi_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
OF_ONE_RUN = ("commit", "date", "command")  # no result depends on them: a digest of the run leaves them out
_PACKAGE = Path(__file__).resolve().parent


def environment() -> dict:
    """Returns versions, device, commit, the date (ISO 8601, in seconds), and the command if a command of ours runs."""
    started_by = command()
    return {
        "mi_jax": mi_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "commit": _commit(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        **({"command": started_by} if started_by else {}),
    }


def command() -> str | None:
    """Returns the command line of this program as a shell takes it; None in a notebook or a program of the user's."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    if module.partition(".")[0] in ("mi_jax", "experiments"):
        return shlex.join(["python", "-m", module, *sys.argv[1:]])
    if Path(sys.argv[0]).name == "mi_jax":
        return shlex.join(["mi_jax", *sys.argv[1:]])
    return None


def _commit() -> str:
    """Returns the commit of the checkout of this file, with + if the tree differs; 'unknown' outside of a checkout."""
    if "site-packages" in _PACKAGE.parts:  # an environment may lie inside another checkout
        return "unknown"
    try:
        describe = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
