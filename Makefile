# The two commands of the README, and their parts. Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORIGINALS := $(VENV)/originals
RUN ?= demo-run

.PHONY: demo test check unit faults originals bench clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m pipeline.demo --output $(RUN)-input
	$(BIN)/python -m pipeline run demo --input $(RUN)-input/seeds.jsonl --output $(RUN)
	@echo "Open $(RUN)/report.html"

test: check unit

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

# Four files at a time, whatever the cores: most of the time goes into waiting, for processes to
# start or to be found dead.
unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 4 --dist loadfile

# More ways to lose nodes, drivers and rows than `make test` has time for.
faults: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m faults

# The backends on packages with old pins, in an environment of their own; not a part of `make test`.
originals: $(ORIGINALS)/stamp
	$(ORIGINALS)/bin/python -m pytest tests/stages/backends/original

bench: $(VENV)/dev.stamp
	$(BIN)/python deploy/bench/recipes.py
	$(BIN)/python deploy/bench/overhead.py
	$(BIN)/python deploy/bench/memory.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo needs neither torch nor the test tools.
$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

# torch first and by version, so that what follows is satisfied with this build of it (CPU, if that
# is what pip finds). Every torchvision of the registry is built for CUDA: without its dependencies,
# and with the two operators that it then fails to register declared by tests/torchvision_on_cpu.py,
# its image transforms work on the CPU.
$(VENV)/dev.stamp: $(VENV)/demo.stamp tests/torchvision_on_cpu.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[demo,dev,diffusion,open-clip,segment-anything,chat,train]'
	$(BIN)/python tests/torchvision_on_cpu.py
	touch $@

# The versions that stages/backends/README.md names. simple-lama's own pins are not kept.
$(ORIGINALS)/stamp: pyproject.toml constraints.txt tests/torchvision_on_cpu.py
	$(PYTHON) -m venv $(ORIGINALS)
	$(ORIGINALS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(ORIGINALS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(ORIGINALS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[demo]' pytest pytest-timeout hypothesis
	$(ORIGINALS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  groundingdino-py==0.4.0 transformers==4.57.6 segment-anything==1.0
	$(ORIGINALS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  simple-lama-inpainting==0.1.2 fire==0.7.1 termcolor==3.3.0
	$(ORIGINALS)/bin/python tests/torchvision_on_cpu.py
	touch $@

clean:
	rm -rf $(VENV) $(RUN) $(RUN)-input
