# Everything that people type. `make` alone lists it.
#
# Each stage of the environment leaves a stamp in .venv and is made again only when its pins change:
#   base (to train) -> test (pytest, ruff, mypy ...) -> peers (ffcv, torchvision and frameworks, to be tested against), dist, docs.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --quiet
BASE   := $(VENV)/base.done
TEST   := $(VENV)/test.done
PEERS  := $(VENV)/peers.done
DIST   := $(VENV)/dist.done
DOCS   := $(VENV)/docs.done
ARGS   ?=
# Test files run side by side, one process a core (one more was no quicker).  Each takes 2 GB.
JOBS   ?= $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))
CELLS  ?=

IMAGES := data/quickstart-images
PACKED := data/quickstart/train.beton data/quickstart/val.beton

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup quickstart test test-all lint docs dist matrix bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BASE) ## .venv with all that packing and training need

quickstart: $(BASE) $(PACKED) ## Make a small labelled set, pack it, train on it, evaluate: the whole way, in minutes
	$(RUN) -m alexnet_fast.train recipes/quickstart.toml $(ARGS)
	$(RUN) -m alexnet_fast.train recipes/quickstart.toml --eval $(ARGS)
	@echo
	@echo "Results:  runs/quickstart/report.json (accuracy, img/s), metrics.jsonl (every log line), recipe.toml (as resolved)"
	@echo "Weights:  runs/quickstart/checkpoint_best.pt"
	@echo "Images:   $(IMAGES)    packed: data/quickstart"
	@echo "By hand:  . $(VENV)/bin/activate"

test: $(TEST) $(PEERS) ## Run the tests (ARGS="-k loader" for some of them)
	$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(TEST) $(PEERS) $(DOCS) ## Run the tests, and those that take minutes
	ALEXNET_FAST_LONG=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(TEST) ## ruff (rules and format) and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(TEST) $(DOCS) ## Build the documentation into build/docs, warnings are errors, and check its commands, links and examples
	$(RUN) -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --write-all --builder html docs build/docs
	$(RUN) -m pytest --quiet tests/docs $(ARGS)
	@echo "Open build/docs/index.html"

dist: $(TEST) $(DIST) ## Build wheel and sdist into dist/, and check them in an empty environment
	@sh .ci/dist.sh $(RUN)

matrix: $(TEST) ## Try the wheel in empty Debian chroots, on every Python, on aarch64, with the oldest and newest packages: as root, an hour (CELLS="debian13 arm64" for some)
	@sh .ci/matrix.sh $(RUN) $(CELLS)

bench: $(TEST) $(PEERS) ## Measure pipeline, packing and storage beside their peers, and the training step (DATA=folder with train/<class>/*)
	@sh .ci/bench.sh $(RUN) $(DATA)

clean: ## Remove .venv, the quickstart's data and caches; runs/ stays
	rm -rf $(VENV) $(IMAGES) $(IMAGES).part data/quickstart build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find alexnet_fast tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): requirements.txt pyproject.toml setup.cfg setup.py .ci/system.sh
	@sh .ci/system.sh base $(PYTHON)
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --use-pep517 --editable . --config-settings editable_mode=compat
	@sh .ci/system.sh codec $(RUN)
	@touch $@

$(TEST): requirements-test.txt $(BASE)
	$(PIP) -r requirements-test.txt
	@touch $@

$(DIST): requirements-dist.txt $(TEST)
	$(PIP) -r requirements-dist.txt
	@touch $@

$(DOCS): requirements-docs.txt $(TEST)
	$(PIP) -r requirements-docs.txt
	@touch $@

# Without the peers the tests against them are skipped, aloud; where ALEXNET_FAST_REQUIRE names one, they fail.
$(PEERS): requirements-peers.txt $(TEST)
	@sh .ci/system.sh peers $(RUN) && $(PIP) --no-deps --no-build-isolation -r requirements-peers.txt && touch $@ \
	    || echo "The peers are not all here, so the tests against them are skipped; 'make test' tries again."

# A folder's time is the time of its making: the set is made again when its maker changes.
$(IMAGES): alexnet_fast/sample.py alexnet_fast/synthetic/shapes.py | $(BASE)
	rm -rf $@
	$(RUN) -m alexnet_fast sample --out $@

$(PACKED) &: $(IMAGES) alexnet_fast/pack.py $(wildcard alexnet_fast/beton/*.py alexnet_fast/packing/*.py) | $(BASE)
	$(RUN) -m alexnet_fast pack --data $(IMAGES) --out data/quickstart --fresh
