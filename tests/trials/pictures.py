# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Damaged picture files of all formats that are read, by `hime encrypt`: each encrypted or named

Every batch is one run with two workers. It comes to its end, every picture is
a file of the result or one that it names as missing, and no worker is at one
for more than five seconds.
"""

import io
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from owner_data import hime_env, photo
from picture_files import FILES, broken_apng, encoded
from PIL import Image

from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import HimeError
from hime_mm.images.codec import COLOR_TYPES

from .fuzzing import be_small
from .mutation import mutate_bytes, mutate_png
from .state import State

CASES = 100_000
UNIT = 'cases'
#: Files of a run, and seconds that it may take; what a worker may take for one.
BATCH, _RUN_SECONDS, PATIENCE = 4000, 1800, 5
#: The command shows so many of those that are missing.
_SHOWN = 20
#: Further ones that OpenCV tells by their content, whatever their names.
_SUFFIXES = ('.gif', '.jp2', '.avif', '.hdr', '.ras', '.pfm', '.pbm', '.ppm', '.pam')
#: Of Pillow, which writes kinds that OpenCV only reads.
_KINDS = {
    'animated png': dict(format='PNG', save_all=True),
    'animated webp': dict(format='WEBP', save_all=True),
    'animated gif': dict(format='GIF', save_all=True),
    'lzw tiff': dict(format='TIFF', compression='tiff_lzw'),
    'deflated tiff': dict(format='TIFF', compression='tiff_deflate'),
    'jpeg in tiff': dict(format='TIFF', compression='jpeg'),
    'pages': dict(format='TIFF', save_all=True),
    'bilevel tiff': dict(format='TIFF', compression='group4'),
    'gray alpha': dict(format='PNG'),
    'palette bmp': dict(format='BMP'),
    'cmyk jpeg': dict(format='JPEG'),
}
_MODES = {
    'bilevel tiff': '1',
    'gray alpha': 'LA',
    'palette bmp': 'P',
    'cmyk jpeg': 'CMYK',
}


@cache
def files() -> dict[str, bytes]:
    """A whole file of each kind."""
    found = dict(FILES)
    found['broken animated png'] = broken_apng()
    for suffix in _SUFFIXES:
        if cv2.haveImageWriter(f'x{suffix}'):
            gray = suffix == '.pbm'
            img = photo(37, 50, channels=1 if gray else 3)
            if suffix in ('.hdr', '.pfm'):
                img = img.astype(np.float32)
            found[suffix] = encoded(suffix, img)
    for name, options in _KINDS.items():
        first, *others = [
            Image.fromarray(photo(37, 50, seed)).convert(_MODES.get(name, 'RGB'))
            for seed in range(3)
        ]
        out = io.BytesIO()
        if options.get('save_all'):
            options = dict(options, append_images=others)
        first.save(out, **options)
        found[name] = out.getvalue()
    return found


def draw(case: int) -> tuple[str, bytes]:
    """What a damaged file is of, and what is in it."""
    rng = random.Random(f'pictures/{case}')
    name = rng.choice(sorted(files()))
    data = files()[name]
    mutate = mutate_bytes
    if data.startswith(b'\x89PNG') and rng.randrange(2):
        mutate = mutate_png
    return name, mutate(data, rng)


def name_of(case: int) -> str:
    kind = draw(case)[0].strip('.').replace(' ', '_')
    return f'{case:06d}_{kind}.png'


def encrypt(cases: Sequence[int], folder: Path) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Have the files of some cases encrypted, in one run.

    Returns:
        tuple: What came of each file; and what should not have, as numbers
        of cases, kinds of failures, and texts.
    """
    src, out, slow = folder / 'src', folder / 'out', folder / 'slow'
    for path in (src, out):
        shutil.rmtree(path, ignore_errors=True)
    slow.unlink(missing_ok=True)
    src.mkdir()
    names = {name_of(case): case for case in cases}
    for name, case in names.items():
        (src / name).write_bytes(draw(case)[1])
    colors = sorted(COLOR_TYPES)
    # A case alone is read as it is among others.
    color = colors[cases[0] // BATCH % len(colors)]
    command = [sys.executable, Path(__file__).with_name('watched_hime.py'), 'encrypt', 'folder']
    command += [src, out, '-c', 'center', '--color-type', color, '-j', '2', '-q']
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=hime_env(WATCH=f'{PATIENCE}:{slow}'),
            capture_output=True,
            text=True,
            errors='replace',
            timeout=_RUN_SECONDS,
            preexec_fn=be_small,
        )
    except subprocess.TimeoutExpired:
        return [], [(cases[0], f'no end after {_RUN_SECONDS} s', '')]
    failures = [
        (names[name], f'more than {PATIENCE} s', '')
        for name in (slow.read_text().splitlines() if slow.exists() else ())
    ]
    if done.returncode not in (0, 1) or 'Traceback' in done.stderr:
        failures.append((cases[0], f'a run ended with status {done.returncode}', done.stderr))
    try:
        manifest = Manifest.load(out)
    except HimeError as error:
        return [], [*failures, (cases[0], 'no result', f'{error} {done.stderr}')]
    written = {path.name for path in out.iterdir() if path.suffix == '.png'}
    skipped = {row['path']: row['reason'] for row in manifest.skipped}
    for name in names.keys() ^ (manifest.files.keys() | skipped.keys()):
        failures.append((names.get(name, cases[0]), 'is lost', name))
    if manifest.files.keys() & skipped.keys() or written != manifest.files.keys():
        failures.append((cases[0], 'other files than the manifest says', ''))
    if (told := missing(done.stderr)) != (sorted(skipped)[:_SHOWN], len(skipped)):
        failures.append((cases[0], 'other files are named as missing', f'{told} {done.stderr}'))
    return [_word(reason) for reason in skipped.values()] + ['encrypted'] * len(written), failures


def missing(errors: str) -> tuple[list[str], int]:
    """The files that the command says are missing, and how many it says there are."""
    shown = re.findall(r'^missing: (\S+): ', errors, re.M)
    more = re.search(r'^missing: and (\d+) more$', errors, re.M)
    return shown, len(shown) + int(more[1] if more else 0)


def _word(reason: str) -> str:
    return 'ended their process' if 'ended twice' in reason else 'refused'


def check(case: int, folder: Path) -> str:
    """One file alone; it stays in the folder."""
    words, failures = encrypt([case], folder)
    assert not failures, failures
    return words[0]


def steps(state: State, folder: Path) -> Iterator[None]:
    counts = state.facts.setdefault('counts', {})
    while not state.is_complete:
        stop = min((state.done // BATCH + 1) * BATCH, state.cases)
        words, failures = encrypt(range(state.done, stop), folder)
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        for failure in failures:
            state.add_failure(*failure)
        state.done = stop
        yield
