# make demo    generate videos, train, mine labels, train the assigner, evaluate; ends in outputs/demo
# make test    lint, type check, import contract, tests; PROCESSES=N
# make .venv   only set up
SEED ?= 0
PROCESSES ?= 2
DEMO := outputs/demo
BIN := .venv/bin
# The first interpreter that is new enough and can make virtual environments; `make PYTHON=...` overrides it.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo $$python; break; }; done)

.PHONY: demo test test-slow lint clean .venv

.venv: .venv/.installed

.venv/.installed: setup.py constraints.txt
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		echo "no Python >= 3.10 with venv found; install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv with $$python; PyTorch is large, this takes a few minutes"; \
	"$$python" -m venv --clear .venv
	@# -qq: errors only, no word of where packages come from
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: .venv
	@$(BIN)/python tools/make_synthetic.py $(DEMO)/videos
	@$(BIN)/python tools/run_net.py --cfg configs/Synthetic/ReViT_TimeSformer-tiny_divST_4x4_48.yaml \
		OUTPUT_DIR $(DEMO) DATA.PATH_TO_DATA_DIR $(DEMO)/videos RNG_SEED $(SEED)

test: lint
	$(BIN)/python -m pytest -n $(PROCESSES)

test-slow: .venv
	$(BIN)/python -m pytest -n $(PROCESSES) -m slow

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv $(DEMO) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
