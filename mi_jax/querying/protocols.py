"""How rows are asked of a model server and answers are read: Open Inference V1 and V2, and MLflow's /invocations."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EXPECTED = "expected .../v1/models/NAME:predict, .../v2/models/NAME/infer or .../invocations"


class Protocol(NamedTuple):
    """One way to ask: rows -> the body of a request, and the body of a response -> answers."""

    name: str
    request: Callable[[Any, str], dict]  # (rows: an array or a data frame, id of the request) -> JSON
    response: Callable[[Any, int, str], np.ndarray]  # (JSON, number of rows, id) -> labels [B] or scores [B C]


class Malformed(ValueError):
    """A response that is no answer to the request. It may be asked again."""


def protocol_of(path: str) -> Protocol:
    """The protocol of a URL's path. ValueError for another path."""
    for pattern, protocol in _PROTOCOLS.items():
        if re.search(pattern, path):
            return protocol
    raise ValueError(f"path {path!r}: {EXPECTED}")


def _records(rows: Any) -> list:
    """Rows as JSON: lists of an array, or {column: value} of a data frame."""
    if not hasattr(rows, "columns"):
        return np.asarray(rows).tolist()
    columns = {str(name): _column(rows, name) for name in rows.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(rows: Any, name: Any) -> list:
    """The values of a column as JSON takes them; what is missing is null, a date text."""
    values = rows[name]
    values = values.to_list() if hasattr(values, "to_list") else values.to_pylist()
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if value is None or value != value:  # NaN and NaT
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | bool | int | float) else str(value)


def _answers(predictions: Any, number: int) -> np.ndarray:
    """Labels [B] or scores [B C] of as many rows. Malformed for other shapes, missing numbers and objects."""
    if isinstance(predictions, dict):  # MLflow may answer columns
        predictions = next(iter(predictions.values()), None)
    if not isinstance(predictions, list) or len(predictions) != number:
        got = f"{len(predictions)} predictions" if isinstance(predictions, list) else f"a {type(predictions).__name__}"
        raise Malformed(f"answered {got}, expected {number}, one for each row")
    if predictions and isinstance(predictions[0], dict):
        predictions = [list(one.values()) for one in predictions]
    try:
        array = np.array(predictions)
    except ValueError:
        raise Malformed("answered rows of different lengths, expected the same for all") from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "biufU":
        raise Malformed(f"answered {array.dtype} of shape {list(array.shape)}, expected labels [B] or scores [B C]")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Malformed("answered numbers that are not finite")
    return array


def _member(body: Any, key: str) -> Any:
    if not isinstance(body, dict) or key not in body:
        raise Malformed(f"answered JSON without {key!r}")
    return body[key]


def _v2_request(rows: Any, number: str) -> dict:
    """One tensor of all columns, or of a data frame a tensor for each."""
    if not hasattr(rows, "columns"):
        array = np.asarray(rows)
        kind = {"f": "FP64" if array.dtype == np.float64 else "FP32", "b": "BOOL"}.get(array.dtype.kind, "INT64")
        data = array.ravel().tolist()
        return {
            "id": number,
            "inputs": [{"name": "input-0", "shape": list(array.shape), "datatype": kind, "data": data}],
        }
    inputs = []
    for name in rows.columns:
        values = _column(rows, name)
        kinds = {type(value) for value in values} - {type(None)}
        kind = (
            "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "FP64" if kinds <= {int, float} else "BYTES"
        )
        inputs.append({"name": str(name), "shape": [len(values), 1], "datatype": kind, "data": values})
    return {"id": number, "inputs": inputs}


def _v2_response(body: Any, number: int, request: str) -> np.ndarray:
    """The first output: labels [B] or [B 1], or scores [B C]. One with another id answers another request."""
    if isinstance(body, dict) and body.get("id", request) != request:
        raise Malformed("answered another request (its id differs)")
    outputs = _member(body, "outputs")
    if not isinstance(outputs, list) or not outputs:
        raise Malformed("answered no outputs")
    shape, data = _member(outputs[0], "shape"), _member(outputs[0], "data")
    if not isinstance(shape, list) or not all(isinstance(one, int) for one in shape) or not isinstance(data, list):
        raise Malformed("answered an output without shape and data")
    if not shape or shape[0] != number or len(data) not in (np.prod(shape), number):
        raise Malformed(f"answered {len(data)} values of shape {shape}, expected {number} rows")
    width = len(data) // number
    flat = data if len(data) == number else [data[i * width : (i + 1) * width] for i in range(number)]
    return _answers(flat, number)


def _mlflow_request(rows: Any, number: str) -> dict:
    if not hasattr(rows, "columns"):
        return {"inputs": np.asarray(rows).tolist()}
    columns = [_column(rows, name) for name in rows.columns]
    data = [list(values) for values in zip(*columns, strict=True)]
    return {"dataframe_split": {"columns": [str(name) for name in rows.columns], "data": data}}


def _predictions(body: Any, number: int, request: str) -> np.ndarray:
    return _answers(_member(body, "predictions"), number)


_PROTOCOLS = {
    r"/v1/models/[^/]+:predict$": Protocol("Open Inference V1", lambda rows, number: {"instances": _records(rows)},
                                           _predictions),
    r"/v2/models/.+/infer$": Protocol("Open Inference V2", _v2_request, _v2_response),
    r"/invocations$": Protocol("MLflow", _mlflow_request, _predictions),
}  # fmt: skip
