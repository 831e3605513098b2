# make demo  embeds a sample library (or MEDIA=/some/folder) and shows what came of it
# make dev   the same under Dagster's daemon and UI, on port 3000 (or PORT=...)
# make test  runs the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Several processes, each test file in one of them: what a file's tests share is made once. The files keep the order in
# which embed_pipeline_tests/conftest.py puts them.
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
SDKS   := $(VENV)/sdk/1.2.9 $(VENV)/sdk/1.3.6

.PHONY: demo dev test lint types check clean

demo: $(STAMP)
	$(BIN)/embed-pipeline demo $(if $(MEDIA),--media "$(MEDIA)")

dev: $(STAMP)
	$(BIN)/embed-pipeline dev $(if $(MEDIA),--media "$(MEDIA)") $(if $(PORT),--port $(PORT))

test: $(STAMP) $(SDKS)
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) .embed_pipeline .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml .ci/constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable ".[dev]"
	touch $@

# The official SDK judges the wire in two generations, which cannot be installed side by side.
$(VENV)/sdk/%: | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ twelvelabs==$*
