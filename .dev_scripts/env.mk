# The steps of `make env`, which setup_env.py runs with PYTHON set. Each leaves a stamp; it is
# repeated, with all later ones, once one of the files behind its colon is newer than that.
BIN := .venv/bin
PIP := $(BIN)/python -m pip
STAMPS := .venv/stamps
PARTS := cv2, torch, mmcv.ops, mmdet.models, mmpretrain.models, hime_mm.registry

$(STAMPS)/check: $(STAMPS)/package
	$(PIP) check
	$(BIN)/python -W ignore -c 'import $(PARTS)'
	@touch $@

# The links that an editable install makes may be gone while the stamp is there.
$(STAMPS)/package: $(STAMPS)/pinned requirements/core.txt requirements/mminstall.txt \
                   requirements/tests.txt requirements/docs.txt requirements/timm.txt setup.py \
                   pyproject.toml hime_mm/version.py $(if $(wildcard hime_mm/.mim/configs),,FORCE)
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# opencv-python and opencv-python-headless share the folder cv2. The headless files have to be the
# last: the others need libGL, which servers and containers do not have.
$(STAMPS)/pinned: $(STAMPS)/mmcv requirements/pinned.txt
	$(PIP) install -r requirements/pinned.txt -c requirements/constraints.txt
	$(PIP) install --no-deps --force-reinstall opencv-python-headless -c requirements/constraints.txt
	@touch $@

# Anew, as an installed one may be compiled for another torch.
$(STAMPS)/mmcv: $(STAMPS)/build requirements/mmcv.txt
	wheel=$$($(BIN)/python .dev_scripts/setup_env.py wheel) && \
	    $(PIP) install --no-deps --force-reinstall "$$wheel"
	@touch $@

# What mmcv's build imports, torch among it.
$(STAMPS)/build: $(STAMPS)/venv requirements/build.txt requirements/constraints.txt
	$(PIP) install -r requirements/build.txt -c requirements/constraints.txt
	@touch $@

$(STAMPS)/venv: .dev_scripts/env.mk
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@mkdir -p $(STAMPS)
	@touch $@

.PHONY: FORCE
