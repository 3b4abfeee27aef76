# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_import_alone_is_light():
    code = (
        'import sys, hime_mm, hime_mm.ciphers, hime_mm.datasets\n'
        'bad = [m for m in sys.modules if m.split(".")[0] in '
        '("torch", "mmengine", "mmcv", "mmdet", "mmpretrain")]\n'
        'assert not bad, bad'
    )
    subprocess.run(
        [sys.executable, '-c', code],
        check=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
