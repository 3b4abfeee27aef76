# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an audit was made with: the command that makes it again, and versions."""

import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hime_mm.images import Recipe
from hime_mm.images.augment import Augment
from hime_mm.images.preprocess import Preprocess
from hime_mm.version import __version__

from .settings import AuditSettings

#: Stand-ins for what is nobody's business: where things are, and the key.
PICTURES, DATA, KEY, AUDIT = 'PICTURES', 'DATA', 'OWNER.KEY', 'AUDIT'
PUBLIC, PEOPLE = 'PUBLIC', 'PEOPLE'
#: What figures may depend on beside hime_mm and Python, by distribution.
_PACKAGES = {
    'numpy': ('numpy',),
    'opencv': ('opencv-python-headless', 'opencv-python', 'opencv-contrib-python'),
    'scipy': ('scipy',),
    'scikit-image': ('scikit-image',),
}
#: Likewise of readers, where they are installed.
_READERS = {
    'dlib': ('dlib-bin', 'dlib'),
    'rapidocr': ('rapidocr-onnxruntime',),
    'onnxruntime': ('onnxruntime', 'onnxruntime-gpu'),
}


def versions() -> dict[str, str]:
    """What is installed of all that figures may depend on."""
    found = dict(hime_mm=__version__, python=platform.python_version())
    for name, distributions in (_PACKAGES | _READERS).items():
        there = [one for one in map(_version, distributions) if one]
        if there or name in _PACKAGES:
            found[name] = there[0] if there else 'unknown'
    return found


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ''


def pictures_command(recipes: Sequence[Recipe], settings: AuditSettings) -> str:
    """The command that makes an audit of plain pictures again.

    Args:
        recipes (Sequence[Recipe]): How they were encrypted. A command has one
            size of patches and one way to read pictures: where recipes differ
            in these, there are several, one a line.
        settings (AuditSettings): The rest.
    """
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        alike = (recipe.cipher.patch_size, sorted(recipe.preprocess.to_dict().items()))
        groups.setdefault(repr(alike), []).append(recipe)
    lines = []
    for number, group in enumerate(groups.values(), 1):
        words = [PICTURES]
        for recipe in group:
            words += ['-c', str(recipe.cipher)]
        words += ['--patch-size', str(group[0].cipher.patch_size)]
        words += _options(group[0].preprocess)
        out = AUDIT if len(groups) == 1 else f'{AUDIT}_{number}'
        lines.append(_line([*words, *_how(settings), '--out', out]))
    return '\n'.join(lines)


def dataset_command(key: bool, originals: bool, settings: AuditSettings) -> str:
    """The command that makes an audit of an encrypted data set again."""
    words = [DATA]
    words += ['--key', KEY] if key else []
    words += ['--originals', PICTURES] if originals else []
    return _line([*words, *_how(settings), '--out', AUDIT])


def _line(words: Sequence[str]) -> str:
    return shlex.join(['hime', 'audit', *words])


def _how(settings: AuditSettings) -> Iterator[str]:
    yield from ('-n', str(settings.num_pictures), '--seed', str(settings.seed))
    if settings.public is not None:
        yield from ('--public', PUBLIC)
    yield from ('--num-public', str(settings.num_public))
    if settings.people is not None:
        yield from ('--people', PEOPLE)
    for path in settings.onnx:
        yield from ('--onnx', os.path.basename(path))
    for name in sorted(settings.attacks):
        yield from ('--attack', name)


def _options(preprocess: Preprocess) -> Iterator[str]:
    """What differs from the defaults, as options of the command."""
    for one, default in ((preprocess, Preprocess()), (preprocess.augment, Augment())):
        for item in fields(one):
            value = getattr(one, item.name)
            if not item.metadata or value == getattr(default, item.name):
                continue
            yield (item.metadata['flags'] or ('--' + item.name.replace('_', '-'),))[0]
            if item.metadata['kind'] is not bool:
                yield _word(value, 'x' if item.metadata['kind'] == 'size' else ',')


def _word(value: Any, between: str) -> str:
    return between.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
