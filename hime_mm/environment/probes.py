# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What another process tries, and what asks it.

Every import is tried in a process of its own, so that one that crashes takes
nothing else with it.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from hime_mm.version import __version__

#: Seconds for all imports of one process.
TIMEOUT = 300


def _probe_cv2() -> dict:
    import cv2

    found = re.search(r'GUI:\s*(\w+)', cv2.getBuildInformation())
    gui = found[1] if found else ''
    return dict(
        version=cv2.__version__, remark='headless' if gui == 'NONE' else f'with windows {gui}'
    )


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
        raise RuntimeError('a picture was not the same after encryption, PNG and decryption')
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
    built = f'built with CUDA {cuda}' if cuda else 'built without CUDA'
    return dict(
        version=torch.__version__,
        cuda=cuda,
        devices=devices,
        broken=broken,
        remark=', '.join([*(devices or ['no GPU in use']), built]),
    )


def _probe_torchvision() -> dict:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return dict(version=torchvision.__version__)


def _probe_mmcv_ext() -> dict:
    import torch
    from mmcv.ops import get_compiling_cuda_version, nms

    boxes, scores = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.ones(1)
    nms(boxes, scores, 0.5)
    cuda, gpu_error = get_compiling_cuda_version(), None
    if torch.cuda.is_available():
        try:
            nms(boxes.cuda(), scores.cuda(), 0.5)
        except Exception as error:
            gpu_error = _first_line(error)
    remark = 'for the CPU only' if cuda == 'not available' else f'CUDA {cuda}'
    return dict(cuda=cuda, gpu_error=gpu_error, remark=f'ops {remark}')


def _probe_pycocotools() -> dict:
    import numpy as np
    from pycocotools import mask

    mask.encode(np.ones((2, 2), np.uint8, order='F'))
    return {}


def _probe_types() -> dict:
    """Whether the types of hime_mm resolve in a config."""
    from hime_mm.registry import MODELS, TRANSFORMS

    found = [
        name
        for registry, names in ((TRANSFORMS, ('Encrypt',)), (MODELS, ('PEViT', 'PEYOLOS')))
        for name in names
        if registry.get(name) is not None
    ]
    return dict(
        version=__version__, types=found, remark=', '.join(f'hime_mm.{name}' for name in found)
    )


_PROBES: dict[str, Callable[[], dict]] = {
    'cv2': _probe_cv2,
    'hime_mm': _probe_hime_mm,
    'torch': _probe_torch,
    'torchvision': _probe_torchvision,
    'mmcv._ext': _probe_mmcv_ext,
    'pycocotools': _probe_pycocotools,
    'hime_mm.registry': _probe_types,
}
#: What is imported of the others, beside themselves.
_MODULES = {
    'mmcv': ('mmcv.transforms',),
    'mmpretrain': ('mmpretrain.apis', 'mmpretrain.models'),
    'mmdet': ('mmdet.apis', 'mmdet.models'),
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
            module = import_module(name)
            for part in _MODULES.get(name, ()):
                import_module(part)
            # `click.__version__` warns, and will be gone.
            found = {} if name == 'click' else dict(version=getattr(module, '__version__', None))
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


_CHILD = (
    'import json, sys; sys.path[:] = json.loads(sys.argv[1]); '
    'from hime_mm.environment import probes; '
    'probes._probe_all(json.loads(sys.argv[2]))'
)


def run_probes(names: Sequence[str], timeout: float = TIMEOUT) -> dict[str, dict]:
    """Try imports in other processes; one that crashes is left out next.

    Of each name it is told whether it is ``ok``, and ``error`` or what was
    found.
    """
    found: dict[str, dict] = {}
    todo = list(names)
    while todo:
        command = [
            sys.executable,
            '-W',
            'ignore',
            '-c',
            _CHILD,
            json.dumps([os.path.abspath(path) for path in sys.path]),
            json.dumps(todo),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout
            )
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
        todo = [name for name in todo if name not in found]
        if todo:
            # Before the first import it is that one, after the last the next.
            culprit = begun if begun in todo else todo[0]
            found[culprit] = dict(ok=False, error=end)
            todo.remove(culprit)
    return found


def _how_it_ended(done: subprocess.CompletedProcess) -> str:
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
