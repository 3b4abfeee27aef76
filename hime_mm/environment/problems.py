# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a problem is, and the remedies that are known."""

import re
from dataclasses import dataclass

from .installed import distribution_of

MMCV_OPS = (
    'build it with its ops: `MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary '
    'onedl-mmcv onedl-mmcv==2.3.6`, with torch, ninja, psutil and setuptools 80 installed '
    'before'
)

#: What an import says when it fails, and the remedy.
_REMEDIES = (
    (
        r'libGL|libgthread|libX\w+\.so',
        'without a display use the headless build: `pip uninstall opencv-python`, then `pip '
        'install --force-reinstall opencv-python-headless`; or install libGL (Debian, Ubuntu: `apt '
        'install libgl1`)',
    ),
    (r'pkg_resources', '`pip install "setuptools<81"`'),
    (
        r'numpy\.dtype size changed|numpy\.core\.multiarray|_ARRAY_API|compiled using NumPy 1',
        'it was built for another NumPy: upgrade it (pycocotools since 2.0.8 works with NumPy 2), '
        'or `pip install "numpy<2"`',
    ),
    (
        r'(MMCV|MMEngine)==\S+ is used but incompatible',
        'install the versions that go together: `pip install "onedl-mmcv>=2.3.6,<2.4" '
        '"onedl-mmengine>=0.10.12,<1"`',
    ),
    (
        r"No module named 'mmcv\._ext'|undefined symbol.*(c10|torch|at\b)|"
        r'mmcv/_ext.*cannot open shared object',
        MMCV_OPS,
    ),
    (
        r'operator torchvision::|torchvision/_C',
        'it was built for another torch: install the torchvision that belongs to your torch, both '
        'from the same index',
    ),
    (r'transformers', '`pip install "transformers<5"`, or uninstall it'),
)


@dataclass(frozen=True)
class Problem:
    """Something that breaks, or may.

    Args:
        level (str): ``'error'``, the owner's side does not work;
            ``'warning'``, something of the engineer's side does not;
            ``'note'``, good to know.
        name (str): Import name of the package.
        what (str): What is the matter.
        breaks (str): What breaks because of it.
        remedy (str): What to do.
    """

    level: str
    name: str
    what: str
    breaks: str
    remedy: str

    def __str__(self) -> str:
        return (
            f'{self.level}: {self.name}: {self.what}. Breaks: {self.breaks}. Remedy: {self.remedy}.'
        )


def remedy_of(distribution: str, error: str) -> str:
    """What to do about an import of a distribution that fails with ``error``."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, error):
            return remedy
    missing = re.search(r"No module named '(\w+)", error)
    if missing:
        return f'`pip install {distribution_of(missing[1])}`'
    return f'install it again: `pip install --force-reinstall {distribution}`'
