# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Ciphers from what is written: short forms, presets and config dicts.

No preset is called recommended: that is for measured leakage against measured
accuracy to decide.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from hime_mm.errors import CipherError

from .steps import STEPS, Step

#: Version of the written form of a cipher, and of what its steps compute.
CIPHER_VERSION = 1

_SHORT_FORM = re.compile(r'([a-z_]+)(\d{0,99})(?::(\w+))?')


@dataclass(frozen=True)
class Preset:
    """A cipher with a name.

    Args:
        steps (str): The cipher's short form.
        patch_size (int): Side of a patch in pixels.
        reference (str): Where the settings come from.
    """

    steps: str
    patch_size: int
    reference: str


_PAPER = 'Hao et al., "Human-imperceptible, Machine-recognizable Images", IJCAI 2025'

PRESETS: dict[str, Preset] = {
    'paper-rs': Preset('shuffle', 16, f'{_PAPER}, random shuffling (RS)'),
    'paper-mi': Preset('mix2', 16, f'{_PAPER}, mixing-up (MI), g = 2'),
}


def _kind(name: Any, written: Any) -> type[Step]:
    """The step of a name that was written like this."""
    if not isinstance(name, str) or name not in STEPS:
        raise CipherError(
            f'unknown cipher step {written!r}: choose from '
            f'{", ".join(sorted(STEPS))}, as in "mix2+shuffle", or a '
            f'preset from {", ".join(sorted(PRESETS))}'
        )
    return STEPS[name]


def build_step(step: Step | str | dict) -> Step:
    """Make a step from its short form, or from a dict; a step is given back.

    The dict has the step's name as ``type``, and its parameters.
    """
    if isinstance(step, Step):
        return step
    if isinstance(step, str):
        match = _SHORT_FORM.fullmatch(step.strip())
        name, number, option = match.groups() if match else ('', '', '')
        return _kind(name, step).parse(number, option or '')
    if not isinstance(step, dict) or 'type' not in step:
        raise TypeError(
            f'a cipher step must be a step, a string or a dict with the key `type`, got {step!r}'
        )
    args = dict(step)
    name = args.pop('type')
    kind = _kind(name, name)
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(map(str, args)) - set(known))
    if unknown:
        raise CipherError(f'the cipher step {name!r} takes {known}, got {unknown}')
    return kind(**args)


def build_steps(
    steps: str | Sequence[Step | str | dict], patch_size: int | None
) -> tuple[tuple[Step, ...], int]:
    """Make the steps and the patch size of a :class:`Cipher` from its arguments.

    Whether they go together is not looked at.
    """
    preset = PRESETS.get(steps) if isinstance(steps, str) else None
    if preset is not None:
        steps = preset.steps
    if patch_size is None:
        patch_size = 16 if preset is None else preset.patch_size
    if isinstance(patch_size, bool) or not isinstance(patch_size, int):
        raise TypeError(f'`patch_size` must be an int, got {type(patch_size).__name__}')
    if patch_size < 1:
        raise CipherError(f'`patch_size` must be positive, got {patch_size}')
    if isinstance(steps, str):
        steps = steps.split('+')
    elif not isinstance(steps, Sequence):
        raise TypeError(
            '`steps` must be a string such as "mix2+shuffle" or a '
            f'sequence of steps, got {type(steps).__name__}'
        )
    return tuple(map(build_step, steps)), patch_size


def read_written(cipher: Any, patch_size: int | None) -> tuple[Any, int | None]:
    """Steps, as they are written, and patch size of what :meth:`Cipher.build` takes."""
    if not isinstance(cipher, dict):
        return cipher, patch_size
    if not {'steps'} <= set(cipher) <= {'steps', 'patch_size', 'version'}:
        raise CipherError(
            f'a cipher dict has the keys `steps`, `patch_size` and `version`, got {sorted(cipher)}'
        )
    version = cipher.get('version', CIPHER_VERSION)
    if version != CIPHER_VERSION:
        raise CipherError(
            f'the cipher has version {version!r}, but this release of hime_mm '
            f'knows version {CIPHER_VERSION}: use the release that wrote it'
        )
    own = cipher.get('patch_size')
    if own is not None and patch_size is not None and own != patch_size:
        raise CipherError(
            f'the cipher has a patch size of {own}, but `patch_size` is {patch_size}: give it once'
        )
    return cipher['steps'], patch_size if own is None else own
