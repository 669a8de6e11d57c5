# The only commands a new user needs: `make audit` and `make test`. Everything runs from the checkout, in .venv.
PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
RUN := $(VENV)/bin/python
OUT ?=
ARGS ?=
$(foreach name,out args,$(if $(filter command,$(origin $(name))),\
	$(error $(name)=$($(name)): expected upper case, as in make audit OUT=DIR ARGS="--flag=value")))
# Tests of one file share compiled programs, so a file stays with one worker.
PARALLEL ?= -n 2 --dist loadfile

.PHONY: help audit test test-all lint colabs wheel requirements clean test-peers benchmark-training benchmark-boundary benchmark-dp_sgd benchmark-crafting

help:
	@echo "make audit [OUT=DIR] [ARGS=\"--dataset=... --attacks=...\"]   the main job; no arguments: digits, about two minutes"
	@echo "make audit ARGS=--split=disjoint                          the paper's protocol: shadow models on other rows"
	@echo "make test                                                 the fast test suite"
	@echo "make test-all                                             with the slow tests"
	@echo "make mutants                                              plants faults, one at a time: at most two may survive"
	@echo "make test-servers | test-targets                          real model servers; torch, XGBoost, ONNX, skops"
	@echo "make test-peers                                           sums and bounds compared with those of jax-privacy"
	@echo "make benchmark-training | benchmark-boundary | benchmark-dp_sgd | benchmark-crafting   with PyTorch; Foolbox, ART; Opacus"
	@echo "make wheel                                                builds the wheel and runs a smoke audit from it"
	@echo "make docs                                                 writes the numbers of README.md and docs/ from the records"
	@echo "make colabs                                               executes the notebooks and writes their outputs back"
	@echo "make lint | requirements | clean"

audit: $(VENV)/.installed
	@MI_JAX_OUT=OUT $(RUN) -m experiments.audit $(if $(OUT),--out="$(OUT)") $(ARGS)

test: $(VENV)/.installed-tests
	$(RUN) -m pytest $(PARALLEL)

test-all: $(VENV)/.installed-tests
	XLA_FLAGS= $(RUN) -m pytest $(PARALLEL) -m ""

# Each in a copy of the package, by tests that are chosen for it; writes docs/mutants.md.
.PHONY: mutants
mutants: $(VENV)/.installed-tests
	@$(RUN) -m tests.mutants

lint: $(VENV)/.installed-tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/pyright

.PHONY: docs
docs: $(VENV)/.installed
	@$(RUN) -m docs.generate

colabs: $(VENV)/.installed-tests
	@$(RUN) -m colabs.execute $(ARGS)

# In a folder of its own, so that what runs is the wheel and not the checkout.
wheel: $(VENV)/.installed
	@rm -rf build dist && $(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && mkdir "$$site/empty" \
		&& $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target "$$site/installed" dist/*.whl \
		&& cd "$$site/empty" && PYTHONPATH="$$site/installed" "$$site/installed/bin/mi_jax" audit --preset=smoke --attacks=gap --out=out \
		&& test -s out/report.html && echo "the wheel runs outside of the checkout"

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mi_jax needs Python >= 3.11, $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV) (about 1 GB, once)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed tests/requirements.txt
	@echo "installing tests/requirements.txt into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# The libraries measured against, in an environment of their own. PIP_EXTRA_INDEX_URL may name PyTorch's CPU builds.
$(BENCH)/.installed: experiments/benchmarks/requirements.txt
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: test-servers test-targets
test-servers: $(VENV)/.installed-tests .venv-servers/.installed
	MI_JAX_SERVERS=.venv-servers $(RUN) -m pytest -m slow tests/servers

.venv-servers/.installed: tests/servers/requirements.txt
	@test -x .venv-servers/bin/python || $(PYTHON) -m venv .venv-servers
	@.venv-servers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Models of other libraries; large, so that the fast suite skips by name what is not installed.
test-targets: $(VENV)/.installed-tests
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/external/requirements.txt
	$(RUN) -m pytest tests/external tests/test_colabs.py

# Our sums of clipped gradients and our bound of epsilon beside jax-privacy's, which only that environment has.
test-peers: $(VENV)/.installed $(BENCH)/.installed
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(BENCH)/bin/python -m pytest -k jax_privacy tests/privacy tests/evaluation/test_metrics.py

benchmark-training benchmark-boundary benchmark-dp_sgd benchmark-crafting: $(VENV)/.installed $(BENCH)/.installed
	$(RUN) -m experiments.benchmarks.$(@:benchmark-%=%) --torch_python=$(BENCH)/bin/python \
		--out=results/records/$@.json $(ARGS)

# Pins are generated from pyproject.toml for every supported Python, never edited by hand (needs uv).
requirements:
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header pyproject.toml -o requirements.txt
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --extra dev -c requirements.txt pyproject.toml -o tests/requirements.txt

clean:
	rm -rf $(VENV) $(BENCH)
