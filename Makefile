# make test       everything in tests/ and simulator/, with the native module built and required
# make test-as-mac  the same as a Mac would run it, on Linux: see tests/support/as_mac.py
# make demo       train a CfC and an LTC on handwritten digits      DEMO_ARGS=--short
# make examples   every other example in its short mode
# make bench      the benchmarks of ten minutes           BENCH_ARGS=--resume
# make bench-full all of them: docs/results.md, docs/features.md; bench-apple, bench-nvidia: a GPU's
# make mac-report on a Mac: all of it, in one file for an issue   MAC_REPORT_ARGS=--short
# make notebooks  run docs/notebooks, and keep their outputs
# make guard      instructions of the CPU kernels against their stored bounds; needs valgrind
# make agx        machine code of Apple's GPUs, on Linux as root (docs/agx.md); AGX_ARGS=--check
# make docs       the documentation site: build/docs/index.html
# make lint       ruff, clang-format and pyright, changing nothing; `make format` applies them
# make fuzz       fuzz-arguments and fuzz-files
# make fuzz-arguments  hostile arguments for every public callable    FUZZ_ARGS="--seed 5"
# make fuzz-files 1000 hostile weight files and configurations    FUZZ_FILES_ARGS=--seed 1
# make sanitize   the C++ tests under ASan + UBSan, then under TSan
# make sanitize-python  the native module under ASan + UBSan with the Python tests that enter it
#                 SANITIZE_TESTS="tests/backends/test_step_cell.py"
# make clean      remove what these made
#
# From a fresh clone: needs Python 3.10 or newer with venv, a C++20 compiler, and on Linux Python's
# headers. Works with the make 3.81 and the BSD tools of macOS.

# The first interpreter that is new enough: python3 may be Xcode's Python 3.9.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python3.10
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(or $(shell for python in $(PYTHONS); do \
  if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then echo $$python; break; fi; done),python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
MLX := cpu
DOCS := build/venv-docs

SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
  $(shell find build_backend cmake csrc metal python src -type f \
    -not -name '*.pyc' -not -name '_ext*.so' -not -name '_build_info.py')
NATIVE_FILES = $(shell find csrc metal simulator src tests -name '*.h' -o -name '*.cpp' -o -name '*.inl' \
  -o -name '*.metal')
SANITIZERS := address,undefined thread

.PHONY: test test-as-mac demo examples bench bench-full bench-apple bench-nvidia bench-gpu mac-report \
  notebooks guard agx docs lint format sanitize sanitize-python fuzz fuzz-arguments fuzz-files clean

test: $(VENV)/test
	MLX_NCPS_REQUIRE_NATIVE=1 $(PYTEST) $(PYTEST_ARGS)

test-as-mac: build/mac/built
	MLX_NCPS_REQUIRE_NATIVE=1 $(PYTEST) --as-mac --second-run $(PYTEST_ARGS)

demo: $(VENV)/demo
	$(BIN)/python examples/digits.py $(DEMO_ARGS)

EXAMPLES := time_series cheetah xor_events video inspect_wiring cart_pole from_torch data_parallel

examples: $(VENV)/demo
	@set -e; for name in $(EXAMPLES); do echo "examples/$$name.py --short"; \
	  $(BIN)/python examples/$$name.py --short; done

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --json build/bench/table.json $(BENCH_ARGS)

bench-full: $(VENV)/bench
	$(BIN)/python -m benchmarks full --device cpu $(BENCH_ARGS)

bench-apple: CHIP := apple
bench-apple: bench-gpu

bench-nvidia:
	$(MAKE) bench-gpu CHIP=nvidia MLX=cuda12 VENV=build/venv-cuda

bench-gpu: $(VENV)/bench
	$(BIN)/python -m benchmarks --device gpu --json docs/results/$(CHIP).json $(BENCH_ARGS)
	$(BIN)/python -m benchmarks page

mac-report: $(VENV)/created
	$(BIN)/python -m tools.mac_report $(MAC_REPORT_ARGS)

notebooks: $(VENV)/test
	$(PIP) install nbclient ipykernel
	PYTHONPATH=$(CURDIR) $(BIN)/python -m tools.notebooks

guard: $(VENV)/tools
	$(BIN)/cmake -S . -B build/guard -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DMLX_NCPS_EXTENSION=OFF -DMLX_NCPS_TESTS=ON
	$(BIN)/cmake --build build/guard --target mlx_ncps_perf_guard
	$(BIN)/python -m tools.perf_guard build/guard/mlx_ncps_perf_guard $(GUARD_ARGS)

agx: $(VENV)/test
	PYTHON=$(CURDIR)/$(BIN)/python tools/agx/run $(AGX_ARGS)

# Everything is made anew: Sphinx warns only of the pages that it reads.
docs: $(DOCS)/created
	rm -rf build/docs
	$(DOCS)/bin/sphinx-build -W --keep-going -n -q -b html docs build/docs
	$(DOCS)/bin/python docs/_sphinx/check_site.py build/docs

fuzz: fuzz-arguments fuzz-files

fuzz-arguments: $(VENV)/test
	$(BIN)/python -m tools.fuzz_arguments --cases 20000 $(FUZZ_ARGS)

lint: $(VENV)/tools $(VENV)/mlx
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_FILES)
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/tools
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE_FILES)

fuzz-files: $(VENV)/test
	$(BIN)/python -W ignore -m tools.fuzz_files $(FUZZ_FILES_ARGS)

sanitize: $(SANITIZERS:%=sanitize-%)

sanitize-%: $(VENV)/tools
	$(BIN)/cmake -S . -B build/sanitize-$* -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMLX_NCPS_EXTENSION=OFF -DMLX_NCPS_TESTS=ON \
	  -DMLX_NCPS_SANITIZE=$*
	$(BIN)/cmake --build build/sanitize-$*
	$(BIN)/ctest --test-dir build/sanitize-$* --verbose

# The test files that together call every entry of the native code. GCC's sanitizer libraries must be
# loaded first, because Python and MLX are not built with them.
SANITIZE_TESTS = $(addprefix tests/, cells docs programs rnn training) \
  $(addprefix tests/backends/test_, cpu.py fold.py forks.py interrupts.py native_fold.py native_locks.py \
    pairs_and_guards.py step*.py threads.py) \
  $(addprefix tests/ops/test_, dropout.py errors.py initializers.py ltc_solvers.py memory_inputs.py \
    mixed_memory.py not_finite.py ops.py resets.py states.py synapses.py timespans.py)
SANITIZED := build/sanitize-python/site

sanitize-python: $(VENV)/test $(VENV)/tools
	$(PIP) install "$$($(BIN)/python build_backend/native_requirements.py nanobind)"
	$(BIN)/cmake -S . -B build/sanitize-python -G Ninja \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMLX_NCPS_SANITIZE=address,undefined
	$(BIN)/cmake --build build/sanitize-python
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r python/mlx_ncps $(SANITIZED)
	cp -r metal $(SANITIZED)/mlx_ncps
	$(BIN)/cmake --install build/sanitize-python --prefix $(SANITIZED)
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(CURDIR)/$(SANITIZED) MLX_NCPS_REQUIRE_NATIVE=1 \
	  MLX_NCPS_LOCK_GUARD=1 $(PYTEST) $(SANITIZE_TESTS) $(PYTEST_ARGS)

clean:
	rm -rf build $(VENV) .pytest_cache .ruff_cache

# ---- The environment: a stamp file for each thing installed -------------------------------------

$(VENV)/created:
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "make: $(PYTHON) is not Python 3.10 or newer; say make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/tools: $(VENV)/created .ci/requirements.txt
	$(PIP) install -r .ci/requirements.txt
	touch $@

# The MLX whose types pyright reads.
$(VENV)/mlx: $(VENV)/created pyproject.toml
	$(PIP) install numpy "mlx[$(MLX)]$$($(BIN)/python -c 'import sys; \
	  sys.path.insert(0, "build_backend"); import native_requirements as n; print(n.allowed_mlx())')"
	touch $@

# Pages are made from the sources; without the native module nothing is compiled for them.
$(DOCS)/created: pyproject.toml
	$(PYTHON) -m venv --clear $(DOCS)
	MLX_NCPS_NO_NATIVE=1 $(DOCS)/bin/python -m pip --disable-pip-version-check -q install \
	  ".[$(MLX),docs]"
	touch $@

# One wheel, which the tests and the demo share.
build/wheel/built: $(VENV)/created $(SOURCES)
	rm -rf build/wheel
	$(PIP) wheel --no-deps --wheel-dir build/wheel .
	touch $@

# A small module with which MLX runs a simulated kernel lazily, when its result is needed.
build/mac/built: $(VENV)/test $(VENV)/tools simulator/mslsim/lazy_primitive.cpp
	$(PIP) install "$$($(BIN)/python build_backend/native_requirements.py nanobind)"
	$(BIN)/cmake -S . -B build/mac -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DMLX_NCPS_EXTENSION=OFF -DMLX_NCPS_SIMULATOR=ON
	$(BIN)/cmake --build build/mac --target _mslsim_lazy
	touch $@

$(VENV)/test $(VENV)/demo $(VENV)/bench: $(VENV)/%: build/wheel/built
	$(PIP) install --force-reinstall --no-deps build/wheel/mlx_ncps-*.whl
	$(PIP) install "$$(ls build/wheel/mlx_ncps-*.whl)[$(MLX),$*]"
	touch $@
