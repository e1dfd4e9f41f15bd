# Each target works from a bare clone: the environment is made on the first call and after a change of pyproject.toml.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench bench-full figures clean

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[export,cpu,trt-rtx,dev]"
	touch $@

demo: $(VENV)/.made
	$(BIN)/python -m examples.demo

test: $(VENV)/.made
	$(BIN)/python -m pytest

lint: $(VENV)/.made
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Ten minutes on two cores; leave the machine alone meanwhile. The report is bench_output/report.html.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.report

# Most of an hour: 1024 pixels and torch.compile too.
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
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.engine_build
	$(BIN)/python -m benchmarks.engine_sizes
	$(BIN)/python -m benchmarks.int8_latency
	$(BIN)/python -m benchmarks.precision

clean:
	rm -rf $(VENV) demo_output bench_output
