# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What follows from what is installed: what breaks and the remedy, and a report of it all."""

import operator
import re
from collections.abc import Iterator

from hime_mm.version import __version__

from .probes import ENGINEER, OWNER, TIMEOUT, collect

LEVELS = ('error', 'warning', 'note')
#: What of the engineer's side works without a package. Some need not even be told.
_WITHOUT = {
    'torchvision': 'most models',
    'mmcv._ext': 'classification',
    'mmdet': 'classification',
    'pycocotools': 'all but COCO files',
    'timm': '',
    'transformers': '',
}
_INSTALL = dict(cv2='opencv-python', hime_mm='hime-mm', mmdet='onedl-mmdetection')
_INSTALL.update({name: f'onedl-{name}' for name in ('mmengine', 'mmpretrain')})
_OPS = (
    'build it with its ops: `MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary '
    'onedl-mmcv onedl-mmcv==2.3.6`, with torch, ninja, psutil and setuptools 80 installed before, '
    "and for a GPU torch's CUDA and FORCE_CUDA=1"
)
#: What an import says when it fails, and the remedy.
_REMEDIES = {
    r'libGL|libgthread|libX\w+\.so': 'without a display use the headless build: `pip uninstall '
    'opencv-python`, then `pip install --force-reinstall opencv-python-headless`',
    r'pkg_resources': '`pip install "setuptools<81"`',
    r'numpy\.(dtype size|core\.multi)|_ARRAY_API|NumPy 1|Numpy is not available': 'it was built '
    'for another NumPy: upgrade it, or `pip install "numpy<2"`',
    r'(MMCV|MMEngine)==\S+ is used': '`pip install "onedl-mmcv>=2.3.6,<2.4" "onedl-mmengine<1"`',
    r'installedmmcv$|mmcv[./]_ext|undefined symbol|implementation for device': _OPS,
    r'no kernel image|driver': 'install a torch, and build an mmcv, that are made for this GPU',
    r'torchvision::|torchvision/_C': 'install the torchvision that belongs to your torch',
    r'transformers': '`pip install "transformers<5"`, or uninstall it',
}
#: Distributions that do not go together, what is the matter, and the remedy.
_CONFLICTS = (
    (
        [('transformers', '>=', '5')],
        'breaks the import of mmpretrain.models, and with it hime_mm.PEViT',
        '`pip install "transformers<5"`, or uninstall it',
    ),
    (
        [('mmengine', '<', '0.10.8'), ('torch', '>=', '2.6')],
        'cannot resume or test a checkpoint, which this torch loads with `weights_only`',
        '`pip uninstall mmengine`, then `pip install onedl-mmengine`; or torch below 2.6',
    ),
)
#: Python, torch, torchvision and mmcv of the sets that were checked, mmcv 2.1 being upstream's.
_CHECKED = [f'3.{minor} 2.11 0.26 {mmcv}' for minor in (10, 11, 12) for mmcv in ('2.3', '2.1')]
_COMPARE = {'>=': operator.ge, '<': operator.lt, '==': operator.eq}


def check_environment(engineer: bool = False, timeout: float = TIMEOUT) -> dict:
    """Find out what is installed here, whether it works and what would break.

    Args:
        engineer (bool): Whether the engineer's side has to work. Defaults to False.
        timeout (float): Seconds for the imports of one process. Defaults to 300.

    Returns:
        dict: ``facts`` from :func:`collect`; ``problems`` from :func:`diagnose`; ``owner`` and
        ``engineer``, whether the side works, the latter None where it is not installed.
    """
    facts = collect(timeout)
    problems = diagnose(facts, engineer)
    levels = {problem['level'] for problem in problems}
    works = not levels & {'error', 'warning'} if engineer or _has_engineer(facts) else None
    return dict(facts=facts, problems=problems, owner='error' not in levels, engineer=works)


def diagnose(facts: dict, engineer: bool = False) -> list[dict]:
    """What breaks, given what :func:`collect` found, the worst first.

    Returns:
        list[dict]: Each with ``level``, ``'error'`` if it is the owner's side that does not work,
        ``'warning'`` if the engineer's, else ``'note'``; ``name``, ``what`` and ``remedy``.
    """
    names = OWNER + ENGINEER if engineer or _has_engineer(facts) else OWNER
    packages = {name: facts['packages'][name] for name in names}
    found = [*_failures(packages), *_conflicts(packages, facts['bounds'])]
    have = [packages.get(name, {}).get('version') for name in ('torch', 'torchvision', 'mmcv')]
    have = ['.'.join(version.split('.')[:2]) for version in [facts['python'], *have] if version]
    if len(have) == 4 and ' '.join(have) not in _CHECKED:
        what = 'Python {}, torch {}, torchvision {} and mmcv {} are no set that was checked'
        remedy = f'if something fails, take one of {", ".join(_CHECKED)}'
        found.append(('note', 'torch', what.format(*have), remedy))
    found.sort(key=lambda problem: LEVELS.index(problem[0]))
    return [dict(zip(('level', 'name', 'what', 'remedy'), p, strict=True)) for p in found]


def _has_engineer(facts: dict) -> bool:
    hosts = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet')
    return any(facts['packages'][name]['ok'] is not None for name in hosts)


def _failures(packages: dict[str, dict]) -> Iterator[tuple[str, str, str, str]]:
    """Packages that are missing or fail; not those that fail because of another."""
    broken = {name: package for name, package in packages.items() if not package['ok']}
    reported: set[str] = set()
    for name, package in broken.items():
        error, missing = package['error'], package['ok'] is None
        module = re.search(r"No module named '([\w.]+)'", error)
        cause = module[1] if module else name
        if cause != name and cause in broken or error in reported:
            continue
        without = _WITHOUT.get(name)
        if missing and without == '':
            continue
        reported |= set() if missing else {error}
        level = 'note' if without == '' or missing and without else 'warning'
        what = f'{error}; without it works: {without}' if without else error
        install = '' if missing or module else '--force-reinstall '
        install += _INSTALL.get(cause, cause.partition('.')[0])
        remedies = [remedy for text, remedy in _REMEDIES.items() if re.search(text, error + cause)]
        remedies.append(f'`pip install {install}`')
        yield 'error' if name in OWNER else level, name, what, remedies[0]


def _conflicts(packages: dict[str, dict], bounds: list) -> Iterator[tuple[str, str, str, str]]:
    """Distributions and versions that do not go together."""
    installed = {}
    for name, package in packages.items():
        found = package['distributions']
        installed.update({distribution: (name, version) for distribution, version in found})
        # The two of OpenCV stay apart while they are the same.
        if len(found) > 1 and (name != 'cv2' or len({version for _, version in found}) > 1):
            what = f'{" and ".join(map(" ".join, found))} install the same folder'
            remedy = 'uninstall all of them, and install the one you need'
            yield 'warning', name, what, remedy

    def holds(distribution: str, compare: str, bound: str) -> bool:
        return _COMPARE[compare](_release(installed[distribution][1]), _release(bound))

    for distribution, compare, bound in bounds:
        if distribution in installed and not holds(distribution, compare, bound):
            name, version = installed[distribution]
            what = f'{distribution} {version} is installed, {compare}{bound} is asked for'
            remedy = f'`pip install "{distribution}{compare}{bound}"`, or what fits this one'
            # hime_mm asks for what is tested, torchvision for the only torch that it works with.
            yield 'warning' if compare == '==' else 'note', name, what, remedy
    for conditions, matter, remedy in _CONFLICTS:
        if all(c[0] in installed and holds(*c) for c in conditions):
            versions = ' with '.join(f'{c[0]} {installed[c[0]][1]}' for c in conditions)
            yield 'warning', installed[conditions[0][0]][0], f'{versions} {matter}', remedy


def _release(version: str) -> list[int]:
    numbers = re.findall(r'\d+', re.match(r'[\d.]*', version)[0])
    return [*map(int, numbers), 0, 0, 0, 0][:4]


def format_report(report: dict) -> str:
    """The report of :func:`check_environment` as text: a table, the problems, a conclusion."""
    facts = report['facts']
    works = {None: 'is not installed', True: 'works', False: 'does not work'}
    lines = ['hime_mm {}, Python {python} ({executable}), {platform}'.format(__version__, **facts)]
    for side, names in (('owner', OWNER), ('engineer', ENGINEER)):
        lines += ['', f"The {side}'s side {works[report[side]]}."]
        for name in names if report[side] is not None else ():
            package = facts['packages'][name]
            state = {None: 'missing', True: 'ok', False: 'FAILS'}[package['ok']]
            found = ', '.join(distribution for distribution, _ in package['distributions'])
            lines.append(f'  {name:16}  {package["version"] or "-":13}  {state:7}  {found}')
    problems = [
        '{level}: {name}: {what}. Remedy: {remedy}.'.format(**p) for p in report['problems']
    ]
    return '\n'.join(lines + [''] * bool(problems) + problems)
