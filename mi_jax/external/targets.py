"""A model named by text: a Python object, a file, or a server."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPECTED = "package.module:name, model.onnx, model.skops, model.joblib (with --trust), model.keras, or http(s)://..."
_PICKLES = (".joblib", ".pkl", ".pickle")
_WHY = "loading a pickle runs whatever code its author put into it"


def load_target(text: str, *, trust: bool = False, **options: Any) -> Any:
    """The model that `text` names, for `audit_model`.

    `package.module:name` is an object of a Python module; the current folder is searched too. Files are an ONNX model
    (needs onnxruntime), a scikit-learn model by skops, which loads without running code of the file, or a pickle, only
    with `trust`; an XGBoost model (.json, .ubj), a Keras model (.keras). `http://...` is a server, which gets
    `options` (`querying.server`).

    Raises ValueError, in one line, for what cannot be loaded.
    """
    if text.startswith(("http://", "https://")):
        return importlib.import_module("mi_jax.querying.server").Server(text, **options)
    suffix = Path(text).suffix.lower()
    if suffix in _LOADERS or suffix in _PICKLES:
        if not Path(text).is_file():
            raise ValueError(f"--target={text}: no such file")
        if suffix in _PICKLES and not trust:
            raise ValueError(f"--target={text}: {_WHY}; expected --trust, or a .skops file, which is loaded safely")
        return _guarded(text, lambda: _LOADERS[suffix](text, trust))
    module, _, name = text.partition(":")
    if not name or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ValueError(f"--target={text}: expected {EXPECTED}")
    return load_object(text)


def load_object(text: str) -> Any:
    """The object `package.module:name`; ValueError, in one line, where it cannot be imported."""
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = _guarded(text, lambda: importlib.import_module(module))
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{text}: {module} has no {name!r}")
        found = getattr(found, part)
    return found


def _guarded(text: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        raise ValueError(f"{text}: no module named {missing!r}, expected it to be installed, or a file here") from error
    except ValueError as error:
        raise ValueError(f"{text}: {' '.join(str(error).split())}") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{text}: cannot be loaded ({reason})") from error


def _onnx(text: str, trust: bool) -> Any:
    return importlib.import_module("onnxruntime").InferenceSession(text, providers=["CPUExecutionProvider"])


def _skops(text: str, trust: bool) -> Any:
    io = importlib.import_module("skops.io")
    unknown = io.get_untrusted_types(file=text)
    if unknown and not trust:
        raise ValueError(f"it has types that skops does not know ({', '.join(unknown[:5])}), expected --trust for them")
    return io.load(text, trusted=unknown)


def _joblib(text: str, trust: bool) -> Any:
    assert trust
    return importlib.import_module("joblib").load(text)


def _booster(text: str, trust: bool) -> Any:
    return importlib.import_module("xgboost").Booster(model_file=text)


def _keras(text: str, trust: bool) -> Any:
    return importlib.import_module("keras").saving.load_model(text, safe_mode=not trust)


_LOADERS: dict[str, Callable[[str, bool], Any]] = {
    ".onnx": _onnx,
    ".skops": _skops,
    ".json": _booster,
    ".ubj": _booster,
    ".keras": _keras,
    **dict.fromkeys(_PICKLES, _joblib),
}
