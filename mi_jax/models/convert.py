"""Models of users: `as_model` takes a flax linen module where a `Model` is expected, `check_model` traces either.

Every function that trains or queries a user's model passes it through these two.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from mi_jax.types import Array, Model, Params

# Flags that say whether a module trains, as arguments of __call__ or as fields -> their value in training.
_FLAGS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def as_model(model: Any, name: str | None = None) -> Model:
    """Returns a Model as it is, and a linen module as the Model of `from_flax`. ValueError for anything else."""
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return from_flax(model, name)
    label = f"model {name}" if name else "model"
    if inspect.isclass(model):
        raise ValueError(f"{label}: the class {model.__name__}, expected an instance, as {model.__name__}(...) makes")
    kind = "a function" if inspect.isroutine(model) else f"{type(model).__module__}.{type(model).__qualname__}"
    elsewhere = "a model trained elsewhere needs only oracle.function_oracle"
    raise ValueError(f"{label}: {kind}, expected a flax.linen module or types.Model(init, apply); {elsewhere}")


def from_flax(module: nn.Module, name: str | None = None) -> Model:
    """Returns a linen module as a Model; equal modules give the identical object, so compiled programs are reused.

    Its `__call__` takes the examples [B *x] and returns logits [B C]. Flags called train, training, is_training,
    deterministic or use_running_average are set, as arguments or as fields of the module. All random numbers of
    training mode, such as those of `nn.Dropout`, come from the key of the step.

    Raises ValueError for other arguments without a default and, where parameters are initialised, for collections
    beside "params": the `batch_stats` of BatchNorm make the rows of a batch depend on each other.
    """
    if not isinstance(module, nn.Module):
        return as_model(module, name)  # refuses it
    name = name or type(module).__name__
    try:
        return _same_from_flax(module, name)
    except TypeError:  # a field without a hash, such as a list
        return _from_flax(module, name)


def _from_flax(module: nn.Module, name: str) -> Model:
    arguments, fields = _arguments(module, name), {field.name for field in dataclasses.fields(module)}

    def call(training: bool) -> tuple[nn.Module, dict[str, Any]]:
        flags = {flag: value == training for flag, value in _FLAGS.items()}
        changed: dict[str, Any] = {flag: value for flag, value in flags.items() if flag in fields}
        return module.clone(**changed) if changed else module, {flag: flags[flag] for flag in arguments}

    def init(key: jax.Array, x: Array) -> Params:
        net, flags = call(training=False)
        variables = net.init(key, x, **flags)
        others = ", ".join(sorted(set(variables) - {"params"}))
        if others:
            expected = "expected parameters alone, as with GroupNorm or LayerNorm"
            why = "with BatchNorm the rows of a batch depend on each other" if others == "batch_stats" else ""
            raise ValueError(f"model {name}: collection {others}, {expected}{why and '; '}{why}")
        return variables.get("params", {})

    def apply(params: Params, x: Array, key: jax.Array | None = None) -> jax.Array:
        net, flags = call(training=key is not None)
        rngs = None if key is None else {"params": key}  # the stream that all others fall back to
        return cast(jax.Array, net.apply({"params": params}, x, rngs=rngs, **flags))

    return Model(init, apply, name)


_same_from_flax = functools.cache(_from_flax)


def _arguments(module: nn.Module, name: str) -> list[str]:
    """Returns the names of the flags among the arguments of `__call__`; ValueError for what cannot be set."""
    if not hasattr(module, "__call__"):  # noqa: B004  (it is there only if the module defines it)
        raise ValueError(f"model {name}: no method __call__, expected one from examples to logits")
    parameters = list(inspect.signature(module.__call__).parameters.values())
    named = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)]
    unknown = [p.name for p in named if p.default is p.empty and p.name not in _FLAGS]
    if unknown:
        expected = f"expected defaults for all but the examples and {', '.join(_FLAGS)}"
        raise ValueError(f"model {name}: its __call__ needs {', '.join(unknown)}, {expected}")
    return [p.name for p in named if p.name in _FLAGS]


@contextlib.contextmanager
def in_one_line(label: str) -> Iterator[None]:
    """Runs code of the user's: whatever it raises becomes a ValueError of one line that begins with `label`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("model "):  # ours
            raise
        text, *_ = [*str(error).strip().splitlines(), ""]
        raise ValueError(f"{label}: {type(error).__name__}: {text}") from error


def check_model(model: Model, example_shape: tuple[int, ...], num_classes: int | None = None) -> int:
    """Returns C, the number of classes of the model's logits, from a trace with two examples of this shape.

    Raises ValueError, in one line, where the model cannot be traced, has no parameters or any that are not
    floating-point numbers, or returns anything but float32 logits [2 C], in or out of training mode; also where C is
    not `num_classes`.
    """

    def outputs(key, x):
        params = model.init(key, x)
        return params, model.apply(params, x), model.apply(params, x, key)

    x = jax.ShapeDtypeStruct((2, *example_shape), jnp.float32)
    label = f"model {model.name}"
    with in_one_line(f"{label}: examples of shape {example_shape}"):
        params, *logits = jax.eval_shape(outputs, jax.random.key(0), x)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    if not dtypes or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        actual = " and ".join(sorted(dtypes)) or "none"
        raise ValueError(f"{label}: parameters of dtype {actual}, expected floating-point numbers")
    for output, mode in zip(logits, ("queries", "training"), strict=True):
        if not hasattr(output, "shape") or output.shape[:-1] != (2,) or output.dtype != jnp.float32:
            actual = f"in {mode}, {kind_of(output)} for 2 examples"
            raise ValueError(f"{label}: {actual}, expected float32 logits of shape (2, C)")
    C, in_training = (output.shape[1] for output in logits)
    if in_training != C:
        raise ValueError(f"{label}: logits of {in_training} classes in training, expected {C} as in queries")
    if num_classes not in (None, C):
        raise ValueError(f"{label}: logits of {C} classes, expected {num_classes}, those of the data set")
    return C


def kind_of(output: Any) -> str:
    """Returns dtype and shape of an array, or the type of what is none."""
    return f"{output.dtype} of shape {output.shape}" if hasattr(output, "shape") else f"a {type(output).__name__}"
