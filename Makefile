# The commands of this workspace. `make demo` and `make test` set up what they need; on a second run that takes a second or two.
# More arguments: make demo ARGS="--nodes 5 --keep", make test PYTEST="tests/unit -k registry".

SHELL := /bin/sh
BOOTSTRAP := sh scripts/bootstrap.sh
ENVIRONMENT := . ./.cache/env
QUICK := $(wildcard tests/house tests/unit tests/rules)
# Quick ones first: whoever waits for a red test waits for the cheap ones only.
ORDER := $(QUICK) $(filter-out $(QUICK) tests/e2e tests/downstream,$(patsubst %/,%,$(wildcard tests/*/))) \
         $(wildcard plugins/*/tests) $(wildcard tests/downstream tests/e2e)

# One worker computes, three start servers and mostly wait for them (tests/conftest.py); a file stays on one of them.
PARALLEL := -n 4 --dist loadfile

.PHONY: help demo test check soak wheels clean

help:
	@echo "make demo     a real three-node cluster on this machine, shown live; Ctrl-C ends it and leaves nothing running"
	@echo "make test     everything CI runs"
	@echo "make check    ruff, mypy and the quick tests: before every commit"
	@echo "make soak     random seeds of the simulator until stopped; what they find is appended to soak.txt"
	@echo "make wheels   one wheel per distribution, in dist/"
	@echo "make clean    remove .venv, .cache, dist and what tools left behind"

demo:
	@$(BOOTSTRAP) demo
	@$(ENVIRONMENT) && exec .venv/bin/python scripts/demo.py $(ARGS)

test:
	@$(BOOTSTRAP) test
	@$(ENVIRONMENT) && exec .venv/bin/python -m pytest $(or $(PYTEST),$(PARALLEL) $(ORDER))

check:
	@$(BOOTSTRAP) test
	@$(ENVIRONMENT) && ruff check . && mypy core/src/pgcore $(wildcard plugins/*/src) && \
		python -m pytest -q -m "not server" $(or $(PYTEST),$(QUICK))

soak:
	@$(BOOTSTRAP) test
	@$(ENVIRONMENT) && exec .venv/bin/python -m pgcore simulate --profile all --minutes 100000 --findings soak.txt $(ARGS)

wheels:
	@$(BOOTSTRAP) test
	@$(ENVIRONMENT) && for distribution in core plugins/*; do \
		if [ -e $$distribution/pyproject.toml ]; then python -m build -q --wheel --no-isolation -o dist $$distribution || exit 1; fi; \
	done; ls -l dist/*.whl

clean:
	rm -rf .venv .cache dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find core plugins tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
