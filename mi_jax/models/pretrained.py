"""Pre-trained networks, from which transfer learning starts: their files, and their layers below the last one.

`python -m experiments.pretrain` writes the files, in a checkout.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mi_jax import store
from mi_jax.data.sources import prepare
from mi_jax.models import heads
from mi_jax.models.convert import as_model
from mi_jax.types import Params

SOURCE, SHAPE = "cifar100", (32, 32, 3)  # the paper's pre-training data


def default_path(source: str, model: str, example_shape: tuple[int, ...]) -> Path:
    """Returns the default file of a network that was trained on the data set `source`."""
    shape = "x".join(map(str, example_shape))
    model = model.replace(":", "-").replace(",", "-")
    return prepare.cache_folder() / f"pretrained-{source.replace(':', '-')}-{model}-{shape}.npz"


def save(path: Path, params: Params, source: str) -> None:
    """Writes the parameters of one network and the name of its training data, whole or not at all."""
    flat = heads.flatten(jax.tree.map(np.asarray, params)) | {"source": np.array(source)}
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_file(path, store.npz_bytes(flat))


def load_body(context: Any) -> dict:
    """Returns the layers of the pre-trained network below its last one; `context` is a `defenses.DefenseContext`.

    Raises ValueError for a missing or damaged file and for a network of another shape. A network that was trained on
    the data set itself is refused too, because it has already seen members and non-members.
    """
    context = context._replace(model=as_model(context.model))
    default = default_path(SOURCE, context.model.name, context.example_shape)
    path = Path(context.checkpoint) if context.checkpoint else default
    flat, params, source = _read(path, context)
    if _canonical_name(source) == _canonical_name(context.dataset):
        raise ValueError(f"checkpoint {os.fspath(path)}: trained on {source} itself, expected one of other data")
    mismatch = heads.describe_mismatch(context.model, context.example_shape, params)
    if mismatch is not None:
        raise ValueError(f"checkpoint {os.fspath(path)}: {mismatch}")
    _check_numbers(path, flat)
    last = heads.last_layer_path(context.model, context.example_shape)
    return jax.tree.map(jnp.asarray, heads.without_layer(params, last))


def _read(path: Path, context: Any) -> tuple[dict[str, np.ndarray], dict, str]:
    """Returns (path -> leaf, the same as nested dictionaries, the name of the training data)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            flat = dict(stored)
        source = str(flat.pop("source"))
        return flat, traverse_util.unflatten_dict(flat, sep="/"), source
    except Exception:  # a missing file; NumPy, zipfile and flax raise many types of exception for a damaged one
        arguments, written = f"--model={context.model.name}", f"one of {SOURCE}"
        if context.example_shape != SHAPE:
            examples = f"{'x'.join(map(str, context.example_shape))} examples"
            arguments, written = "--dataset=OTHER", f"one of {examples}, named by --checkpoint"
        command = f"in a checkout, python -m experiments.pretrain {arguments} writes {written}"
        expected = f"expected parameters that can be read; {command}"
        raise ValueError(f"checkpoint {os.fspath(path)}: {expected}") from None


def _check_numbers(path: Path, flat: dict[str, np.ndarray]) -> None:
    for name, leaf in flat.items():
        leaf_name = f"checkpoint {os.fspath(path)}: {name}"
        if not np.issubdtype(leaf.dtype, np.floating):
            raise ValueError(f"{leaf_name} holds {leaf.dtype}, expected floating-point numbers")
        if not np.isfinite(leaf).all():
            raise ValueError(f"{leaf_name} is NaN or infinite in part, expected finite numbers")


def _canonical_name(dataset: str) -> str:
    """Returns the name of a data set; for a user's file with its real path, so that two names of a file are equal."""
    kind, _, file = dataset.partition(":")
    return f"npz:{os.path.realpath(file)}" if kind == "npz" else dataset
