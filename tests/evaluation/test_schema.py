"""report.json is as its schema says: every committed one, one of a model trained elsewhere, and no other."""

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import mi_jax
from mi_jax.evaluation import report

SCHEMA = json.loads((Path(report.__file__).parent / "report_schema.json").read_text())
RECORDS = sorted((Path(__file__).resolve().parents[2] / "results" / "records").glob("*/report.json"))


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def read(file):
    return json.loads(file.read_text(), parse_constant=refuse)


def test_the_schema_is_one_and_describes_what_report_py_documents():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    documented = report.__doc__
    assert all(f'"{key}"' in documented for key in SCHEMA["properties"] if key != "environment")


def test_the_page_names_every_key_of_the_schema():
    page = (Path(__file__).resolve().parents[2] / "docs" / "report.md").read_text()
    keys = [*SCHEMA["properties"], *SCHEMA["$defs"]["attack"]["properties"]]
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_limits_and_a_price_are_valid():
    jsonschema.validate(read(RECORDS[0]) | {"limits": ["tpr@0.001:0.01", "exposed:0"], "price_per_1000": 1.5}, SCHEMA)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.parent.name)
def test_every_committed_report_is_valid(file):
    jsonschema.validate(read(file), SCHEMA)


def test_a_report_of_a_model_trained_elsewhere_is_valid(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 2)), np.arange(60) % 2
    sides = (x[:30], y[:30]), (x[30:], y[30:])
    mi_jax.audit_model(lambda rows: (rows[:, 0] > 0.5).astype(int), *sides, attacks=["gap"], out=tmp_path)
    jsonschema.validate(read(tmp_path / "report.json"), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("attacks"),
        lambda record: record["attacks"]["gap"].update(access="labels"),
        lambda record: record["attacks"]["gap"]["auc"].pop("values"),
        lambda record: record["attacks"]["gap"]["tuned"].update(threshold=["infinite"]),
        lambda record: record.update(limits=["adventage:1"]),
        lambda record: record["queries"].update(total="many"),
    ],
)
def test_another_report_is_not(change):
    record = copy.deepcopy(read(RECORDS[0]))
    change(record)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)
