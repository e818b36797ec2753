# Every target makes the virtual environment that it needs, in this checkout.

PYTHON ?= python3
FOLDER ?= ratchet
PYTEST_ARGS ?=
SECONDS ?= 180
SEEDS ?= 10000
ARGS ?=
# Any other value than 0 switches them on.
QUICK ?= 0
BASELINE ?= 0
BENCH_ARGS ?=

VENV := .venv
BENCH_VENV := .venv-bench

# Into the environment of the target.  One -q would still show warnings about how pip itself
# is set up.
PIP_INSTALL = $(@D)/bin/python -m pip install -qq --disable-pip-version-check
# Without the tools that compile the library, which pip would download for this alone.
PIP_INSTALL_PURE = RATCHET_PURE_PYTHON=1 $(PIP_INSTALL) --no-build-isolation -e

# pyenv's stand-ins fail for versions that are not switched on, and tox then
# takes these for missing.  So tox is shown the real programs first.
PYENV_ROOT ?= $(HOME)/.pyenv
PYENV_BINS := $(wildcard $(PYENV_ROOT)/versions/3.1[1-3].*[0-9]/bin)
empty :=
space := $(empty) $(empty)
TOX_PATH := $(if $(PYENV_BINS),$(subst $(space),:,$(PYENV_BINS)):)$$PATH

# Two processes more than there are processors: many tests wait for programs.
PARALLEL := --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2) --dist worksteal

# The files that the compiled modules are made from.
SOURCES := setup.py $(shell find ratchet -name '*.py' -o -name '*.pxd')
# The prerequisite of a target that runs the library.
BUILD = $(VENV)/$(if $(filter-out 0,$(RATCHET_PURE_PYTHON)),installed-dev,compiled)

# What Python compiles is kept in build/, and also where the environment keeps Python
# from writing it: every process of the tests, and each of the hundreds of programs that
# they start, would compile all of it again.
BYTECODE := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX="$(CURDIR)/build/bytecode"

# A part of the tests cannot cover everything: it is measured, but not judged.
COVERAGE := --cov --cov-branch --cov-report=term-missing:skip-covered \
	$(if $(strip $(PYTEST_ARGS)),--cov-fail-under=0)

.DEFAULT_GOAL := help
.PHONY: help bench demo demo-broker compiled test test-slow test-broker coverage instructions sim soak interrupts chaos chaos-broker rolling memory check docs changelog clean

help:
	@echo "make demo   show the library at work: checksums of every file in FOLDER ($(FOLDER))"
	@echo "make demo-broker  a service over a RabbitMQ node of the demo's own, one of whose servers is killed"
	@echo "make test   run the tests, on the compiled build if there is a C compiler; PYTEST_ARGS goes to pytest"
	@echo "make test-slow  run those that take long: programs by the dozen, load, interrupts; PYTEST_ARGS, too"
	@echo "make test-broker  run those that need a broker, on RabbitMQ nodes that they start and end; PYTEST_ARGS, too"
	@echo "make coverage  run the tests on the pure build, and report what they cover"
	@echo "make compiled  compile what has changed; with RATCHET_PURE_PYTHON=1, every command does without"
	@echo "make instructions  count the processor's instructions for an exchange, on both builds, in two minutes"
	@echo "make sim    play SEEDS ($(SEEDS)) simulated schedules of the whole stack; ARGS goes to it:"
	@echo "            --seed N replays one, --mutants plants bugs, --determinism compares processes"
	@echo "make soak   let many clients come and go for SECONDS ($(SECONDS)), and see what is left"
	@echo "make interrupts  raise an exception at every line of the library, in an hour; ARGS goes to it"
	@echo "make chaos  kill, stop and cut off processes for SECONDS ($(SECONDS)), and check every outcome"
	@echo "make chaos-broker  the same over a broker: servers and RabbitMQ nodes, for SECONDS ($(SECONDS))"
	@echo "make rolling  replace servers under load for a minute each over TCP, Unix and TLS; ARGS goes to it"
	@echo "make memory look for wrong accesses to memory in the compiled build; it needs gcc, and half an hour"
	@echo "make bench  measure it side by side with its peers, in ten minutes; with QUICK=1, in one"
	@echo "make check  check style, types and the package, then test the wheel on every installed Python"
	@echo "make docs   build the manual and the API reference, into docs/_build/html"
	@echo "make changelog  show what the next release's part of CHANGELOG.rst would say"
	@echo "make clean  remove everything that these commands made"

demo: $(VENV)/installed
	@echo "== demo: checksums of every file in $(FOLDER)" >&2
	@$(VENV)/bin/python examples/checksum_demo.py "$(FOLDER)"

demo-broker: $(VENV)/installed-amqp
	@echo "== demo-broker: a service over a broker, one of whose servers is killed" >&2
	@$(VENV)/bin/python examples/broker_demo.py

# In any case: RATCHET_TRACE or CFLAGS may have changed.
compiled: $(VENV)/installed-dev
	@rm -f $(VENV)/compiled
	@$(MAKE) --no-print-directory $(VENV)/compiled
	@$(VENV)/bin/python -m ratchet --version

test: $(BUILD)
	@echo "== test: pytest, $$($(VENV)/bin/python -m ratchet --version)"
	@$(BYTECODE) $(VENV)/bin/pytest $(PARALLEL) $(PYTEST_ARGS)

test-slow: $(BUILD)
	@echo "== test-slow: pytest, what takes long, $$($(VENV)/bin/python -m ratchet --version)"
	@$(BYTECODE) $(VENV)/bin/pytest -m "slow and not broker" $(PARALLEL) $(PYTEST_ARGS)

# Two processes, whatever there are of processors: each has a node of its own, which takes seconds to start.
test-broker: $(BUILD)
	@echo "== test-broker: pytest with RabbitMQ nodes, $$($(VENV)/bin/python -m ratchet --version)"
	@$(BYTECODE) $(VENV)/bin/pytest -m broker -rs --numprocesses 2 --dist worksteal $(PYTEST_ARGS)

coverage: $(VENV)/installed-dev
	@echo "== coverage: pytest with branch coverage, on the pure build"
	@RATCHET_PURE_PYTHON=1 $(BYTECODE) $(VENV)/bin/pytest $(PARALLEL) $(COVERAGE) $(PYTEST_ARGS)

instructions: $(VENV)/compiled
	@echo "== instructions: those of one exchange, both ends, on both builds"
	@PYTHONPATH=tests $(VENV)/bin/python -m costs.instructions $(ARGS)

sim: $(BUILD)
	@echo "== sim: $(SEEDS) schedules of the whole stack, simulated"
	@PYTHONPATH=tests $(VENV)/bin/python -W error -m simulation --seeds $(SEEDS) $(ARGS)

soak: $(BUILD)
	@echo "== soak: clients that come and go for $(SECONDS) s"
	@PYTHONPATH=tests $(VENV)/bin/python -W error -m robustness.soak --seconds $(SECONDS)

interrupts: $(VENV)/installed-dev
	@echo "== interrupts: an exception at every line of the library"
	@RATCHET_PURE_PYTHON=1 PYTHONPATH=tests $(VENV)/bin/python -W error -m robustness.interrupts --jobs 12 $(ARGS)

chaos: $(BUILD)
	@echo "== chaos: processes that are killed, stopped and cut off for $(SECONDS) s"
	@PYTHONPATH=tests $(VENV)/bin/python -W error -m robustness.chaos --seconds $(SECONDS) $(ARGS)

chaos-broker: $(BUILD)
	@echo "== chaos-broker: servers and nodes that are killed and stopped for $(SECONDS) s"
	@PYTHONPATH=tests $(VENV)/bin/python -m broker.chaos $(SECONDS) $(ARGS)

rolling: $(BUILD)
	@echo "== rolling: three servers, whose processes are replaced under load"
	@PYTHONPATH=tests $(VENV)/bin/python -W error -m robustness.rolling $(ARGS)

memory: $(VENV)/installed-dev
	@echo "== memory: the compiled build under gcc's address sanitizer"
	@PYTHONPATH=tests $(VENV)/bin/python -W error -m robustness.memory $(ARGS)

bench: $(BENCH_VENV)/$(notdir $(subst -dev,,$(BUILD)))
	@echo "== bench: the library side by side with its peers" >&2
	@$(BENCH_VENV)/bin/python -m benchmarks $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(filter-out 0,$(BASELINE)),--baseline) $(BENCH_ARGS)

check: $(VENV)/installed-dev
	@echo "== check: style, formatting, types and the package, then the wheel on every installed Python"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@rm -rf build/dist
	@$(VENV)/bin/python -m build --outdir build/dist . >/dev/null
	@RATCHET_PURE_PYTHON=1 $(VENV)/bin/python -m build --wheel --outdir build/dist . >/dev/null
	$(VENV)/bin/twine check --strict build/dist/*
	$(VENV)/bin/python tests/distributions.py build/dist/*
	@PATH="$(TOX_PATH)" $(VENV)/bin/tox run-parallel --parallel 2 --parallel-no-spinner

docs: $(VENV)/installed-docs
	@echo "== docs: the manual and the API reference, into docs/_build/html"
	@RATCHET_PURE_PYTHON=1 $(VENV)/bin/sphinx-build -W --keep-going -n -q docs docs/_build/html

changelog: $(VENV)/installed-dev
	@echo "== changelog: a draft of the next release's part" >&2
	@$(VENV)/bin/towncrier build --draft --date unreleased

clean:
	@echo "== clean: removing environments, builds, caches and reports"
	@rm -rf $(VENV) $(BENCH_VENV) .tox build dist docs/_build *.egg-info .coverage .coverage.* htmlcov
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find ratchet -name '*.so' -exec rm -f {} +
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs gevent alone, so it does not wait for the tools; and its stdout
# is for checksums alone.
$(VENV)/installed: setup.cfg setup.py pyproject.toml ratchet/_version.py
	@echo "== setup: installing the package into $(VENV)" >&2
	@$(PYTHON) -m venv $(@D)
	@$(PIP_INSTALL) setuptools wheel
	@$(PIP_INSTALL_PURE) .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "== setup: installing the tools for tests and checks into $(VENV)"
	@$(PIP_INSTALL_PURE) '.[dev,msgpack]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@echo "== setup: installing Sphinx into $(VENV)"
	@$(PIP_INSTALL_PURE) '.[docs]'
	@touch $@

$(VENV)/installed-amqp: $(VENV)/installed
	@echo "== setup: installing what speaks to a broker into $(VENV)" >&2
	@$(PIP_INSTALL_PURE) '.[amqp]'
	@touch $@

# A peer that cannot be installed is noted there, and shown as missing.
$(BENCH_VENV)/installed: setup.cfg setup.py pyproject.toml ratchet/_version.py benchmarks/requirements.txt
	@echo "== setup: installing the package and its peers into $(BENCH_VENV)" >&2
	@$(PYTHON) -m venv $(@D)
	@$(PIP_INSTALL) setuptools wheel
	@$(PIP_INSTALL_PURE) '.[amqp,compile]'
	@$(@D)/bin/python -m benchmarks.install
	@touch $@

# It is as old as the beginning of the build: what is changed meanwhile is compiled the next time.  Where
# nothing could be compiled it is not made, so that the next command tries again.
$(VENV)/compiled: $(VENV)/installed-dev $(SOURCES)
$(BENCH_VENV)/compiled: $(BENCH_VENV)/installed $(SOURCES)
$(VENV)/compiled $(BENCH_VENV)/compiled:
	@echo "== setup: compiling what has changed of the library" >&2
	@touch $@.begun
	@$(@D)/bin/python setup.py -q build_ext --inplace >&2
	@if $(@D)/bin/python -m ratchet --version | grep -q ', compiled$$'; then mv $@.begun $@; fi
