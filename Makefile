# make demo   install, train Concat-ID on the toy world, sample, evaluate: ends with the path of a report page
# make test   install, run the test suite
# make lint   formatting, lint and types
# make clean  remove the virtual environment (runs, data and weights stay)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := outputs/demo
# Tests compute with small tensors, for which a second thread is no help: two processes of one thread each.
WORKERS ?= 2
TESTS ?= -m "not slow and not gpu and not slurm"

.PHONY: demo test lint clean

# One stamp for each set of packages, so that a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python train.py experiment=concat_id_toy run_name=demo ckpt=last trainer.max_steps=900 trainer.val_check_interval=300
	$(BIN)/python sample.py ckpt=$(DEMO) inputs=data/toy/held_out.txt num_videos=2 output=$(DEMO)/held_out
	$(BIN)/python evaluate.py videos=$(DEMO)/held_out training=$(DEMO) title='Concat-ID on drawn people it has never seen'
	@echo 'This was a short run. The whole one, python train.py experiment=concat_id_toy, reaches:'
	@$(BIN)/python benchmarks/common.py learning_concat_id_toy
	@echo 'Open $(DEMO)/held_out/evaluation/report.html'

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info
