# The short way to everything; the build itself is CMake's (CMakeLists.txt, CMakePresets.json).
#   make            the release binary, build/coterie
#   make demo       a language model writes text; nothing to prepare
#   make test       every test (under ten minutes)
#   make check      format, layers, style, warnings as errors, unit tests (under two minutes); before each commit
# and: deps bench fuzz install asan ubsan tsan coverage tidy topology format full clean

JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
COVERAGE_MIN ?= 0
CTEST = ctest --output-on-failure --no-tests=error -j$(JOBS)

all: build/build.ninja
	cmake --build build -j$(JOBS) --target binary

# Ninja re-runs CMake by itself when a file is added or a CMake file changes.
build/build.ninja: | deps
	cmake --preset release
build-%/build.ninja: | deps
	cmake --preset $*

deps:
	@tools/install-deps build

demo: all
	cmake --build build -j$(JOBS) --target experts_picture
	DEMO_MODEL="$(DEMO_MODEL)" tools/demo

test: build/build.ninja
	cmake --build build -j$(JOBS)
	cd build && $(CTEST)

check: build/build.ninja
	@tools/install-deps check
	tools/check-layers
	tools/check-style
	cmake --build build -j$(JOBS)
	tools/check-symbols build
	cd build && $(CTEST) -L unit

# A machine's limits; with MODEL=FILE also that model's speed on it.
bench: all
	cmake --build build -j$(JOBS) --target benches
	build/coterie bench --machine
	@if [ -n "$(MODEL)" ]; then build/coterie bench "$(MODEL)"; else echo "for a model's speed: make bench MODEL=FILE"; fi

fuzz:
	@tools/install-deps build fuzz
	cmake --preset fuzz
	cmake --build build-fuzz -j$(JOBS)
	tools/fuzz build-fuzz $(FUZZ_SECONDS)

install: all
	cmake --build build -j$(JOBS) --target cot_shared
	DESTDIR="$(DESTDIR)" cmake --install build --prefix $(PREFIX)

asan ubsan tsan: %: build-%/build.ninja
	cmake --build build-$* -j$(JOBS)
	cd build-$* && $(CTEST) $(CTEST_ARGS)

coverage: build-coverage/build.ninja
	@tools/install-deps coverage
	cmake --build build-coverage -j$(JOBS)
	find build-coverage -name '*.gcda' -delete
	cd build-coverage && $(CTEST)
	gcovr --root . --filter src/ --print-summary --fail-under-line $(COVERAGE_MIN) --txt build-coverage/coverage.txt \
	    --html-details build-coverage/coverage.html build-coverage
	@echo "by line: build-coverage/coverage.html"

tidy: build/build.ninja
	@tools/install-deps tidy
	cmake --build build -j$(JOBS)
	find src -name '*.c' -print0 | xargs -0 -n 4 -P $(JOBS) clang-tidy -p build --quiet

# Two memory nodes and cores of two threads, in an emulated machine (minutes; fetches a kernel once).
topology: all
	@tools/install-deps topology
	cmake --build build -j$(JOBS) --target test_topology
	tools/topology build

format:
	@tools/install-deps check
	tools/c-files | xargs clang-format -i

# Everything that is checked before a release.
full: check test asan ubsan tsan fuzz

clean:
	rm -rf build build-*

.PHONY: all deps demo test check bench fuzz install asan ubsan tsan coverage tidy topology format full clean
