"""Networks trained on other data, from which transfer learning starts: their files, and their layers below the last.

`python -m experiments.pretrain` writes them.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mi_jax import store
from mi_jax.data.sources import cache
from mi_jax.models import heads
from mi_jax.types import Params

SOURCE, SHAPE = "cifar100", (32, 32, 3)  # what the paper's network was pre-trained on


def default_path(source: str, model: str, example_shape: tuple[int, ...]) -> Path:
    """The file of a network trained on the data set `source` where nothing else is said."""
    shape = "x".join(map(str, example_shape))
    return (
        cache.cache_folder()
        / f"pretrained-{source.replace(':', '-')}-{model.replace(':', '-').replace(',', '-')}-{shape}.npz"
    )


def save(path: Path, params: Params, source: str) -> None:
    """Writes the parameters of one network and the name of its data, whole or not at all."""
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/") | {"source": np.array(source)}
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_file(path, store.npz_bytes(flat))


def load_body(context: Any) -> dict:
    """The layers of the pre-trained network below its last one, as a `defenses.DefenseContext` needs them.

    ValueError where there is no such file, one of a network of another shape, or one that has seen the very data set
    it is to be transferred to: members and non-members alike, whatever is done afterwards.
    """
    path = (
        Path(context.checkpoint)
        if context.checkpoint
        else default_path(SOURCE, context.model.name, context.example_shape)
    )
    try:
        with np.load(path, allow_pickle=False) as stored:
            flat = dict(stored)
        source = str(flat.pop("source"))
        params = traverse_util.unflatten_dict(flat, sep="/")
    except Exception:  # not there, or whatever NumPy, zipfile and flax raise over what is no such file
        how = f"python -m experiments.pretrain --model={context.model.name} writes one of {SOURCE}"
        if context.example_shape != SHAPE:
            shape = "x".join(map(str, context.example_shape))
            how = (
                f"python -m experiments.pretrain --dataset=OTHER writes one of {shape} examples, named by --checkpoint"
            )
        raise ValueError(f"checkpoint {os.fspath(path)}: expected parameters that can be read; {how}") from None
    if _place(source) == _place(context.dataset):
        raise ValueError(f"checkpoint {os.fspath(path)}: trained on {source} itself, expected one of other data")
    wrong = heads.mismatch(context.model, context.example_shape, params)
    if wrong is not None:
        raise ValueError(f"checkpoint {os.fspath(path)}: {wrong}")
    for name, leaf in flat.items():
        if not np.issubdtype(leaf.dtype, np.floating):
            raise ValueError(
                f"checkpoint {os.fspath(path)}: {name} holds {leaf.dtype}, expected floating-point numbers"
            )
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"checkpoint {os.fspath(path)}: {name} is NaN or infinite in part, expected finite numbers"
            )
    last = heads.last_layer(context.model, context.example_shape)
    return jax.tree.map(jnp.asarray, {name: layer for name, layer in params.items() if name != last})


def _place(source: str) -> str:
    """The name of a data set, of a user's file wherever it is named from."""
    kind, _, file = source.partition(":")
    return f"npz:{os.path.realpath(file)}" if kind == "npz" else source
