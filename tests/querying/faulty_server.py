"""A model server on 127.0.0.1 that answers V1, V2 and MLflow, and misbehaves by a seeded schedule."""

import contextlib
import json
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

FAULTS = ("delay", "500", "429", "reset", "truncate", "few", "reorder", "nonsense")


class Faulty:
    """predict(rows [B F]) -> labels [B] behind a server; `fault(request number)` -> one of FAULTS, or None."""

    def __init__(self, predict, fault=lambda number: None, token=None):
        self.predict, self.fault, self.token = predict, fault, token
        self.rows = self.requests = 0
        self.seen, self._lock = [], threading.Lock()

    def take(self, body):
        """The rows of a request, counted, and the fault of this request."""
        if "instances" in body:
            found = [list(one.values()) if isinstance(one, dict) else one for one in body["instances"]]
        elif "dataframe_split" in body:
            found = body["dataframe_split"]["data"]
        elif isinstance(body["inputs"][0], dict):
            columns = [np.reshape(one["data"], one["shape"]) for one in body["inputs"]]
            found = columns[0].tolist() if len(columns) == 1 else np.concatenate(columns, axis=1).tolist()
        else:
            found = body["inputs"]
        with self._lock:
            self.rows += len(found)
            self.requests += 1
            self.seen.append(found)
            return np.array(found), self.fault(self.requests)


@contextlib.contextmanager
def serving(faulty, path="/v1/models/m:predict"):
    """Serves and gives the URL of the model."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"]))
            if faulty.token and self.headers.get("Authorization") != f"Bearer {faulty.token}":
                return self.answer(401, b'{"error": "no token"}')
            body = json.loads(text)
            rows, fault = faulty.take(body)
            labels = faulty.predict(rows).tolist()
            if fault == "reset":
                option = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                self.close_connection = True
                return self.connection.close()
            if fault == "delay":
                time.sleep(0.4)
            if fault in ("500", "429"):
                return self.answer(int(fault), b"busy", {"Retry-After": "0.01"} if fault == "429" else {})
            labels = labels[:-1] if fault == "few" else labels
            if "id" in body:
                number = "another" if fault == "reorder" else body["id"]
                output = {"name": "y", "shape": [len(labels)], "datatype": "INT64", "data": labels}
                said = {"id": number, "outputs": [output]}
            else:
                said = {"predictions": labels}
            text = json.dumps(said).encode()
            text = text[: len(text) // 2] if fault == "truncate" else b"<html>" if fault == "nonsense" else text
            self.answer(200, text)

        def answer(self, status, text, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()


def schedule(seed, share=0.3, faults=FAULTS):
    """request number -> a fault with probability `share`, the same for the same seed."""

    def fault(number):
        drawn = random.Random(f"{seed} {number}")
        return drawn.choice(faults) if drawn.random() < share else None

    return fault
