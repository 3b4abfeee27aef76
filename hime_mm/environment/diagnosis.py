# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What follows from what is installed: what breaks, and the remedy."""

import re
from collections.abc import Iterator

from .installed import (
    ENGINEER,
    HOSTS,
    OWNER,
    PARTS,
    REQUIRED,
    distribution_of,
    engineer_installed,
    is_there,
)
from .problems import MMCV_OPS, Problem, remedy_of

#: Oldest versions that are tested: requirements/core.txt.
_OLDEST = dict(click='8.1', cryptography='42', numpy='1.24', tqdm='4.65', cv2='4.8')
_PYTHONS = ((3, 10), (3, 12))
#: What breaks without a package, and without any other.
_BREAKS_ELSE = 'training and prediction'
_BREAKS = {
    'mmcv._ext': "MMDetection, which cannot be imported without mmcv's ops; classification works",
    'mmpretrain': 'hime_mm.PEViT, and with it classification and PEYOLOS',
    'mmdet': 'detection; classification works',
    'pycocotools': 'detection on COCO files',
    'timm': 'models that are taken from timm; ours are not',
    'transformers': 'models that are taken from transformers; ours are not',
}
_OPTIONAL = ('timm', 'transformers')


def diagnose(facts: dict, engineer: bool = False) -> list[Problem]:
    """What breaks, given what is installed.

    Args:
        facts (dict): From :func:`collect`.
        engineer (bool): Whether the engineer's side has to be there: what is
            missing of it is a problem then. Defaults to False.

    Returns:
        list[Problem]: Errors, then warnings, then notes.
    """
    problems = [*_python_problems(facts['python']), *_owner_problems(facts['packages'])]
    if engineer or engineer_installed(facts):
        problems += _engineer_problems(facts)
    order = ('error', 'warning', 'note')
    return sorted(problems, key=lambda problem: order.index(problem.level))


def _release(version: str | None) -> tuple[int, ...]:
    """The numbers a version begins with."""
    match = re.match(r'\d+(\.\d+)*', version or '')
    return tuple(map(int, match[0].split('.'))) if match else ()


def _ok(packages: dict[str, dict], *names: str) -> bool:
    return all(packages.get(name, {}).get('ok') for name in names)


def _warning(name: str, what: str, breaks: str, remedy: str) -> Problem:
    return Problem('warning', name, what, breaks, remedy)


def _python_problems(python: str) -> Iterator[Problem]:
    low, high = _PYTHONS
    release = _release(python)[:2]
    remedy = f'use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}'
    if release < low:
        yield Problem('error', 'python', f'Python {python} is too old', 'hime_mm itself', remedy)
    if release > high:
        yield Problem(
            'note',
            'python',
            f'Python {python} is not tested',
            "maybe packages of the engineer's side, which have no wheels for it",
            remedy,
        )


def _owner_problems(packages: dict[str, dict]) -> Iterator[Problem]:
    broken = [name for name in OWNER if not _ok(packages, name)]
    for name in OWNER:
        package = packages.get(name, {})
        names = [dist for dist, _ in package.get('distributions', ())]
        wanted = names[0] if names else distribution_of(name)
        if name == 'hime_mm' and name in broken and len(broken) > 1:
            continue  # A broken package breaks ours too: say it once.
        if name in broken:
            error = package.get('error', 'it is not installed')
            yield Problem(
                'error',
                name,
                error,
                'encryption, and with it every command',
                remedy_of(wanted, error),
            )
        elif _release(package.get('version')) < _release(_OLDEST.get(name)):
            yield Problem(
                'note',
                name,
                f'version {package["version"]} is older than {_OLDEST[name]}, the '
                'oldest one tested',
                'nothing that is known',
                f'`pip install -U {wanted}`',
            )
    found = packages.get('cv2', {}).get('distributions', ())
    if len(found) > 1:
        names = ' and '.join(f'{name} {version}' for name, version in found)
        alike = len({version for _, version in found}) == 1
        yield Problem(
            'note' if alike else 'warning',
            'cv2',
            f'{names} share the folder cv2: the one installed last counts',
            'cv2, once one of them is upgraded or removed',
            'keep them at one version, or uninstall all of them and install the one you need',
        )


def _engineer_problems(facts: dict) -> Iterator[Problem]:
    packages = facts['packages']
    for name in ENGINEER:
        if not is_there(packages.get(name)):
            yield from _missing(name)
        elif not _ok(packages, name):
            yield from _broken(name, packages)
    yield from _conflicts(packages)
    for name, error in packages.get('torch', {}).get('broken', {}).items():
        yield _warning(
            'torch',
            f'{name} does not compute: {error}',
            'training on this GPU',
            'install a torch that is built for it, and a driver that is new enough',
        )
    yield from _version_problems(packages, facts.get('torchvision_wants'))
    yield from _gpu_ops_problems(packages)
    if _ok(packages, 'hime_mm.registry', 'mmdet'):
        gone = {'Encrypt', 'PEViT', 'PEYOLOS'} - set(packages['hime_mm.registry']['types'])
        if gone:
            yield _warning(
                'hime_mm.registry',
                f'{", ".join(sorted(gone))} cannot be found',
                'configs that name them',
                'see the problems above',
            )


def _missing(name: str) -> Iterator[Problem]:
    if name in PARTS + _OPTIONAL:
        return
    together = '`pip install torch torchvision` in versions that belong together'
    remedy = dict(torch=together, torchvision=together, mmcv=MMCV_OPS).get(
        name, f'`pip install {distribution_of(name)}`'
    )
    breaks = (
        'some models of MMPretrain and MMDetection'
        if name == 'torchvision'
        else _BREAKS.get(name, _BREAKS_ELSE)
    )
    yield Problem(
        'warning' if name in REQUIRED else 'note', name, 'it is not installed', breaks, remedy
    )


def _broken(name: str, packages: dict[str, dict]) -> Iterator[Problem]:
    """A package that is there and cannot be imported."""
    error, distributions = packages[name]['error'], packages[name]['distributions']
    missing = re.search(r"No module named '([\w.]+)'", error)
    if missing and missing[1] in ENGINEER and missing[1] != name and not _ok(packages, missing[1]):
        return  # Its own line says it already.
    if name in PARTS and not _ok(packages, 'torch', 'mmengine', 'mmcv', 'mmpretrain'):
        return
    yield Problem(
        'note' if name in _OPTIONAL else 'warning',
        name,
        f'it cannot be imported: {error}',
        _BREAKS.get(name, _BREAKS_ELSE),
        remedy_of(distributions[0][0] if distributions else name, error),
    )


def _conflicts(packages: dict[str, dict]) -> Iterator[Problem]:
    """Distributions that install the same folder."""
    for name in HOSTS:
        names = [dist for dist, _ in packages.get(name, {}).get('distributions', ())]
        if len(names) > 1:
            yield _warning(
                name,
                f'{" and ".join(names)} install the same folder',
                f'{name}, whose files are a mixture',
                f'`pip uninstall {" ".join(names)}`, then install one of them again',
            )


def _gpu_ops_problems(packages: dict[str, dict]) -> Iterator[Problem]:
    """Whether mmcv's ops fit the GPU that torch uses."""
    torch = packages.get('torch', {})
    if not (_ok(packages, 'mmcv', 'mmcv._ext') and torch.get('devices')):
        return
    ext, cuda = packages['mmcv._ext'], torch.get('cuda')
    if ext['cuda'] == 'not available':
        what = "mmcv's ops are compiled for the CPU only"
    elif ext.get('gpu_error'):
        what = f"mmcv's ops fail on the GPU: {ext['gpu_error']}"
    elif _release(ext['cuda'])[:1] != _release(cuda)[:1]:
        what = f"mmcv's ops are compiled with CUDA {ext['cuda']}, torch with {cuda}"
    else:
        return
    yield _warning(
        'mmcv._ext',
        what,
        'on the GPU: NMS, RoIAlign and deformable attention of '
        'MMDetection; PEYOLOS needs none of them',
        f'{MMCV_OPS}, and FORCE_CUDA=1 and CUDA {cuda}',
    )


def _version_problems(
    packages: dict[str, dict], torchvision_wants: str | None
) -> Iterator[Problem]:
    """Versions that do not go together."""
    version = {name: package.get('version') for name, package in packages.items()}
    torch = _release(version.get('torch'))
    engine = packages.get('mmengine', {}).get('distributions', ())
    upstream = [number for name, number in engine if not name.startswith('onedl-')]
    if upstream and torch >= (2, 6) and _release(upstream[0]) <= (0, 10, 7):
        yield _warning(
            'mmengine',
            f'mmengine {upstream[0]} with torch {version["torch"]}, which loads '
            'checkpoints with `weights_only`',
            'resuming and testing of checkpoints (UnpicklingError); training works',
            '`pip uninstall mmengine`, then `pip install onedl-mmengine`, or torch below 2.6',
        )
    if _ok(packages, 'mmpretrain') and _release(version.get('mmcv')) >= (2, 4):
        yield _warning(
            'mmcv',
            f'version {version["mmcv"]} with mmpretrain {version["mmpretrain"]}, which was '
            'tested below 2.4',
            'maybe mmpretrain',
            '`pip install "onedl-mmcv>=2.3.6,<2.4"`',
        )
    if _release(version.get('transformers')) >= (5,):
        yield _warning(
            'transformers',
            f'version {version["transformers"]} is beyond 4',
            'the import of mmpretrain.models, and with it hime_mm.PEViT',
            '`pip install "transformers<5"`, or uninstall it',
        )
    if torchvision_wants and torch and _release(torchvision_wants) != torch:
        yield _warning(
            'torchvision',
            f'version {version.get("torchvision")} is built for torch '
            f'{torchvision_wants}, here is {version["torch"]}',
            "torchvision's compiled ops, and the models that use it",
            f'`pip install torch=={torchvision_wants}`, or the torchvision that belongs to your '
            'torch',
        )
    if (
        _ok(packages, 'pycocotools')
        and _release(version.get('numpy')) >= (2,)
        and () < _release(version['pycocotools']) < (2, 0, 8)
    ):
        yield Problem(
            'note',
            'pycocotools',
            f'version {version["pycocotools"]} with NumPy {version["numpy"]}',
            'maybe masks, as it is older than NumPy 2',
            '`pip install -U pycocotools`',
        )
