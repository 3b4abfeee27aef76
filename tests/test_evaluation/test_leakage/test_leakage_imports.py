# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import subprocess
import sys

import numpy as np
import pytest

from hime_mm.errors import HimeError
from hime_mm.evaluation import leakage


def test_what_is_imported():
    code = (
        'import sys, hime_mm.evaluation.leakage; '
        'heavy = "torch", "mmengine", "mmdet", "scipy", "skimage", "cv2", "hime_mm.attacks"; '
        'print([name for name in heavy if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    'module, package, call',
    [
        (
            'scipy.sparse',
            'SciPy',
            lambda: leakage.score_puzzle(np.array([[0, 0], [0, 1]]), np.array([[0, 0], [0, 1]])),
        ),
        (
            'skimage.metrics',
            'scikit-image',
            lambda: leakage.score_picture(*np.zeros((2, 16, 16), np.uint8)),
        ),
        (
            'skimage.filters',
            'scikit-image',
            lambda: leakage.score_picture(*np.zeros((2, 16, 16), np.uint8)),
        ),
    ],
)
def test_missing_packages(module, package, call, monkeypatch):
    call()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HimeError, match=rf"{package}, .*pip install 'hime-mm\[audit\]'"):
        call()


def test_names():
    assert len(set(leakage.__all__)) == len(leakage.__all__)
    assert all(hasattr(leakage, name) for name in leakage.__all__)
