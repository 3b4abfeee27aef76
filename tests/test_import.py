# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from scripts import run_fresh


def test_import_alone_is_light():
    run_fresh(
        'import sys, hime_mm, hime_mm.ciphers, hime_mm.datasets\n'
        'bad = [m for m in sys.modules if m.split(".")[0] in '
        '("torch", "mmengine", "mmcv", "mmdet", "mmpretrain")]\n'
        'assert not bad, bad'
    )
