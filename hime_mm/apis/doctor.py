# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is installed, whether it works, and what would break.

Every import is tried in a process of its own, so that one that crashes takes
nothing else with it.  Needs the standard library only.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from hime_mm.version import __version__

#: Import names of what each side needs, in the order of the report.
OWNER = ('numpy', 'cv2', 'cryptography', 'click', 'tqdm', 'hime_mm')
ENGINEER = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv._ext',
            'mmpretrain', 'mmdet', 'pycocotools', 'timm', 'transformers',
            'hime_mm.registry')
#: Without these a side is not complete; the others are for some models only.
REQUIRED = OWNER + ('torch', 'mmengine', 'mmcv', 'mmpretrain',
                    'hime_mm.registry')
#: Distributions that provide an import name other than their own.
PROVIDERS = {
    'cv2': ('opencv-python', 'opencv-python-headless',
            'opencv-contrib-python', 'opencv-contrib-python-headless'),
    'hime_mm': ('hime-mm', ),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}
#: Parts of other packages, and what is ours: looked up with their whole.
_PARTS = ('mmcv._ext', 'hime_mm.registry')
#: Oldest versions that are tested: requirements/core.txt.
_OLDEST = dict(click='8.1', cryptography='42', numpy='1.24', tqdm='4.65',
               cv2='4.8')
_PYTHONS = ((3, 10), (3, 12))
#: Seconds for all imports of one process.
_TIMEOUT = 300
_MMCV_OPS = ('build it with its ops: `MMCV_WITH_OPS=1 pip install '
             '--no-build-isolation --no-binary onedl-mmcv onedl-mmcv==2.3.6`, '
             'with torch, ninja, psutil and setuptools 80 installed before')

#: What an import says when it fails, and the remedy.
_REMEDIES = (
    (r'libGL|libgthread|libX\w+\.so',
     'without a display use the headless build: `pip uninstall opencv-python`,'
     ' then `pip install --force-reinstall opencv-python-headless`; or '
     'install libGL (Debian, Ubuntu: `apt install libgl1`)'),
    (r'pkg_resources', '`pip install "setuptools<81"`'),
    (r'numpy\.dtype size changed|numpy\.core\.multiarray|_ARRAY_API|'
     r'compiled using NumPy 1',
     'it was built for another NumPy: upgrade it (pycocotools since 2.0.8 '
     'works with NumPy 2), or `pip install "numpy<2"`'),
    (r'(MMCV|MMEngine)==\S+ is used but incompatible',
     'install the versions that go together: `pip install '
     '"onedl-mmcv>=2.3.6,<2.4" "onedl-mmengine>=0.10.12,<1"`'),
    (r"No module named 'mmcv\._ext'|undefined symbol.*(c10|torch|at\b)|"
     r'mmcv/_ext.*cannot open shared object', _MMCV_OPS),
    (r'operator torchvision::|torchvision/_C',
     'it was built for another torch: install the torchvision that belongs '
     'to your torch, both from the same index'),
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
        return (f'{self.level}: {self.name}: {self.what}. Breaks: '
                f'{self.breaks}. Remedy: {self.remedy}.')


# What the other process runs.


def _probe_numpy() -> dict:
    import numpy
    return dict(version=numpy.__version__)


def _probe_cv2() -> dict:
    import cv2
    found = re.search(r'GUI:\s*(\w+)', cv2.getBuildInformation())
    gui = found[1] if found else ''
    return dict(version=cv2.__version__,
                remark='headless' if gui == 'NONE' else f'with windows {gui}')


def _probe_hime_mm() -> dict:
    """Encrypt, store and decrypt, as `hime encrypt` does."""
    import numpy as np

    from hime_mm.ciphers import Cipher, Key
    from hime_mm.images.codec import decode_image, encode_image
    img = np.arange(32 * 48 * 3, dtype=np.uint32).astype(np.uint8)
    img = img.reshape(32, 48, 3)
    cipher = Cipher('shuffle')
    source = Key.generate().source('doctor', 'picture.png')
    encrypted, _, drawn = cipher.encrypt(img, source)
    stored = decode_image(encode_image(encrypted))
    if not np.array_equal(cipher.decrypt(stored, drawn), img):
        raise RuntimeError('a picture was not the same after encryption, '
                           'PNG and decryption')
    return dict(version=__version__, remark='encrypts and decrypts')


def _probe_torch() -> dict:
    import torch
    devices, broken = [], {}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            devices.append(torch.cuda.get_device_name(i))
            try:
                assert (torch.ones(2, device=f'cuda:{i}') + 1).sum() == 4
            except Exception as error:
                broken[devices[-1]] = _first_line(error)
    cuda = torch.version.cuda
    remark = ', '.join(devices) or 'no GPU in use'
    if cuda is None:
        remark += ', built without CUDA'
    else:
        remark += f', built with CUDA {cuda}'
    return dict(version=torch.__version__, cuda=cuda, devices=devices,
                broken=broken, remark=remark)


def _probe_torchvision() -> dict:
    import torch
    import torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return dict(version=torchvision.__version__)


def _probe_mmcv() -> dict:
    import mmcv
    import mmcv.transforms  # noqa: F401
    return dict(version=mmcv.__version__)


def _probe_mmcv_ext() -> dict:
    import torch
    from mmcv.ops import get_compiling_cuda_version, nms
    boxes, scores = torch.tensor([[0., 0., 2., 2.]]), torch.ones(1)
    nms(boxes, scores, 0.5)
    cuda, gpu_error = get_compiling_cuda_version(), None
    if torch.cuda.is_available():
        try:
            nms(boxes.cuda(), scores.cuda(), 0.5)
        except Exception as error:
            gpu_error = _first_line(error)
    remark = 'for the CPU only' if cuda == 'not available' else f'CUDA {cuda}'
    return dict(cuda=cuda, gpu_error=gpu_error, remark=f'ops {remark}')


def _probe_mmpretrain() -> dict:
    import mmpretrain
    import mmpretrain.apis
    import mmpretrain.models  # noqa: F401
    return dict(version=mmpretrain.__version__)


def _probe_mmdet() -> dict:
    import mmdet
    import mmdet.apis
    import mmdet.models  # noqa: F401
    return dict(version=mmdet.__version__)


def _probe_pycocotools() -> dict:
    import numpy as np
    from pycocotools import mask
    mask.encode(np.ones((2, 2), np.uint8, order='F'))
    return {}


def _probe_types() -> dict:
    """Whether the types of hime_mm resolve in a config."""
    from hime_mm.registry import MODELS, TRANSFORMS
    found = [
        name for registry, names in ((TRANSFORMS, ('Encrypt', )),
                                     (MODELS, ('PEViT', 'PEYOLOS')))
        for name in names if registry.get(name) is not None
    ]
    return dict(version=__version__, types=found, remark=', '.join(
        f'hime_mm.{name}' for name in found))


_PROBES: Dict[str, Callable[[], dict]] = {
    'numpy': _probe_numpy,
    'cv2': _probe_cv2,
    'hime_mm': _probe_hime_mm,
    'torch': _probe_torch,
    'torchvision': _probe_torchvision,
    'mmcv': _probe_mmcv,
    'mmcv._ext': _probe_mmcv_ext,
    'mmpretrain': _probe_mmpretrain,
    'mmdet': _probe_mmdet,
    'pycocotools': _probe_pycocotools,
    'hime_mm.registry': _probe_types,
}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ['']
    # Compiled modules built for another NumPy say so further below.
    told = next((line for line in lines if 'NumPy 1' in line), lines[0])
    return f'{type(error).__name__}: {told}'[:300].rstrip(': ')


def _probe(name: str) -> dict:
    """Try one import, in this process."""
    try:
        if name in _PROBES:
            found = _PROBES[name]()
        else:
            module = __import__(name)
            # `click.__version__` warns, and will be gone.
            found = {} if name == 'click' else dict(
                version=getattr(module, '__version__', None))
    except BaseException as error:  # also SystemExit and Rust's panics
        return dict(ok=False, error=_first_line(error))
    return dict(found, ok=True)


def _probe_all(names: Sequence[str]) -> None:
    """Try imports and write a line of JSON before and after each one."""
    # Whatever the imports print goes to stderr.
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in names:
        print(json.dumps(dict(start=name)), file=out, flush=True)
        found = _probe(name)
        print(json.dumps(dict(done=name, **found)), file=out, flush=True)


# What asks it.

_CHILD = ('import json, sys; sys.path[:] = json.loads(sys.argv[1]); '
          'from hime_mm.apis import doctor; '
          'doctor._probe_all(json.loads(sys.argv[2]))')


def _run_probes(names: Sequence[str],
                timeout: float = _TIMEOUT) -> Dict[str, dict]:
    """Try imports in other processes; one that crashes is left out next."""
    found: Dict[str, dict] = {}
    todo = list(names)
    while todo:
        command = [
            sys.executable, '-W', 'ignore', '-c', _CHILD,
            json.dumps([os.path.abspath(path) for path in sys.path]),
            json.dumps(todo)
        ]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL, timeout=timeout)
            lines, end = done.stdout, _how_it_ended(done)
        except subprocess.TimeoutExpired as error:
            lines = error.stdout or b''
            end = f'did not end within {timeout:g} s'
        begun = None
        # Without what was cut off in the middle of a line.
        whole = lines.decode(errors='replace').rpartition('\n')[0]
        for line in whole.splitlines():
            state = json.loads(line)
            begun = state.get('start', begun)
            if 'done' in state:
                found[state.pop('done')] = state
        if begun is None or begun in found:
            # Before the first import, or after the last.
            begun = next((name for name in todo if name not in found), None)
        if begun is not None and begun not in found:
            found[begun] = dict(ok=False, error=end)
        todo = [name for name in todo if name not in found]
    return found


def _how_it_ended(done: Any) -> str:
    """In words, how a process ended that should have gone on."""
    last = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
    said = f' ({last[0][:200]})' if last else ''
    if done.returncode < 0:
        number = -done.returncode
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f'signal {number}'
        return f'crashed the process with {name}{said}'
    return f'ended the process with status {done.returncode}{said}'


def _installed(name: str) -> List[Tuple[str, str]]:
    """Distributions that provide an import name, with their versions."""
    found = []
    for candidate in PROVIDERS.get(name, (name, )):
        try:
            found.append((candidate, metadata.version(candidate)))
        except metadata.PackageNotFoundError:
            pass
    return found


def _requires(distribution: str, name: str) -> Optional[str]:
    """The exact version of another package that a distribution asks for."""
    try:
        wanted = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for text in wanted:
        match = re.match(rf'{name}\s*\(?==\s*([^\s;)]+)', text)
        if match:
            return match[1]
    return None


def collect(timeout: float = _TIMEOUT) -> dict:
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
    packages: Dict[str, dict] = {}
    for name in OWNER + ENGINEER:
        if name not in _PARTS:
            packages[name] = dict(distributions=_installed(name))
    # What is there without metadata, as in a checkout, is found by trying.
    try_out = [
        name for name in OWNER + ENGINEER if name in OWNER + _PARTS
        or packages[name]['distributions'] or _findable(name)
    ]
    for part, whole in (('mmcv._ext', 'mmcv'),
                        ('hime_mm.registry', 'mmengine')):
        if whole not in try_out:
            try_out.remove(part)
    for name, state in _run_probes(try_out, timeout).items():
        packages.setdefault(name, dict(distributions=[])).update(state)
    for package in packages.values():
        if package['distributions'] and not package.get('version'):
            package['version'] = package['distributions'][0][1]
    return dict(
        python=platform.python_version(),
        platform=platform.platform(),
        executable=sys.executable,
        packages={
            name: packages[name]
            for name in OWNER + ENGINEER if name in packages
        },
        torchvision_wants=_requires('torchvision', 'torch'))


def _findable(name: str) -> bool:
    from importlib.util import find_spec
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# What follows from it.


def _release(version: Optional[str]) -> Tuple[int, ...]:
    """The numbers a version begins with."""
    match = re.match(r'\d+(\.\d+)*', version or '')
    return tuple(map(int, match[0].split('.'))) if match else ()


def _is_there(package: Optional[dict]) -> bool:
    return bool(package) and 'ok' in package


def engineer_installed(facts: dict) -> bool:
    """Whether there is anything of OpenMMLab's packages.

    Args:
        facts (dict): From :func:`collect`.
    """
    return any(_is_there(facts['packages'].get(name))
               for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmdet'))


def diagnose(facts: dict, engineer: bool = False) -> List[Problem]:
    """What breaks, given what is installed.

    Args:
        facts (dict): From :func:`collect`.
        engineer (bool): Whether the engineer's side has to be there: what is
            missing of it is a problem then. Defaults to False.

    Returns:
        list[Problem]: The owner's first.
    """
    problems = _owner_problems(facts)
    if engineer or engineer_installed(facts):
        problems += _engineer_problems(facts)
    order = ('error', 'warning', 'note')
    return sorted(problems, key=lambda problem: order.index(problem.level))


def _distribution(name: str) -> str:
    """What to install for an import name."""
    return PROVIDERS.get(name, (name, ))[0]


def _remedy(name: str, error: str) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, error):
            return remedy
    missing = re.search(r"No module named '(\w+)", error)
    if missing:
        return f'`pip install {_distribution(missing[1])}`'
    return f'install it again: `pip install --force-reinstall {name}`'


def _owner_problems(facts: dict) -> List[Problem]:
    problems = []
    low, high = _PYTHONS
    python = _release(facts['python'])[:2]
    if python < low:
        problems.append(Problem(
            'error', 'python', f'Python {facts["python"]} is too old',
            'hime_mm itself', f'use Python {low[0]}.{low[1]} to '
            f'{high[0]}.{high[1]}'))
    elif python > high:
        problems.append(Problem(
            'note', 'python', f'Python {facts["python"]} is not tested',
            "maybe packages of the engineer's side, which have no wheels for "
            'it', f'use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}'))
    for name in OWNER:
        package = facts['packages'].get(name, {})
        names = [dist for dist, _ in package.get('distributions', ())]
        wanted = names[0] if names else _distribution(name)
        if not package.get('ok'):
            error = package.get('error', 'it is not installed')
            # A broken package breaks ours too: say it once.
            others = [n for n in OWNER if n != 'hime_mm' and
                      not facts['packages'].get(n, {}).get('ok')]
            if name == 'hime_mm' and others:
                continue
            problems.append(Problem(
                'error', name, error, 'encryption, and with it every command',
                _remedy(wanted, error)))
        elif _release(package.get('version')) < _release(_OLDEST.get(name)):
            problems.append(Problem(
                'note', name, f'version {package["version"]} is older than '
                f'{_OLDEST[name]}, the oldest one tested',
                'nothing that is known', f'`pip install -U {wanted}`'))
    problems += _opencv_problems(facts['packages'].get('cv2', {}))
    return problems


def _opencv_problems(package: dict) -> List[Problem]:
    found = package.get('distributions', ())
    if len(found) < 2:
        return []
    names = ' and '.join(f'{name} {version}' for name, version in found)
    alike = len({version for _, version in found}) == 1
    return [Problem(
        'note' if alike else 'warning', 'cv2',
        f'{names} share the folder cv2: the one installed last counts',
        'cv2, once one of them is upgraded or removed',
        'keep them at one version, or uninstall all of them and install the '
        'one you need')]


def _engineer_problems(facts: dict) -> List[Problem]:
    packages = facts['packages']
    problems = []
    for name in ENGINEER:
        package = packages.get(name)
        if not _is_there(package):
            problems += _missing(name, packages)
        elif not package['ok']:
            problems += _broken(name, package, packages)
    problems += _conflicts(packages)
    problems += _torch_problems(facts)
    mmcv, ext = packages.get('mmcv', {}), packages.get('mmcv._ext', {})
    torch = packages.get('torch', {})
    if mmcv.get('ok') and ext.get('ok') and torch.get('devices'):
        problems += _gpu_ops_problems(ext, torch)
    types = packages.get('hime_mm.registry', {})
    if types.get('ok') and packages.get('mmdet', {}).get('ok'):
        gone = {'Encrypt', 'PEViT', 'PEYOLOS'} - set(types['types'])
        if gone:
            problems.append(Problem(
                'warning', 'hime_mm.registry',
                f'{", ".join(sorted(gone))} cannot be found',
                'configs that name them', 'see the problems above'))
    return problems


def _missing(name: str, packages: Dict[str, dict]) -> List[Problem]:
    breaks = dict(
        torch='training and prediction',
        torchvision='some models of MMPretrain and MMDetection',
        mmengine='training and prediction',
        mmcv='training and prediction',
        mmpretrain='hime_mm.PEViT, and with it classification and PEYOLOS',
        mmdet='detection; classification works',
        pycocotools='detection on COCO files').get(name)
    if breaks is None or name in _PARTS:
        return []
    remedy = f'`pip install {_distribution(name)}`'
    if name in ('torch', 'torchvision'):
        remedy = ('`pip install torch torchvision` in versions that belong '
                  'together')
    elif name == 'mmcv':
        remedy = _MMCV_OPS
    level = 'warning' if name in REQUIRED else 'note'
    return [Problem(level, name, 'it is not installed', breaks, remedy)]


def _broken(name: str, package: dict,
            packages: Dict[str, dict]) -> List[Problem]:
    """A package that is there and cannot be imported."""
    error = package['error']
    missing = re.search(r"No module named '([\w.]+)'", error)
    if missing and missing[1] != name:
        # Its own line says it already.
        other = packages.get(missing[1])
        if missing[1] in ENGINEER and (other is None or not other.get('ok')):
            return []
    causes = [n for n in ('torch', 'mmengine', 'mmcv', 'mmpretrain')
              if n != name and not packages.get(n, {}).get('ok')]
    if causes and name in _PARTS:
        return []
    breaks = {
        'mmcv._ext': 'MMDetection, which cannot be imported without '
                     'mmcv\'s ops; classification works',
        'mmpretrain': 'hime_mm.PEViT, and with it classification and PEYOLOS',
        'mmdet': 'detection; classification works',
        'pycocotools': 'detection on COCO files',
        'timm': 'models that are taken from timm; ours are not',
        'transformers': 'models that are taken from transformers; ours are '
                        'not',
    }.get(name, 'training and prediction')
    level = 'note' if name in ('timm', 'transformers') else 'warning'
    distributions = package['distributions']
    return [Problem(level, name, f'it cannot be imported: {error}', breaks,
                    _remedy(distributions[0][0] if distributions else name,
                            error))]


def _conflicts(packages: Dict[str, dict]) -> List[Problem]:
    """Distributions that install the same folder, and mixed lines."""
    problems = []
    for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmdet'):
        found = packages.get(name, {}).get('distributions', ())
        if len(found) > 1:
            names = [dist for dist, _ in found]
            problems.append(Problem(
                'warning', name,
                f'{" and ".join(names)} install the same folder',
                f'{name}, whose files are a mixture',
                f'`pip uninstall {" ".join(names)}`, then install one of '
                'them again'))
    return problems


def _torch_problems(facts: dict) -> List[Problem]:
    packages, problems = facts['packages'], []
    torch = packages.get('torch', {})
    release = _release(torch.get('version'))
    for name, error in torch.get('broken', {}).items():
        problems.append(Problem(
            'warning', 'torch', f'{name} does not compute: {error}',
            'training on this GPU', 'install a torch that is built for it, '
            'and a driver that is new enough'))
    engine = packages.get('mmengine', {}).get('distributions', ())
    upstream = [v for name, v in engine if not name.startswith('onedl-')]
    if upstream and release >= (2, 6) and _release(upstream[0]) <= (0, 10, 7):
        problems.append(Problem(
            'warning', 'mmengine',
            f'mmengine {upstream[0]} with torch {torch["version"]}, which '
            'loads checkpoints with `weights_only`',
            'resuming and testing of checkpoints (UnpicklingError); training '
            'works', '`pip uninstall mmengine`, then `pip install '
            'onedl-mmengine`, or torch below 2.6'))
    mmcv = packages.get('mmcv', {}).get('version')
    pretrain = packages.get('mmpretrain', {})
    if _is_there(pretrain) and pretrain['ok'] and _release(mmcv) >= (2, 4):
        problems.append(Problem(
            'warning', 'mmcv', f'version {mmcv} with mmpretrain '
            f'{pretrain["version"]}, which was tested below 2.4',
            'maybe mmpretrain', '`pip install "onedl-mmcv>=2.3.6,<2.4"`'))
    transformers = packages.get('transformers', {}).get('version')
    if _release(transformers) >= (5, ):
        problems.append(Problem(
            'warning', 'transformers', f'version {transformers} is beyond 4',
            'the import of mmpretrain.models, and with it hime_mm.PEViT',
            '`pip install "transformers<5"`, or uninstall it'))
    wants = facts.get('torchvision_wants')
    vision = packages.get('torchvision', {})
    if wants and release and _release(wants) != release:
        problems.append(Problem(
            'warning', 'torchvision', f'version {vision.get("version")} is '
            f'built for torch {wants}, here is {torch["version"]}',
            'torchvision\'s compiled ops, and the models that use it',
            f'`pip install torch=={wants}`, or the torchvision that belongs '
            'to your torch'))
    numpy = packages.get('numpy', {}).get('version')
    coco = packages.get('pycocotools', {})
    if (coco.get('ok') and _release(numpy) >= (2, )
            and () < _release(coco.get('version')) < (2, 0, 8)):
        problems.append(Problem(
            'note', 'pycocotools', f'version {coco["version"]} with NumPy '
            f'{numpy}', 'maybe masks, as it is older than NumPy 2',
            '`pip install -U pycocotools`'))
    return problems


def _gpu_ops_problems(ext: dict, torch: dict) -> List[Problem]:
    """Whether mmcv's ops fit the GPU that torch uses."""
    breaks = ('on the GPU: NMS, RoIAlign and deformable attention of '
              'MMDetection; PEYOLOS needs none of them')
    remedy = f'{_MMCV_OPS}, and FORCE_CUDA=1 and CUDA {torch.get("cuda")}'
    if ext['cuda'] == 'not available':
        return [Problem('warning', 'mmcv._ext',
                        "mmcv's ops are compiled for the CPU only", breaks,
                        remedy)]
    if ext.get('gpu_error'):
        return [Problem('warning', 'mmcv._ext', "mmcv's ops fail on the GPU: "
                        f'{ext["gpu_error"]}', breaks, remedy)]
    if _release(ext['cuda'])[:1] != _release(torch.get('cuda'))[:1]:
        return [Problem('warning', 'mmcv._ext',
                        f"mmcv's ops are compiled with CUDA {ext['cuda']}, "
                        f'torch with {torch.get("cuda")}', breaks, remedy)]
    return []


# What a person reads.


def check_environment(engineer: bool = False,
                      timeout: float = _TIMEOUT) -> dict:
    """Everything at once.

    Args:
        engineer (bool): Whether the engineer's side has to work. Defaults to
            False.
        timeout (float): See :func:`collect`. Defaults to 300.

    Returns:
        dict: ``facts`` from :func:`collect`; ``problems``, a list of dicts
        with the fields of :class:`Problem`; ``owner`` and ``engineer``,
        whether the side works, the latter None where it is not installed.
    """
    facts = collect(timeout)
    problems = diagnose(facts, engineer)
    levels = {problem.level for problem in problems}
    installed: Optional[bool] = None
    if engineer or engineer_installed(facts):
        installed = not any(problem.level == 'warning'
                            for problem in problems) and all(
            facts['packages'].get(name, {}).get('ok')
            for name in REQUIRED)
    return dict(
        facts=facts,
        problems=[asdict(problem) for problem in problems],
        owner='error' not in levels,
        engineer=installed)


def format_report(report: dict) -> str:
    """The report as text.

    Args:
        report (dict): From :func:`check_environment`.

    Returns:
        str: A table, the problems and a conclusion for each side.
    """
    facts = report['facts']
    lines = [
        f'hime_mm {__version__}',
        f'Python {facts["python"]} ({facts["executable"]})',
        f'{facts["platform"]}'
    ]
    for title, names in (("Owner's side", OWNER),
                         ("Engineer's side", ENGINEER)):
        if names is ENGINEER and not any(
                _is_there(facts['packages'].get(name)) for name in names):
            continue
        rows = [_row(name, facts['packages'].get(name)) for name in names]
        rows = [row for row in rows if row]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += ['', title]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]
            lines.append('  ' + '  '.join([*cells, row[3]]).rstrip())
    problems = [Problem(**state) for state in report['problems']]
    if problems:
        lines += ['', *map(str, problems)]
    lines += ['', "The owner's side works: `hime encrypt` can be used here."
              if report['owner'] else
              "The owner's side does not work here: see the errors above."]
    if report['engineer'] is None:
        lines.append("The engineer's side is not installed, and not needed to "
                     'encrypt.')
    elif report['engineer']:
        lines.append("The engineer's side works.")
    else:
        lines.append("Something of the engineer's side does not work: see "
                     'above.')
    return '\n'.join(lines)


def _row(name: str, package: Optional[dict]) -> Optional[List[str]]:
    """Name, version, state and remark of a package."""
    if package is None or not _is_there(package):
        if name in _PARTS or name == 'transformers':
            return None
        return [name, '-', 'missing', '']
    remarks = [package.get('remark', '')] if package['ok'] else []
    names = [dist for dist, _ in package['distributions']]
    if names and names != [name]:
        remarks.insert(0, 'from ' + ' and '.join(names))
    return [
        name, str(package.get('version') or '-'),
        'ok' if package['ok'] else 'FAILS',
        ', '.join(remark for remark in remarks if remark)
    ]
