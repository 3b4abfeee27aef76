# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is installed, and whether it works."""

import platform
import re
import sys
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec

from .probes import TIMEOUT, run_probes

#: Import names of what each side needs, in the order of the report.
OWNER = ('numpy', 'cv2', 'cryptography', 'click', 'tqdm', 'hime_mm')
ENGINEER = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv._ext',
    'mmpretrain',
    'mmdet',
    'pycocotools',
    'timm',
    'transformers',
    'hime_mm.registry',
)
#: Without these a side is not complete; the others are for some models only.
REQUIRED = OWNER + ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'hime_mm.registry')
#: OpenMMLab's packages.
HOSTS = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet')
#: Distributions that provide an import name other than their own.
PROVIDERS = {
    'cv2': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
    'hime_mm': ('hime-mm',),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}
#: Parts of other packages, and what is ours: looked up with their whole.
PARTS = ('mmcv._ext', 'hime_mm.registry')


def distribution_of(name: str) -> str:
    """What to install for an import name."""
    return PROVIDERS.get(name, (name,))[0]


def _installed(name: str) -> list[tuple[str, str]]:
    """Distributions that provide an import name, with their versions."""
    found = []
    for candidate in PROVIDERS.get(name, (name,)):
        with suppress(metadata.PackageNotFoundError):
            found.append((candidate, metadata.version(candidate)))
    return found


def _requires(distribution: str, name: str) -> str | None:
    """The exact version of another package that a distribution asks for."""
    with suppress(metadata.PackageNotFoundError):
        for text in metadata.requires(distribution) or []:
            match = re.match(rf'{name}\s*\(?==\s*([^\s;)]+)', text)
            if match:
                return match[1]
    return None


def collect(timeout: float = TIMEOUT) -> dict:
    """Find out what is installed and whether it works.

    Args:
        timeout (float): Seconds for the imports of one process. Defaults to
            300.

    Returns:
        dict: The keys ``python``, ``platform``, ``executable``, ``packages``
        and ``torchvision_wants``, the torch version that torchvision asks
        for. A package has ``distributions``, a list of name and version, and
        where it is installed ``ok``, ``version``, ``error`` or ``remark``.
    """
    packages: dict[str, dict] = {}
    for name in OWNER + ENGINEER:
        if name not in PARTS:
            packages[name] = dict(distributions=_installed(name))
    # What is there without metadata, as in a checkout, is found by trying.
    try_out = [
        name
        for name in OWNER + ENGINEER
        if name in OWNER + PARTS or packages[name]['distributions'] or _findable(name)
    ]
    for part, whole in (('mmcv._ext', 'mmcv'), ('hime_mm.registry', 'mmengine')):
        if whole not in try_out:
            try_out.remove(part)
    for name, state in run_probes(try_out, timeout).items():
        packages.setdefault(name, dict(distributions=[])).update(state)
    for package in packages.values():
        if package['distributions'] and not package.get('version'):
            package['version'] = package['distributions'][0][1]
    return dict(
        python=platform.python_version(),
        platform=platform.platform(),
        executable=sys.executable,
        packages={name: packages[name] for name in OWNER + ENGINEER if name in packages},
        torchvision_wants=_requires('torchvision', 'torch'),
    )


def _findable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def is_there(package: dict | None) -> bool:
    """Whether a package of :func:`collect` was found, working or not."""
    return bool(package) and 'ok' in package


def engineer_installed(facts: dict) -> bool:
    """Whether there is anything of OpenMMLab's packages."""
    return any(is_there(facts['packages'].get(name)) for name in HOSTS)
