# diskfmt: `make demo` and `make test` do all of their set-up; the rest is for who works on it. `make help` lists all.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
JOBS ?= 2
# Missing codec libraries are built from pinned sources; see native/README.md.
export DISKFMT_NATIVE_DEPS ?= fetch
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export JOBS
export PATH := $(BIN):$(subst $(BIN):,,$(PATH))
# An editable install asks CMake in each process whether C files changed. Here make has already seen to that.
export DISKFMT_NO_REBUILD := 1

NATIVE := $(shell find native \( -name '*.c' -o -name '*.h' -o -name '*.cmake' -o -name '*.txt' -o -name '*.py' \) \
            -not -path 'native/tests/*' -not -path 'native/fuzz/*')
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.tools

.PHONY: help
help:
	@echo 'make demo           build all, make a partitioned disk, and convert it around (IMAGE=file: your own)'
	@echo 'make test           lint, types, layers, C tests, sanitizers, and the quick Python suite'
	@echo 'make lint           ruff, mypy --strict, layer contracts'
	@echo 'make test-c         C unit tests'
	@echo 'make test-python    the quick Python suite'
	@echo 'make test-slow      the tests that `make test` leaves out'
	@echo 'make test-wheel     build the wheel, install it into an empty environment, convert with it'
	@echo 'make sanitize       C tests and the Python suite with ASan and UBSan; C tests with TSan'
	@echo 'make fuzz TIME=60   each fuzzer for so many seconds (clang)'
	@echo 'make bench          every pair against qemu-img and cp'
	@echo 'make boot           a Linux disk, taken through all formats, boots in qemu (slow)'
	@echo 'make chroot-test    `make demo` and `make test` in a new Debian with nothing but python3 and make (root)'
	@echo 'make wheel          one wheel that carries its libraries, in dist/'
	@echo 'make clean          remove what was built (.venv stays)'

# ---- set-up ----------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@tools/sysdeps.sh build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'diskfmt needs Python 3.11 or newer; name one: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'diskfmt: making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# Where the system has no cmake, it comes from PyPI into the venv, where an import could not find it to rebuild.
lacks = $$(PATH="$${PATH\#$(BIN):}" && command -v $(1) >/dev/null || echo $(2))
NO_REBUILD = $(call lacks,cmake,--config-settings=editable.rebuild=false)

$(STAMP): pyproject.toml $(NATIVE) | $(BIN)/python
	@tools/sysdeps.sh build
	@echo 'diskfmt: building and installing into $(VENV)'
	@$(BIN)/python -m pip install -qq 'scikit-build-core>=0.11' 'cffi>=2.0' $(call lacks,cmake,cmake) $(call lacks,ninja,ninja)
	@$(BIN)/python -m pip install -qq --no-build-isolation $(NO_REBUILD) -e .
	@$(BIN)/python -m compileall -q src
	@cp tools/no_rebuild.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/"
	@touch $@

$(TOOLS): pyproject.toml | $(STAMP)
	@echo 'diskfmt: installing test tools into $(VENV)'
	@$(BIN)/python -m pip install -qq --no-build-isolation $(NO_REBUILD) -e '.[test,lint]'
	@touch $@

.PHONY: install
install: $(STAMP)

# ---- what a user runs ------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(STAMP)
	@tools/sysdeps.sh demo
	@$(BIN)/python tools/demo.py $(IMAGE)

.PHONY: test
test: $(STAMP) $(TOOLS)
	@tools/sysdeps.sh test
	@$(MAKE) --no-print-directory lint test-c sanitize-c test-python

# The benchmarks' plugin would only say that it does not work beside xdist. Who starts this in the background (nohup, &)
# leaves signals ignored, which tests of signals would inherit.
.PHONY: test-python
test-python: $(STAMP) $(TOOLS)
	@echo '== python tests'
	@tools/sysdeps.sh test
	@env --default-signal=HUP,INT,QUIT,TERM $(BIN)/python -m pytest -q -n $(JOBS) -m 'not slow' --benchmark-disable $(PYTEST)

# ---- checks ----------------------------------------------------------------------------------------------------------

.PHONY: lint
lint: $(TOOLS)
	@echo '== ruff'
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && echo 'clean'
	@echo '== mypy'
	@$(BIN)/mypy
	@echo '== layers'
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

.PHONY: test-c
test-c: $(STAMP)
	@echo '== C tests'
	@tools/ctest.sh tests

.PHONY: sanitize-c
sanitize-c: $(STAMP)
	@echo '== C tests: address and undefined behaviour'
	@tools/ctest.sh asan
	@echo '== C tests: threads'
	@tools/ctest.sh tsan

.PHONY: sanitize
sanitize: $(TOOLS) sanitize-c
	@echo '== python tests: address and undefined behaviour'
	@$(BIN)/python tools/overlay.py asan -DDISKFMT_SANITIZE=address,undefined
	@PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  env --default-signal=HUP,INT,QUIT,TERM \
	  build/overlay/asan/bin/python -m pytest -q -n $(JOBS) -m 'not slow and not unsanitized' -p no:cacheprovider \
	  --ignore tests/packaging \
	  --benchmark-disable $(PYTEST)

.PHONY: test-slow
test-slow: $(STAMP) $(TOOLS)
	@$(BIN)/python -m pytest -q -m slow --timeout 1800 $(PYTEST)

.PHONY: fuzz
TIME ?= 60
fuzz: $(STAMP)
	@tools/sysdeps.sh fuzz
	@tools/fuzz.sh $(TIME)

.PHONY: bench
bench: $(STAMP) $(TOOLS)
	@tools/sysdeps.sh test
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: boot
boot: $(STAMP) $(TOOLS)
	@tools/sysdeps.sh boot
	@$(BIN)/python -m pytest -q -s --timeout 3600 tests/boot

.PHONY: chroot-test
chroot-test:
	@tools/chroot-test.sh

# ---- packages --------------------------------------------------------------------------------------------------------

.PHONY: wheel
wheel: $(STAMP)
	@tools/wheel.sh dist

.PHONY: test-wheel
test-wheel: $(TOOLS) wheel
	@DISKFMT_WHEEL="$$(ls -t dist/*.whl | head -1)" $(BIN)/python -m pytest -q tests/packaging

.PHONY: clean
clean:
	rm -rf build dist wheelhouse .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f $(STAMP) $(TOOLS)
	find src tests tools benchmarks native -name __pycache__ -type d -prune -exec rm -rf {} +
