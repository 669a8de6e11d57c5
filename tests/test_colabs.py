"""Every notebook in colabs/ runs from top to bottom, and is committed with the outputs of its own code.

The fast tests execute the smoke size and compare its headline with the one committed in the metadata; the slow ones
execute the default size and compare what is printed. All share one kernel, emptied in between.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from colabs.execute import FOLDER, code_cells, code_digest, execute, headline, kernel, printed_lines, read

REPOSITORY = FOLDER.parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BADGE = "https://colab.research.google.com/github/mi-jax/mi_jax/blob/main/"
MAX_CODE_CELLS = 12
MAX_BYTES = 300_000
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[NotebookClient]:
    with kernel(tmp_path_factory.mktemp("colabs")) as client:
        yield client


def missing(file: Path) -> pytest.MarkDecorator:
    """Skips a notebook by name where a library that its metadata names is missing."""
    needed = read(file).metadata.get("mi_jax_needs", [])
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{file.stem} needs {', '.join(absent)}, which Colab has")


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def file(request) -> Path:
    return request.param


def made_of(*sources: str) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def skeleton(text: str) -> str:
    """The words of printed text; columns and rules are as wide as their numbers."""
    return re.sub(r"[ -]+", " ", NUMBER.sub("#", text))


def assert_same_headline(found: str, committed: str) -> None:
    """The same words, and numbers that differ by at most a tenth of the committed interval's width.

    One machine gives the same bits. Another rounds differently, which may change a label here and there: with SSE4.2
    in place of AVX-512 trained parameters differed in their last bits, and no digit of the four headlines did.
    """
    assert skeleton(found) == skeleton(committed)
    mean, low, high = interval(committed)
    np.testing.assert_allclose(interval(found), (mean, low, high), rtol=0, atol=(high - low) / 10)


def interval(line: str) -> tuple[float, ...]:
    """(mean, low, high) of a headline that ends in "= MEAN pp [LOW, HIGH]"."""
    return tuple(map(float, re.search(r"= (\S+) pp \[(\S+), (\S+)\]$", line).groups()))


def shows(source: str) -> bool:
    """Whether a cell prints or draws outside of the functions that it defines."""
    statements = [node for node in ast.parse(source).body if not isinstance(node, ast.FunctionDef)]
    calls = [node for one in statements for node in ast.walk(one) if isinstance(node, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id in ("print", "Image") for call in calls)


def test_there_are_notebooks():
    assert NOTEBOOKS  # else every test below passes by having nothing to do


def test_notebook_is_valid_and_short(file):
    notebook = read(file)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len(code_cells(notebook)) <= MAX_CODE_CELLS
    assert file.stat().st_size <= MAX_BYTES


def test_badge_opens_the_notebook_it_stands_in(file):
    links = re.findall(re.escape(BADGE) + r"[^)]*", read(file).cells[0].source)
    assert links == [f"{BADGE}{file.relative_to(REPOSITORY).as_posix()}"]


def test_last_cell_asserts(file):
    last = read(file).cells[-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(last.source)))


def test_committed_outputs_are_those_of_the_committed_code(file):
    notebook = read(file)
    assert notebook.metadata["mi_jax"]["code"] == code_digest(notebook), "run `make colabs`"
    cells = code_cells(notebook)[1:]  # the first installs, with a magic that Python cannot parse
    assert [bool(cell.outputs) for cell in cells] == [shows(cell.source) for cell in cells]
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {output.get("name") or " ".join(output.data) for output in outputs}
    assert kinds == {"stdout", "image/png"}  # neither a progress bar nor a warning


def test_committed_headline_ends_in_an_interval_above_zero(file):
    mean, low, high = interval(headline(read(file)))
    assert 0 < low < mean < high


# One of four: the others take as long as all else in this file.
@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[missing(file), *[pytest.mark.slow] * (file.stem[:2] != "04")], id=file.stem)
        for file in NOTEBOOKS
    ],
)
def test_smoke_run_gives_the_committed_headline(file, client):
    notebook = read(file)
    done = execute(client, notebook, smoke=True)
    found, cells = headline(done), code_cells(done)
    assert [len(cell.outputs) for cell in cells] == [len(cell.outputs) for cell in code_cells(notebook)]
    assert skeleton(found) == skeleton(headline(notebook))
    assert_same_headline(found, notebook.metadata["mi_jax"]["smoke"])


@pytest.mark.slow  # one to two minutes each on two cores
@pytest.mark.parametrize("file", [pytest.param(file, marks=[missing(file)], id=file.stem) for file in NOTEBOOKS])
def test_default_run_prints_the_committed_words_and_headline(file, client):
    notebook = read(file)
    done = execute(client, notebook)
    assert list(map(skeleton, printed_lines(done))) == list(map(skeleton, printed_lines(notebook)))
    assert_same_headline(headline(done), headline(notebook))


def test_another_headline_is_noticed():
    committed = "headline: noise - gap = +7.7 pp [+5.5, +9.9]"
    assert_same_headline("headline: noise - gap = +8.0 pp [+5.2, +9.9]", committed)
    for other in (committed.replace("7.7", "7.2"), committed.replace("noise", "rays")):
        with pytest.raises(AssertionError):
            assert_same_headline(other, committed)


def test_notebook_that_raises_is_noticed(client):
    with pytest.raises(CellExecutionError, match="nothing leaked"):
        execute(client, made_of("x = 1", "assert x == 2, 'nothing leaked'"))


def test_notebook_starts_without_the_variables_of_the_last_one(client):
    execute(client, made_of("x = 1"))
    with pytest.raises(CellExecutionError, match="NameError"):
        execute(client, made_of("x"))


def test_outputs_are_stripped_of_all_but_text_and_pictures(client):
    source = "import sys; print('shown'); print('a bar', file=sys.stderr); print('too')"
    (cell,) = code_cells(execute(client, made_of(source)))
    assert cell.outputs == [nbformat.v4.new_output("stream", name="stdout", text="shown\ntoo\n")]
    assert (cell.execution_count, cell.metadata) == (1, {})


def test_kernel_is_this_interpreter_with_this_checkout(client):
    (cell,) = code_cells(execute(client, made_of("import mi_jax, sys; print(sys.executable, mi_jax.__file__)")))
    executable, package = map(Path, cell.outputs[0].text.split())
    assert executable == Path(sys.executable)
    assert package == REPOSITORY / "mi_jax" / "__init__.py"
