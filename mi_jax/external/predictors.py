"""Any fitted model as two functions of rows in its user's form: what it predicts, and its scores where it has them.

Libraries are known by the modules of a model's class and are imported only when such a model comes.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mi_jax.data.tables import is_frame


class Predictor(NamedTuple):
    """A model as its user has it; both functions take rows in the user's form and may answer in any coding."""

    name: str
    answer: Callable[[Any], Any]  # rows -> labels, or scores if the model has nothing else
    scores: Callable[[Any], Any] | None  # rows -> scores of classes; None: none, or `answer` has them
    classes: Any = None  # the model's own names of its classes, in the order of its scores


def predictor_of(model: Any) -> Predictor:
    """The predictor of a fitted scikit-learn estimator or pipeline, an XGBoost, LightGBM or CatBoost model, a torch
    `nn.Module`, a Keras or flax model, an ONNX Runtime session, or any function of rows.

    A torch module is put into evaluation mode. Raises ValueError for anything else.
    """
    for matches, make in _KINDS:
        if matches(model):
            return make(model)
    kind = type(model).__qualname__
    raise ValueError(f"model: a {kind}, expected a fitted estimator, a torch, Keras, flax or ONNX model, or a function")


def _from(module: str, name: str = "") -> Callable[[Any], bool]:
    """Is some class of the model of this module, and of this name if one is given?"""

    def matches(model: Any) -> bool:
        return any(
            (cls.__module__ == module or cls.__module__.startswith(f"{module}.")) and name in ("", cls.__name__)
            for cls in type(model).__mro__
        )

    return matches


def _estimator(model: Any) -> Predictor:
    name = type(model).__qualname__
    if hasattr(model, "steps"):
        name = f"{name} ending in {type(model.steps[-1][1]).__qualname__}"
    scores = model.predict_proba if hasattr(model, "predict_proba") else None
    return Predictor(name, model.predict, scores, getattr(model, "classes_", None))


def _torch(model: Any) -> Predictor:
    torch = importlib.import_module("torch")
    model.eval()
    parameter = next(iter(model.parameters()), None)
    place = {} if parameter is None else {"device": parameter.device, "dtype": parameter.dtype}

    def answer(rows: Any) -> np.ndarray:
        with torch.no_grad():
            return model(torch.as_tensor(_floats(rows), **place)).float().cpu().numpy()

    return Predictor(type(model).__qualname__, answer, None)


def _keras(model: Any) -> Predictor:
    return Predictor(type(model).__qualname__, lambda rows: model.predict(_floats(rows), verbose=0), None)


def _flax(model: Any) -> Predictor:
    return Predictor(type(model).__qualname__, lambda rows: np.asarray(model(_floats(rows))), None)


def _booster(model: Any) -> Predictor:
    xgboost = importlib.import_module("xgboost")
    return Predictor("xgboost Booster", lambda rows: model.predict(xgboost.DMatrix(rows)), None)


def _onnx(model: Any) -> Predictor:
    """A session with one input takes all columns, one with several a column each; of several outputs the first."""
    inputs, outputs = model.get_inputs(), [one.name for one in model.get_outputs()]

    def feed(rows: Any) -> dict[str, np.ndarray]:
        if len(inputs) == 1:
            return {inputs[0].name: np.asarray(rows, _ONNX_TYPES.get(inputs[0].type))}
        columns = [one.name for one in inputs]
        if not is_frame(rows):
            raise ValueError(f"an ONNX model with the inputs {', '.join(columns)}: expected a data frame with them")
        return {one.name: np.asarray(rows[one.name], _ONNX_TYPES.get(one.type))[:, None] for one in inputs}

    return Predictor("ONNX model", lambda rows: model.run(outputs[:1], feed(rows))[0], None)


_ONNX_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64,
               "tensor(string)": object, "tensor(bool)": bool, "tensor(int32)": np.int32}  # fmt: skip


def _name(function: Any) -> str:
    """The name of a server, or of a function."""
    given = getattr(function, "name", None)
    return given if isinstance(given, str) else getattr(function, "__qualname__", type(function).__qualname__)


def _floats(rows: Any) -> np.ndarray:
    """Rows as float32, what networks take."""
    return np.asarray(rows, np.float32)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Predictor]], ...] = (
    (lambda model: isinstance(model, Predictor), lambda model: model),
    (_from("torch"), _torch),
    (_from("keras"), _keras),
    (_from("flax"), _flax),
    (_from("onnxruntime", "InferenceSession"), _onnx),
    (_from("xgboost", "Booster"), _booster),
    (lambda model: hasattr(model, "predict") and not isinstance(model, type), _estimator),
    (callable, lambda model: Predictor(_name(model), model, None)),
)
