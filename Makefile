# make run    open the app on the cardiac sample; without a display, train on it headless and draw a picture
# make test   all tests, in a virtual screen; those of the window on PyQt6 and on PySide6
# make lint   ruff and typos

PYTHON ?= python3
BIN := .venv/bin
# a CPU build of torch on Linux: make run TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# what Qt's xcb platform and a virtual screen need on Debian and Ubuntu
SYSTEM := xvfb xauth libgl1 libegl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 \
	libxcb-shape0 libglib2.0-0 libdbus-1-3 libfontconfig1

# tests of the engine side by side; those of the window need the mouse for themselves
JOBS ?= 2

SCREEN := QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1400x1000x24"

.PHONY: run demo test lint picture system clean

run: system .venv/installed
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; \
	then $(BIN)/scribblemamba --sample cardiac; \
	else echo "no display: training on the sample without a window"; $(MAKE) --no-print-directory demo; fi

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/python -m trainer.fit sample_data/cardiac --out runs/demo --minutes 1
	for network in unet swinunet mambaunet ensemble; do \
	  $(BIN)/python -m trainer.predict --run runs/demo --images sample_data/cardiac/imagesTr \
	    --out runs/demo/$$network --network $$network || exit 1; done
	$(BIN)/python docs/picture.py runs/demo sample_data/cardiac runs/demo/picture.png
	$(BIN)/python -m trainer.evaluate --predictions runs/demo/ensemble --references sample_data/cardiac/denseTr
	@echo "the picture is runs/demo/picture.png"

test: system .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine -n $(JOBS)
	QT_API=pyqt6 PYTEST_QT_API=pyqt6 $(SCREEN) $(BIN)/python -m pytest tests/gui
	QT_API=pyside6 PYTEST_QT_API=pyside6 $(SCREEN) $(BIN)/python -m pytest tests/gui -m bindings

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos

picture: demo
	cp runs/demo/picture.png docs/picture.png

.venv/installed: pyproject.toml constraints.txt setup.py $(wildcard trainer/networks/scan/native/*)
	$(PYTHON) -c "import ensurepip, venv" || $(MAKE) --no-print-directory system SYSTEM=python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,export,formats]' --group dev
	touch $@

# installs what is missing where it may (root, or sudo without a password), else says what to install
system:
	@missing=$$(for p in $(SYSTEM); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -z "$$missing" ] || ! command -v apt-get >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	elif sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo apt-get install -y -qq $$missing; \
	else echo "please install, then try again: sudo apt-get install $$missing"; exit 1; fi

clean:
	rm -rf .venv build dist runs *.egg-info
