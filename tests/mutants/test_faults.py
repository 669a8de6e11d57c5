"""The table of planted faults is in step with the code, with the tests and with the page."""

import ast
from pathlib import Path

import pytest

from tests.mutants.__main__ import PAGE, planted, row
from tests.mutants.faults import FAULTS

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "mi_jax"
NUMBERED = pytest.mark.parametrize(
    ("number", "fault"), [pytest.param(i, f, id=f"{i}") for i, f in enumerate(FAULTS, 1)]
)


@NUMBERED
def test_a_fault_can_be_planted_in_exactly_one_place_and_its_test_exists(number, fault):
    source = (PACKAGE / fault.file).read_text()
    assert ast.dump(ast.parse(planted(source, fault))) != ast.dump(ast.parse(source))
    file, name = fault.test.split("::")
    assert name in {getattr(node, "name", "") for node in ast.parse((TESTS / file).read_text()).body}


@NUMBERED
def test_the_page_shows_every_fault(number, fault):
    assert row(number, fault) in PAGE.read_text(), "run `make mutants`"


def test_there_are_faults_in_every_package_and_none_twice():
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS) >= 40
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {fault.file.partition("/")[0] for fault in FAULTS if "/" in fault.file}
