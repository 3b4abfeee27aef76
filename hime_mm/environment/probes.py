# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is installed, and whether it works.

Imports are tried in a process of their own: one that crashes, hangs or ends it is a row of the
report, like one that raises.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

TIMEOUT = 300
OWNER = ('numpy', 'cv2', 'cryptography', 'click', 'tqdm', 'hime_mm')
ENGINEER = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv._ext', 'mmpretrain', 'mmdet')
ENGINEER += ('pycocotools', 'timm', 'transformers', 'hime_mm.registry')
#: What is tried, if not just the import: what shows that compiled code runs, and our types resolve.
_TRIED = {
    'hime_mm': 'from hime_mm.environment.probes import round_trip; round_trip()',
    'torch': 'import torch\nfor place in ["cpu", *range(torch.cuda.device_count())]: '
    'torch.ones(1, device=place).cpu().numpy()',
    'torchvision': 'import torch, torchvision\n'
    'torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)',
    'mmcv': 'import mmcv.transforms',
    'mmcv._ext': 'import torch; from mmcv.ops import nms\n'
    'for place in ["cpu"] + ["cuda"] * torch.cuda.is_available(): '
    'nms(torch.ones(1, 4, device=place), torch.ones(1, device=place), 0.5)',
    'mmpretrain': 'import mmpretrain.apis, mmpretrain.models',
    'mmdet': 'import mmdet.apis, mmdet.models; from hime_mm.registry import MODELS\n'
    'assert MODELS.get("PEYOLOS"), "hime_mm.PEYOLOS cannot be found"',
    'pycocotools': 'import pycocotools.mask',
    'hime_mm.registry': 'from hime_mm.registry import MODELS, TRANSFORMS\n'
    'assert MODELS.get("PEViT") and TRANSFORMS.get("Encrypt"), "hime_mm.PEViT cannot be found"',
}


def collect(timeout: float = TIMEOUT) -> dict:
    """Find out what is installed and whether it works.

    Returns:
        dict: ``python``, ``platform``, ``executable``; ``bounds``, what hime_mm asks of others and
        torchvision of torch (:func:`bounds_of`); ``packages`` by import name: ``distributions``, a
        list of name and version; ``ok``, None if it is not installed; ``version`` or ``error``.
    """
    packages = try_imports(OWNER + ENGINEER, timeout)
    providers = metadata.packages_distributions()
    for name, package in packages.items():
        found = package['distributions'] = []
        # On Python 3.10 only distributions with a top_level.txt are listed.
        for distribution in sorted({*providers.get(name, [name])}):
            with suppress(metadata.PackageNotFoundError):
                found.append((distribution, metadata.version(distribution) or '?'))
        package['version'] = package.get('version') or (found[0][1] if found else None)
    torch = [bound for bound in bounds_of('torchvision') if bound[0] == 'torch']
    return dict(
        python=platform.python_version(),
        platform=platform.platform(),
        executable=sys.executable,
        bounds=bounds_of('hime-mm', 'mminstall', 'timm') + torch,
        packages=packages,
    )


def bounds_of(distribution: str, *extras: str) -> list[tuple[str, str, str]]:
    """What a distribution's metadata asks for: names, each with ``>=``, ``<`` or ``==`` a version.

    ``packaging`` would read it, but an owner need not have that.
    """
    bounds = []
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(distribution) or ():
            requirement, _, marker = line.partition(';')
            extra = re.search(r'extra == .([\w-]+)', marker)
            name = re.match(r'[\w.-]+', requirement)
            if name and (extra is None or extra[1] in extras):
                found = re.findall(r'(>=|<|==)\s*(\d[\d.]*)', requirement)
                bounds += [(name[0], compare, version) for compare, version in found]
    return bounds


def try_imports(names: Sequence[str], timeout: float = TIMEOUT) -> dict[str, dict]:
    """Try imports in another process, and in a new one those after one that ends it."""
    code = (
        'import json, sys; sys.path[:] = json.loads(sys.argv[1]); '
        'from hime_mm.environment.probes import probe; probe(sys.argv[2:])'
    )
    paths = json.dumps([os.path.abspath(path) for path in sys.path])
    found: dict[str, dict] = {}
    while todo := [name for name in names if name not in found]:
        command = [sys.executable, '-W', 'ignore', '-c', code, paths, *todo]
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout
            )
            output, end = done.stdout, f'ended the process with status {done.returncode}'
            if done.returncode < 0:
                end = f'crashed the process with {signal.Signals(-done.returncode).name}'
            end += ''.join(
                f' ({line[:200]})'
                for line in done.stderr.decode(errors='replace').splitlines()[-1:]
            )
        except subprocess.TimeoutExpired as error:
            output, end = error.stdout or b'', f'did not end within {timeout:g} s'
        # Without what was cut off in the middle of a line.
        states = map(json.loads, output.rpartition(b'\n')[0].splitlines())
        found.update(zip(todo, states, strict=False))
        if rest := [name for name in todo if name not in found]:
            found[rest[0]] = dict(ok=False, error=end)
    return found


def probe(names: Sequence[str]) -> None:
    """Try imports in this process, which ends, and print a line of JSON for each."""
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # whatever the imports print
    for name in names:
        try:
            exec(_TRIED.get(name, f'import {name}'), {})
            module = sys.modules[name.partition('.')[0]]
            state = dict(ok=True, version=getattr(module, '__version__', None))
        except BaseException as error:  # also SystemExit and Rust's panics
            lines = str(error).strip().splitlines() or ['']
            # Compiled modules built for another NumPy say so further below.
            reason = next((line for line in lines if 'NumPy 1' in line), lines[0])
            state = dict(ok=False, error=f'{type(error).__name__}: {reason}'[:300].rstrip(': '))
            if isinstance(error, ModuleNotFoundError) and error.name == name and '.' not in name:
                state = dict(ok=None, error='it is not installed')
        print(json.dumps(state), file=out, flush=True)
    os._exit(0)  # before anything can crash or hang at the end


def round_trip() -> None:
    """Encrypt, store and decrypt a picture, as the commands do."""
    import numpy as np

    from hime_mm.ciphers import Cipher, Key
    from hime_mm.images.codec import decode_image, encode_image

    img = np.arange(32 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 48, 3)
    cipher = Cipher('shuffle')
    encrypted, _, drawn = cipher.encrypt(img, Key.generate().image_rng('doctor', 'picture.png'))
    if not np.array_equal(cipher.decrypt(decode_image(encode_image(encrypted)), drawn), img):
        raise RuntimeError('a picture was not the same after encryption, PNG and decryption')
