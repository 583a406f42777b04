# cxrnode: everything from a clean clone. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.cxrnode-$(shell cat pyproject.toml scripts/make-venv | sha256sum | cut -c1-12)
PYTEST := $(BIN)/python -m pytest --durations=8

.PHONY: help venv peers tools viewer viewer-proof outputs-proof fleet-proof away-proof docs sbom audit-deps bench-check demo test acceptance torture fuzz quick lint format clean

help:
	@echo "make demo        set all up and see the main job happen"
	@echo "make test        set all up and pass the tests (under 15 minutes)"
	@echo "make acceptance  the long tests: the whole daemon, kills, torture (under 45 minutes)"
	@echo "make torture     FILMS=500 SEED=1 SEEDS=1 DATABASE=sqlite: films under faults, and an accounting (docs/reliability.md)"
	@echo "make fuzz        CASES=10000 SEED=1: hostile peers and films against a listener and a decode child"
	@echo "make quick       lint and the fast tests (a minute)"
	@echo "make lint        ruff, mypy --strict, the layers"
	@echo "make viewer-proof  44 real films through the node and a real viewer, with screenshots (20 minutes)"
	@echo "make outputs-proof  every output of 44 real films before the validators (5 minutes)"
	@echo "make away-proof  AWAY_FILMS=1000: the PACS is away for the whole run, and then back (15 minutes)"
	@echo "make fleet-proof  three hosts in network namespaces, as root; TIMES=10 (3 minutes a time)"
	@echo "make tools       the programs that check deploy/, from PyPI, into .tools"
	@echo "make docs        the generated tables of the documents"
	@echo "make sbom        build/sbom.cdx.json;  make audit-deps  known vulnerabilities (asks the internet)"
	@echo "make bench-check  ratios of a small bench against benchmarks/baseline.json (3 minutes)"
	@echo "make peers       the Debian packages that the tests talk to (as root)"
	@echo "VENV=$(VENV)  PYTHON=$(PYTHON)  JOBS=$(JOBS)"

venv: $(STAMP)

$(STAMP): pyproject.toml scripts/make-venv
	@scripts/make-venv "$(PYTHON)" "$(VENV)" "$@"

peers:
	@scripts/install-peers

# The programs that check deploy/ and the dependencies (.tools), and an inference server (.oip), in their own environments.
tools: venv
	@scripts/install-tools "$(PYTHON)"
	@scripts/install-oip "$(PYTHON)"

# The page of the OHIF viewer, 50 MB from npm, and axe-core, which the acceptance tests alone look at.
viewer:
	@scripts/install-viewer
	@scripts/install-axe

# Forty films more than in `make acceptance` through the node and the viewer; screenshots to look at in ARTEFACTS.
ARTEFACTS ?= build/viewer-proof
viewer-proof: venv peers viewer
	CXRNODE_VIEWER_FILMS=40 CXRNODE_ARTEFACTS=$(ARTEFACTS) $(PYTEST) -s tests/acceptance/test_viewer_films.py

# The tables of docs/dicom-conformance.md, from the code.
docs: venv
	PYTHONPATH=. $(BIN)/python -m tests.conformance

# What runs, library by library with version and licence: CycloneDX. pip-audit asks a service on the internet.
sbom: venv tools
	@mkdir -p build
	.tools/bin/cyclonedx-py environment --output-reproducible --of JSON --output-file build/sbom.cdx.json $(BIN)/python

audit-deps: venv tools
	.tools/bin/pip-audit --strict --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

demo: venv
	$(BIN)/cxrnode demo

# Two workers, each with its own PostgreSQL and Orthanc; torch with one thread in each, or they fight for the cores.
test: venv peers tools
	OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist worksteal tests/unit tests/property tests/integration

# One at a time: these measure times, kill processes and count what is left. Then the small bench against its baseline.
acceptance: venv peers viewer
	$(PYTEST) --timeout=900 -rfEXP tests/acceptance   # P: the tables, counts and times that the tests print
	$(BIN)/python -m benchmarks.check --films 12 --rounds 3 --tries 3

# Films under every fault that a node can meet, from a seed; then the accounting. `make acceptance` has a short form.
FILMS    ?= 500
SEED     ?= 1
SEEDS    ?= 1
DATABASE ?= sqlite
torture: venv peers
	$(BIN)/python -m tests.torture --films $(FILMS) --seed $(SEED) --seeds $(SEEDS) --database $(DATABASE) --json build/torture.json

# Mutated conversations, data sets and films; `make acceptance` has a thousand of them.
CASES ?= 10000
fuzz: venv
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED)

# So many films with the PACS away for the whole run, and then back; `make acceptance` takes forty.
away-proof: venv
	CXRNODE_AWAY_FILMS=$(AWAY_FILMS) $(PYTEST) -s --timeout=3600 tests/acceptance/test_pacs_away.py
AWAY_FILMS ?= 1000

# Three hosts in network namespaces, as root (three minutes a time). A line a run; what a run printed stands in build/.
TIMES ?= 1
fleet-proof: venv peers
	@mkdir -p build; bad=0; for n in $$(seq $(TIMES)); do \
	  began=$$(date +%s); log=build/fleet-proof-$$n.log; said=passed; \
	  $(PYTEST) -s --timeout=900 tests/acceptance/test_fleet.py >$$log 2>&1 || { said=FAILED; bad=$$((bad + 1)); }; \
	  echo "run $$n of $(TIMES): $$said, $$(( $$(date +%s) - began )) s; $$(grep -aE 'each once' $$log | tr '\n' ';') $$(tail -n 1 $$log)"; \
	done; test $$bad = 0

# Every kind of output of 44 real films before dciodvfy and DCMTK; `make acceptance` takes 12 of them.
outputs-proof: venv peers
	CXRNODE_FILMS=40 $(PYTEST) --timeout=1800 tests/acceptance/test_outputs_of_real_films.py

# More than a quarter worse than the committed baseline fails; processor time alone, so that a busy machine may pass.
bench-check: venv
	$(BIN)/python -m benchmarks.check

quick: venv
	$(BIN)/ruff check -q .
	$(BIN)/ruff format --check -q .
	CXRNODE_HYPOTHESIS=quick OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not peers" tests/unit tests/property

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .tools .oip .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
