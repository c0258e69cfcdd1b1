# The commands of a newcomer, each from a bare clone: they set up .venv when it is missing or out of date.
#
#   make bench PYTHON=python3.13            another interpreter, 3.10 to 3.14 (docs/versions.md)
#   make test TORCH=2.7.1 MEGATRON=0.16     other versions, in a folder of their own: .venv stays as it is
#   make test WORKERS=0                     in one process, which a debugger needs (2: two files at a time)
#   make bench BENCH_ARGS="--case NAME"     more options for pytest bench/; of RESULTS=DIR and --results the latter counts
#   make test TEST_ARGS="-k gate -x"        more options for pytest tests/
#   make fuzz SECONDS=600 FUZZ_ARGS="--target npz"    one parser, ten minutes
#   make mutants MUTANTS_ARGS="--path bench/judge/void.py"    one file (python -m tests.mutants --help says the rest)
#   make conformance MINDSPEED=DIR MEGATRON=DIR    checkouts of MindSpeed and Megatron-LM (docs/ascend.md)

PYTHON ?= python3
TORCH ?=
MEGATRON ?=
MINDSPEED ?=
RESULTS ?= results
BENCH_ARGS ?=
TEST_ARGS ?=
WORKERS ?= 2
SECONDS ?= 3600
FUZZ_ARGS ?=
MUTANTS_ARGS ?=
CELLS ?=

PINS := constraints/dev.txt
HASHES := constraints/hashes.txt
LINE := $(if $(findstring /,$(MEGATRON)),,$(filter 0.% 1.%,$(MEGATRON)))
CELL := $(if $(TORCH),-torch$(TORCH))$(if $(LINE),-megatron$(LINE))
VERSION = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv$(if $(CELL),-$(call VERSION,$(PYTHON))$(CELL))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# .venv is made anew when another interpreter is named than it was made with
OTHER := $(if $(filter file,$(origin PYTHON)),,$(filter-out $(call VERSION,$(BIN)/python),$(call VERSION,$(PYTHON))))

# Sixteen ranks share the cores: with two threads a rank, a 36 ms step took 2.8 s.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv bench test test-all test-nodes matrix layouts conformance fuzz mutants check format clean again

help:  ## show this
	@echo "Grok-1 pretraining benchmark. From a bare clone:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile
	@sed -n 's/^#   /  /p' Makefile

venv: $(READY)  ## make .venv with the exact versions of constraints/dev.txt

bench: $(READY)  ## train Grok-1 on 16 ranks of this machine, judge it, write a report
	@touch $(VENV)/.bench-started; status=0; results="$(RESULTS)"; own=yes; before=; set -- $(BENCH_ARGS); \
	test $$# -gt 0 || echo "make bench: trains, judges, then times operators and checks cost ledgers: about two minutes on two free cores" >&2; \
	for word; do case "$$before $$word" in \
	"--results "*) results=$$word; own=;; \
	*" --results="*) results=$${word#--results=}; own=;; esac; before=$$word; done; \
	$(BIN)/python -m pytest bench/ --benchmark $${own:+--results "$$results"} "$$@" || status=$$?; \
	report=$$(find "$$results" -name report.md -newer $(VENV)/.bench-started -exec ls -t {} + 2>/dev/null | head -n 1); \
	echo "report: $${report:-none was written}"; exit $$status

# a worker takes whole files, whose tests share what they start; one that dies ends the run, which names the test;
# pytest-benchmark measures nothing beside another process
PYTEST = $(BIN)/python -m pytest tests/ --ignore tests/nodes --numprocesses $(WORKERS) --dist loadfile --max-worker-restart 0 --benchmark-disable

test: $(READY)  ## run the tests but for the slow ones, in a few minutes
	$(PYTEST) -m "not slow" $(TEST_ARGS)

test-all: $(READY)  ## run every test, but for those of test-nodes (half an hour or more on two cores)
	$(PYTEST) $(TEST_ARGS)

test-nodes: $(READY)  ## run one job on two machines, made of network namespaces (root, iproute2; skips without)
	$(BIN)/python -m pytest tests/nodes $(TEST_ARGS)

matrix:  ## run the tests in every cell of .ci/cells, Python x torch x megatron-core (CELLS="3.13/2.13.0/0.12": in these)
	@bash .ci/matrix $(CELLS)

layouts: $(READY)  ## hold every layout of 1 to 16 ranks to one rank (an hour or more on two cores; make test tries a few)
	$(BIN)/python -m pytest tests/layouts --all-layouts $(TEST_ARGS)

conformance: $(READY)  ## run the NPU path on MindSpeed's and Megatron-LM's real code
	@test -d "$(MINDSPEED)" -a -d "$(MEGATRON)" || \
	{ echo "error: name two checkouts: make conformance MINDSPEED=DIR MEGATRON=DIR (docs/ascend.md)" >&2; exit 2; }
	$(BIN)/python -m pytest tests/conformance --mindspeed "$(MINDSPEED)" --megatron "$(MEGATRON)" $(TEST_ARGS)

fuzz: $(READY)  ## bend the inputs of every parser for SECONDS (default: an hour), and look for a fault
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ_ARGS)

mutants: $(READY) $(VENV)/mutants  ## plant some 400 faults in the gate and the maths, one at a time: does a test fail?
	PYTHONPATH=$(VENV)/mutants $(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

# Only its operators are used, so it comes without what its own commands need, and stays out of the environment.
$(VENV)/mutants: $(READY) constraints/mutants.txt
	$(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps --upgrade --target $@ --require-hashes --requirement constraints/mutants.txt
	@touch $@

check: $(READY)  ## format, lint, types and import contracts, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and caches; results/ stays
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml $(PINS) $(HASHES) $(if $(LINE),$(wildcard constraints/megatron-$(LINE).txt constraints/hashes-megatron.txt)) $(if $(OTHER),again)
	@bash constraints/install.sh "$(VENV)" "$(PYTHON)" "$(TORCH)" "$(LINE)"
	@touch $@

again:
