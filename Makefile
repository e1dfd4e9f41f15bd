# Each target works from a bare clone: the environment is made on the first call and after a change of pyproject.toml.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all others triton faults soak oldest pythons ray lint bench bench-full figures clean

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[export,cpu,trt-rtx,openvino,webgpu,bench,report,dev]"
	touch $@

demo: $(VENV)/.made
	$(BIN)/python -m examples.demo

# Pytest keeps the tests as it has rewritten them, unless this is set: each worker then takes ten seconds to do so anew.
test test-all: export PYTHONDONTWRITEBYTECODE :=

# The first lane: all but what is marked slow.
test: $(VENV)/.made
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Both lanes.
test-all: $(VENV)/.made
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What tests of the programs of docs/other-languages.md take beside Python; without it they skip.
others:
	bash .ci/others $(VENV)-others

# A real Triton server; without it the tests of serving skip.
triton:
	PYTHON=$(PYTHON) bash .ci/triton $(VENV)-triton

# Plants faults in a copy, one at a time; each must be found by its test of the first lane (tests/planted_faults.py has the list).
faults: $(VENV)/.made
	$(BIN)/python -m tests.planted_faults

# All that docs/reliability.md promises, and the longest cases; the table is soak_output/reliability.md.
soak: $(VENV)/.made
	$(BIN)/python -m pytest tests/reliability --soak
	$(BIN)/python -m pytest tests --soak -m soak --ignore tests/reliability

# The oldest versions that pyproject.toml allows, but for torch (constraints-oldest.txt says why). Left out are a mistake of
# onnxsim's that 0.7.0 did not make yet, and uncompressed YCbCr in TIFF, which Pillow 12.3.0 cannot read back.
# "not (slow)" is not the first lane, whose way with the garbage collector the oldest Hypothesis takes for flaky tests.
OLDEST := $(VENV)-oldest
OLDEST_TESTS := tests/reliability/test_untrusted_onnx.py tests/reliability/test_untrusted_checkpoints.py tests/artifact tests/preprocess tests/models tests/runtimes/test_ort.py tests/test_predictor.py tests/archives \
	tests/export/test_onnx_exporter.py tests/export/test_checks.py tests/cli/test_commands.py
oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[export,cpu,bench,report,dev]"
	$(OLDEST)/bin/python -m pytest -n 2 -m "not (slow)" -p no:cacheprovider $(OLDEST_TESTS) \
		--deselect tests/export/test_checks.py::test_reductions_that_onnxsim_merges_are_not_kept \
		--deselect "tests/preprocess/test_images.py::test_every_mode_in_files[1.tif-YCbCr]"

# What deploying takes, on other Pythons, where they are installed; PyTorch's builds without CUDA are at hand for one version
# alone. Their answers must be those of the environment of the tests. Left out is what Pillow 12.3.0, the last for Python
# 3.10, cannot read back.
PYTHONS := 3.10 3.13
PYTHONS_TESTS := tests/artifact tests/preprocess tests/runtimes/test_ort.py tests/test_specs.py tests/test_values.py tests/test_errors.py
pythons: $(VENV)/.made
	$(BIN)/rest-export --checkpoint examples/digits/rest_digits.safetensors --output $(VENV)/digits.onnx
	$(BIN)/rest-predict $(VENV)/digits.onnx examples/digits/images > $(VENV)/digits.txt
	@set -e; for version in $(PYTHONS); do \
		for python in python$$version $(HOME)/.pyenv/versions/$$version.*/bin/python none; do \
			"$$python" --version >/dev/null 2>&1 && break; done; \
		if [ "$$python" = none ]; then echo "Python $$version is not installed here: nothing was tested with it"; continue; fi; \
		env=$(VENV)-$$version; \
		"$$python" -m venv $$env; \
		$$env/bin/python -m pip install --quiet --editable ".[cpu]" "pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6.100" "onnx>=1.21"; \
		$$env/bin/python -m pytest -n 2 -m "not (slow)" -q -p no:cacheprovider $(PYTHONS_TESTS) \
			--deselect "tests/preprocess/test_images.py::test_every_mode_in_files[1.tif-YCbCr]"; \
		$$env/bin/rest-predict $(VENV)/digits.onnx examples/digits/images | diff $(VENV)/digits.txt -; \
		echo "Python $$version answers as $(VENV) does"; \
	done

# Archives by Ray, on real clusters of this machine, in an environment of its own as Ray takes half a gigabyte. Ray ends the
# process that it runs in where its own fail, and says so to the standard error alone.
RAY := $(VENV)-ray
ray: $(VENV)/.made
	$(BIN)/rest-export --checkpoint examples/digits/rest_digits.safetensors --output $(VENV)/digits.onnx
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,ray]" "pytest>=8" "hypothesis>=6.100"
	REST_DEPLOY_TEST_ARTIFACT=$(abspath $(VENV)/digits.onnx) $(RAY)/bin/python -m pytest -p no:cacheprovider --capture=sys -m ray tests/archives

lint: $(VENV)/.made
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Ten minutes on two cores; leave the machine alone meanwhile. The report is bench_output/report.html.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.report

# Half an hour: the four networks at 224, 512 and 1024 pixels, against torch.compile too.
bench-full: $(VENV)/.bench
	$(BIN)/python -m benchmarks.report --full

$(VENV)/.bench: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[openvino]"
	touch $@

# The figures of docs/benchmarks.md that have a command of their own.
figures: $(VENV)/.made
	$(BIN)/python -m benchmarks.noise
	$(BIN)/python -m benchmarks.export_time
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.pictures
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.engine_build
	$(BIN)/python -m benchmarks.engine_sizes
	$(BIN)/python -m benchmarks.int8_latency
	$(BIN)/python -m benchmarks.folder
	$(BIN)/python -m benchmarks.precision

clean:
	rm -rf $(VENV) $(VENV)-* demo_output bench_output soak_output
