"""Executes the notebooks of this folder and writes them back with their outputs: `python -m colabs.execute [NAME ...]`.

Each notebook runs from top to bottom at its default size and then at smoke size: about five minutes for all four on
two cores. What a cell printed and drew is kept; progress bars, warnings, timings and everything else that differs from
run to run are dropped. The metadata of a notebook holds `mi_jax`: {"code": a digest of the code that was executed,
"smoke": the headline of the smoke run}. `tests/test_colabs.py` executes the smoke size and compares.

A headline is the one printed line that begins with "headline:". The cell tagged `parameters` holds SMOKE alone.
"""

import contextlib
import copy
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from absl import app
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SECONDS_PER_CELL = 600  # a stop, not a measurement: five times the slowest cell on two busy cores
DEFAULT, SMOKE = "SMOKE = False", "SMOKE = True"


@contextlib.contextmanager
def kernel(folder: Path) -> Iterator[NotebookClient]:
    """A client whose kernel runs in `folder` with this interpreter and this checkout; `execute` takes it."""
    # Without folders to search, the kernel "python3" is the running interpreter's, whatever the user has installed.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        nbformat.v4.new_notebook(), km=manager, timeout=SECONDS_PER_CELL, resources=where, record_timing=False
    )
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    with client.setup_kernel(cleanup_kc=True, env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""}):
        yield client


def execute(client: NotebookClient, notebook: NotebookNode, *, smoke: bool = False) -> NotebookNode:
    """A copy of the notebook with its stripped outputs, executed from top to bottom without earlier variables.

    Raises nbclient's CellExecutionError where a cell does, ValueError where `smoke` finds no `parameters` cell.
    """
    done = copy.deepcopy(notebook)
    client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f"), *copy.deepcopy(done.cells)])
    if smoke:
        _parameters(client.nb).source = SMOKE
    client.execute(cleanup_kc=False)
    executed = code_cells(client.nb)[1:]
    for number, (cell, ran) in enumerate(zip(code_cells(done), executed, strict=True), 1):
        cell.execution_count, cell.outputs = number, stripped(ran.outputs)
    return done


def stripped(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What a reader needs of a cell's outputs: one printed text, then pictures without their description."""
    text = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
    shown = [one.data for one in outputs if one.output_type in ("display_data", "execute_result")]
    drawn = [{"image/png": data["image/png"]} if "image/png" in data else dict(data) for data in shown]
    printed = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
    return printed + [nbformat.v4.new_output("display_data", data=data) for data in drawn]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed_lines(notebook: NotebookNode) -> list[str]:
    """Every line that the code cells printed."""
    streams = [one for cell in code_cells(notebook) for one in cell.outputs if one.output_type == "stream"]
    return [line for one in streams for line in one.text.splitlines()]


def headline(notebook: NotebookNode) -> str:
    """The printed line that begins with "headline:". ValueError unless there is exactly one."""
    found = [line for line in printed_lines(notebook) if line.startswith("headline:")]
    if len(found) != 1:
        raise ValueError(f'{len(found)} printed lines begin with "headline:", expected one')
    return found[0]


def code_digest(notebook: NotebookNode) -> str:
    """A digest that changes with any line of code, and with nothing else."""
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:16]


def read(file: Path) -> NotebookNode:
    """The notebook in a file, validated."""
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return notebook


def _parameters(notebook: NotebookNode) -> NotebookNode:
    found = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    if [cell.source for cell in found] != [DEFAULT]:
        raise ValueError(f"cells tagged parameters hold {[cell.source for cell in found]}, expected one with {DEFAULT}")
    return found[0]


def main(argv: list[str]) -> None:
    """Executes the notebooks named, by default all, and writes them back."""
    known = {file.stem: file for file in sorted(FOLDER.glob("*.ipynb"))}
    for name in argv[1:] or known:
        if name not in known:
            raise app.UsageError(f"unknown notebook {name!r}: known are {', '.join(known)}")
        notebook = read(known[name])
        with tempfile.TemporaryDirectory() as folder, kernel(Path(folder)) as client:
            done = execute(client, notebook)
            smoke = headline(execute(client, notebook, smoke=True))
        done.metadata["mi_jax"] = {"code": code_digest(notebook), "smoke": smoke}
        nbformat.write(done, known[name])
        print(f"{name}, {headline(done)}")


if __name__ == "__main__":
    app.run(main)
