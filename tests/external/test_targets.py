import importlib.util
import json

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import mi_jax
from mi_jax.external import files, predictors, targets
from tests import programs
from tests.external import wine

X, Y = load_wine(return_X_y=True)
MEMBERS, NONMEMBERS = (X[::2], Y[::2]), (X[1::2], Y[1::2])


def needs(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (make test-targets)")


def gap_of(labels_in, labels_out):
    """The gap attack's balanced accuracy, counted by hand."""
    return 0.5 + (np.mean(labels_in == MEMBERS[1]) - np.mean(labels_out == NONMEMBERS[1])) / 2


def assert_gap_is(model, labels_of):
    audited = mi_jax.audit_model(model, MEMBERS, NONMEMBERS, attacks=["gap", "noise"], budget=5)
    expected = gap_of(labels_of(MEMBERS[0]), labels_of(NONMEMBERS[0]))
    assert audited.record["attacks"]["gap"]["balanced_accuracy"]["mean"] == pytest.approx(expected)
    return audited.record["target"]


@needs("torch")
def test_a_torch_module_is_asked_in_evaluation_mode():
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Dropout(0.9), torch.nn.Linear(16, 3)
    )
    network.train()

    def labels_of(x):
        network.eval()
        with torch.no_grad():
            return network(torch.as_tensor(x, dtype=torch.float32)).argmax(1).numpy()

    described = assert_gap_is(network, labels_of)
    assert described["answers"]["label"].startswith("logits of 3 classes") and not network.training


@needs("onnxruntime", "skl2onnx")
def test_an_onnx_file_is_asked_for_labels(tmp_path):
    import skl2onnx

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(*MEMBERS)
    file = tmp_path / "model.onnx"
    file.write_bytes(skl2onnx.to_onnx(model, X[:1].astype(np.float32)).SerializeToString())
    assert_gap_is(targets.load_target(str(file)), model.predict)


@needs("xgboost")
@pytest.mark.parametrize("booster", [False, True])
def test_xgboost_models_are_asked_for_labels_or_scores(booster):
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=10).fit(*MEMBERS)
    assert_gap_is(model.get_booster() if booster else model, model.predict)


@needs("skops")
def test_skops_files_are_loaded_without_trust_and_pickles_are_not(tmp_path):
    from skops import io

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(*MEMBERS)
    io.dump(model, tmp_path / "model.skops")
    assert_gap_is(targets.load_target(str(tmp_path / "model.skops")), model.predict)
    joblib.dump(model, tmp_path / "model.joblib")
    with pytest.raises(ValueError, match="runs whatever code its author put into it; expected --trust"):
        targets.load_target(str(tmp_path / "model.joblib"))
    assert_gap_is(targets.load_target(str(tmp_path / "model.joblib"), trust=True), model.predict)
    forest = RandomForestClassifier(10, random_state=0).fit(*MEMBERS)
    io.dump(forest, tmp_path / "forest.skops")
    with pytest.raises(ValueError, match="types that skops does not know .*Tree.*, expected --trust for them"):
        targets.load_target(str(tmp_path / "forest.skops"))
    assert_gap_is(targets.load_target(str(tmp_path / "forest.skops"), trust=True), forest.predict)


def test_a_flax_module_is_asked_for_logits():
    from flax import nnx

    network = nnx.Linear(13, 3, rngs=nnx.Rngs(0))
    described = assert_gap_is(network, lambda x: np.asarray(network(x.astype(np.float32))).argmax(1))
    assert described["model"] == "Linear"


@pytest.mark.parametrize(
    "model", [HistGradientBoostingClassifier(max_iter=5), RandomForestClassifier(10, random_state=0), SVC()]
)
def test_an_estimator_with_labels_of_text(model):
    names = np.array(["one", "two", "three"])
    model.fit(MEMBERS[0], names[MEMBERS[1]])
    audited = mi_jax.audit_model(
        model, (MEMBERS[0], names[MEMBERS[1]]), (NONMEMBERS[0], names[NONMEMBERS[1]]), budget=5
    )
    assert audited.record["target"]["classes"] == ["one", "three", "two"]
    assert ("confidence_threshold" in audited.record["attacks"]) == hasattr(model, "predict_proba")


@pytest.mark.parametrize(
    "text, message",
    [
        ("nothing", "--target=nothing: expected package.module:name"),
        ("no_such_module:f", "no_such_module:f: no module named 'no_such_module'"),
        ("math:nothing", "math:nothing: math has no 'nothing'"),
        ("missing.onnx", "--target=missing.onnx: no such file"),
        ("a b:c", "--target=a b:c: expected package.module:name"),
    ],
)
def test_a_target_that_cannot_be_loaded_is_said_in_one_line(text, message):
    with pytest.raises(ValueError) as error:
        targets.load_target(text)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_class_is_no_model():
    with pytest.raises(ValueError, match="model: a str"):
        predictors.predictor_of("model.onnx")
    assert predictors.predictor_of(predictors.Predictor("mine", len, None)).name == "mine"


def test_files_hold_the_same_rows(tmp_path):
    frame = pd.DataFrame(X[:20]).add_prefix("c").assign(kind=Y[:20])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    np.savez(tmp_path / "rows.npz", x=X[:20], y=Y[:20])
    for name in ("rows.csv", "rows.parquet", "rows.npz"):
        rows, labels = files.read_rows(tmp_path / name, None if name.endswith("npz") else "kind")
        np.testing.assert_array_equal(np.asarray(rows), X[:20])
        np.testing.assert_array_equal(labels, Y[:20])


def test_a_folder_of_images_has_a_folder_for_each_class(tmp_path):
    digits = load_digits()
    for i in range(12):
        (tmp_path / str(digits.target[i] % 3)).mkdir(exist_ok=True)
        Image.fromarray(digits.images[i].astype(np.uint8)).save(tmp_path / str(digits.target[i] % 3) / f"{i}.png")
    rows, labels = files.read_rows(tmp_path, None)
    assert rows.shape == (12, 8, 8, 1) and rows.dtype == np.uint8 and set(labels) == {"0", "1", "2"}
    Image.new("L", (9, 8)).save(tmp_path / "0" / "other.png")
    with pytest.raises(ValueError, match="other.png: 8 x 9 pixels, expected 8 x 8"):
        files.read_rows(tmp_path, None)


@pytest.mark.parametrize(
    "name, content, label, message",
    [
        ("a.csv", b"x,y\n1,2\n", None, "expected --label=COLUMN"),
        ("a.csv", b"x,y\n1,2\n", "z", "no column 'z' of labels, expected one of x, y"),
        ("a.csv", b"x,y\n1,\n2,1\n", "y", "1 rows have no label"),
        ("a.csv", b"", "y", "cannot be read"),
        ("a.npz", b"nonsense", None, "expected an .npz of plain arrays"),
        ("a.txt", b"", None, "a file of type .txt, expected .csv"),
        ("missing.csv", None, "y", "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path, name, content, label, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        files.read_rows(tmp_path / name, label)
    assert message in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_command_writes_a_report_and_shows_a_finished_one(tmp_path):
    wine.frame[::2].to_csv(tmp_path / "in.csv", index=False)
    wine.frame[1::2].to_parquet(tmp_path / "out.parquet")
    out = tmp_path / "report"
    given = ["audit-model", "--target=tests.external.wine:model", f"--members={tmp_path}/in.csv", "--label=kind",
             f"--nonmembers={tmp_path}/out.parquet", "--attacks=gap", f"--out={out}"]  # fmt: skip
    done = programs.run_program("mi_jax", *given)
    assert done.returncode == 0 and "gap" in done.stdout, done.stderr
    record = json.loads((out / "report.json").read_text())
    assert record["target"]["model"] == "Pipeline ending in LogisticRegression"
    assert record["target"]["classes"] == ["class_0", "class_1", "class_2"]
    again = programs.run_program("mi_jax", *given)
    assert again.returncode == 0 and "holds this run, finished" in again.stderr and "gap" in again.stdout
    wine.frame[::3].to_csv(tmp_path / "in.csv", index=False)
    other = programs.run_program("mi_jax", *given)
    assert other.returncode == 2 and "another run" in other.stderr and len(other.stderr.splitlines()) == 1
    wrong = programs.run_program("mi_jax", *given[:3])
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --nonmembers is missing")
