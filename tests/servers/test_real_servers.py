"""Real model servers on 127.0.0.1 give the labels and scores of the model that they serve: `make test-servers`.

They run in an environment of their own (`requirements.txt` here), whose folder MI_JAX_SERVERS names.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mi_jax
from mi_jax.querying.server import Server

BIN = Path(os.environ.get("MI_JAX_SERVERS", ".venv-servers")).absolute() / "bin"
SECONDS = 180
X, Y = load_wine(return_X_y=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "mlflow").exists(), reason="needs mlflow and mlserver (make test-servers)"),
]


@pytest.fixture(scope="module")
def model():
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X[::2], Y[::2])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url, process):
    """Waits until the server is ready."""
    for _ in range(4 * SECONDS):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(url)


def assert_same_as_here(url, model):
    server = Server(url, rows_per_request=64)
    np.testing.assert_array_equal(server(X), model.predict(X))
    sides, attacks = ((X[::2], Y[::2]), (X[1::2], Y[1::2])), ["gap", "noise"]
    there, here = (mi_jax.audit_model(one, *sides, attacks=attacks, budget=5) for one in (server, model.predict))
    for name in attacks:
        np.testing.assert_array_equal(there.scores[f"attack/{name}/scores"], here.scores[f"attack/{name}/scores"])
    assert server.put == there.record["queries"]["total"] + len(X) and server.retried == 0


def test_mlflow_serves_the_model(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    save = (
        f"import joblib, mlflow.sklearn as m; m.save_model(joblib.load({str(tmp_path / 'model.joblib')!r}), 'saved', "
    )
    save += "serialization_format='cloudpickle')"
    subprocess.run([BIN / "python", "-c", save], cwd=tmp_path, check=True)
    port = free_port()
    command = [BIN / "mlflow", "models", "serve", "-m", "saved", "-p", str(port), "--env-manager", "local"]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process)
        assert_same_as_here(f"http://127.0.0.1:{port}/invocations", model)
    finally:
        process.terminate()
        process.wait(30)


def test_mlserver_serves_the_model_by_the_open_inference_protocol(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    settings = {
        "name": "wine",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "model.joblib"},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (tmp_path / "settings.json").write_text(json.dumps(ports | {"host": "127.0.0.1", "parallel_workers": 0}))
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    process = subprocess.Popen([BIN / "mlserver", "start", "."], cwd=tmp_path, env=environment)
    try:
        root = f"http://127.0.0.1:{ports['http_port']}/v2/models/wine"
        wait_for(f"{root}/ready", process)
        assert_same_as_here(f"{root}/infer", model)
    finally:
        process.terminate()
        process.wait(30)
