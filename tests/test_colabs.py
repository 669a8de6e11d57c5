"""Every notebook in colabs/ runs from top to bottom at smoke size, and is kept as a newcomer should find it."""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "colabs").glob("*.ipynb"))
BADGE = "https://colab.research.google.com/github/mi-jax/mi_jax/blob/main/"
MAX_CODE_CELLS = 13  # "about a dozen"
SECONDS_A_CELL = 300  # a stop, not a measurement: twenty times the slowest at smoke size on two busy cores


def execute(notebook: nbformat.NotebookNode, folder: Path) -> list[nbformat.NotebookNode]:
    """Returns the code cells as executed in `folder` by this interpreter, on this checkout."""
    # Without folders to search, the kernel "python3" is the running interpreter's, whatever the user has installed.
    kernels = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, km=kernels, timeout=SECONDS_A_CELL, resources=where)
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    client.execute(cleanup_kc=True, env={**os.environ, "PYTHONPATH": path})
    return code_cells(notebook)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def made_of(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def file(request) -> Path:
    return request.param


def read(file: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return notebook


def test_there_are_notebooks():
    assert NOTEBOOKS  # else every test below passes by having nothing to do


def test_notebook_is_valid_short_and_stripped_of_outputs(file):
    notebook = read(file)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(notebook))
    assert len(code_cells(notebook)) <= MAX_CODE_CELLS


def test_badge_opens_the_notebook_it_stands_in(file):
    links = re.findall(re.escape(BADGE) + r"[^)]*", read(file).cells[0].source)
    assert links == [f"{BADGE}{file.relative_to(REPOSITORY).as_posix()}"]


def test_last_cell_asserts(file):
    last = read(file).cells[-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(last.source)))


def test_notebook_runs_at_smoke_size(file, tmp_path):
    notebook = read(file)
    (parameters,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert parameters.source == "SMOKE = False"
    parameters.source = "SMOKE = True"
    cells = execute(notebook, tmp_path)
    assert all(cell.execution_count for cell in cells)  # none was skipped
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


def test_notebook_that_raises_is_noticed(tmp_path):
    with pytest.raises(CellExecutionError, match="nothing leaked"):
        execute(made_of("x = 1", "assert x == 2, 'nothing leaked'"), tmp_path)


def test_kernel_is_this_interpreter_with_this_checkout(tmp_path):
    (cell,) = execute(made_of("import mi_jax, sys; print(sys.executable); print(mi_jax.__file__)"), tmp_path)
    executable, package = cell.outputs[0].text.split()
    assert Path(executable) == Path(sys.executable)
    assert Path(package) == REPOSITORY / "mi_jax" / "__init__.py"
