"""Fixtures shared by all tests: where the originals lie, and a cache of prepared data sets for this session."""

import os
import shutil
from pathlib import Path

import pytest

# Those that take longest are handed out first, so that no worker starts one when the others are done.
LONGEST = (
    "training/test_ensemble.py", "experiments/test_audit.py", "defenses/test_catalogue.py", "test_audit.py",
    "test_docs.py", "attacks/test_boundary.py", "trials/test_per_example.py", "external/test_audits.py",
    "study/test_study.py", "attacks/test_crafting.py", "querying/test_driver.py", "models/test_heads.py",
    "privacy/test_per_example.py", "attacks/test_classifiers.py", "privacy/test_dp_sgd.py", "study/test_transfer.py",
    "test_colabs.py", "external/test_targets.py", "attacks/test_rays.py", "evaluation/test_plots.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_configure(config: pytest.Config) -> None:
    """Compiled programs are shared by all workers, by the scripts that tests start, and by later sessions.

    They lie in .pytest_cache/compiled, which is emptied when it has a gigabyte. jax has a limit of its own, under which
    every new program looks at all others.
    They are compiled without LLVM's optimisations, which takes a third less: most of the suite's time is compilation.
    `XLA_FLAGS=` in the environment, as of `make test-all`, compiles them as users do.
    """
    if hasattr(config.option, "loadscopereorder"):  # else files with few tests, however long, come last
        config.option.loadscopereorder = False
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads of two workers on two cores wait for each other
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers inherit what the first process sets
        compiled = config.rootpath / ".pytest_cache" / "compiled"
        if sum(file.stat().st_size for file in compiled.glob("*")) > 2**30:
            shutil.rmtree(compiled)
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Returns the folder of the real originals ($MI_JAX_DATA, else ../shared/data); skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MI_JAX_DATA") or beside)
    if not root.is_dir():
        pytest.skip("needs the real originals: set MI_JAX_DATA to the folder that holds location30/ and the others")
    return root


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drops the programs compiled for a file when it is done: those of all files together take gigabytes."""
    yield
    import jax  # here, because it reads the environment that pytest_configure sets

    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
