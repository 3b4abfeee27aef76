# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Steps from what is written: short forms, presets and config dicts."""

import re
from dataclasses import fields
from typing import Any, Optional, Sequence, Tuple, Union

from hime_mm.errors import CipherError
from .presets import PRESETS
from .steps import STEPS, Step

#: Version of the written form of a cipher, and of what its steps compute.
CIPHER_VERSION = 1

_SHORT_FORM = re.compile(
    r'(?P<name>[a-z_]+)(?P<number>\d{0,99})(:(?P<option>\w+))?')


def build_step(step: Union[Step, str, dict]) -> Step:
    """Make a step from its short form, or from a dict with its name as
    ``type`` and its parameters; a step is given back."""
    if isinstance(step, Step):
        return step
    if isinstance(step, str):
        match = _SHORT_FORM.fullmatch(step.strip())
        if match is None or match['name'] not in STEPS:
            raise CipherError(f'unknown cipher step {step!r}: choose from '
                              f'{sorted(STEPS)}, as in "mix2+shuffle", or a '
                              f'preset from {sorted(PRESETS)}')
        return STEPS[match['name']].parse(match['number'],
                                          match['option'] or '')
    if not isinstance(step, dict) or 'type' not in step:
        raise TypeError('a cipher step must be a step, a string or a dict '
                        f'with the key `type`, got {step!r}')
    args = dict(step)
    name = args.pop('type')
    if not isinstance(name, str) or name not in STEPS:
        raise CipherError(f'unknown cipher step {name!r}: choose from '
                          f'{sorted(STEPS)}')
    known = [field.name for field in fields(STEPS[name])]
    unknown = sorted(set(map(str, args)) - set(known))
    if unknown:
        raise CipherError(f'the cipher step {name!r} takes {known}, got '
                          f'{unknown}')
    return STEPS[name](**args)


def build_steps(steps: Union[str, Sequence[Union[Step, str, dict]]],
                patch_size: Optional[int]) -> Tuple[Tuple[Step, ...], int]:
    """Make the steps and the patch size of a :class:`Cipher` from its
    arguments, without a look at whether they go together."""
    preset = PRESETS.get(steps) if isinstance(steps, str) else None
    if preset is not None:
        steps = preset.steps
    if patch_size is None:
        patch_size = preset.patch_size if preset is not None else 16
    if isinstance(patch_size, bool) or not isinstance(patch_size, int):
        raise TypeError('`patch_size` must be an int, got '
                        f'{type(patch_size).__name__}')
    if patch_size < 1:
        raise CipherError(f'`patch_size` must be positive, got {patch_size}')
    if isinstance(steps, str):
        steps = steps.split('+')
    elif not isinstance(steps, Sequence):
        raise TypeError('`steps` must be a string such as "mix2+shuffle" or a '
                        f'sequence of steps, got {type(steps).__name__}')
    return tuple(map(build_step, steps)), patch_size


def read_written(cipher: Any, patch_size: Optional[int]
                 ) -> Tuple[Any, Optional[int]]:
    """Steps, as they are written, and patch size of what
    :meth:`Cipher.build` takes, a dict among others."""
    if not isinstance(cipher, dict):
        return cipher, patch_size
    unknown = set(cipher) - {'version', 'steps', 'patch_size'}
    if unknown or 'steps' not in cipher:
        raise CipherError('a cipher dict has the keys `steps`, `patch_size` '
                          f'and `version`, got {sorted(cipher)}')
    version = cipher.get('version', CIPHER_VERSION)
    if version != CIPHER_VERSION:
        raise CipherError(
            f'the cipher has version {version!r}, but this release of hime_mm '
            f'knows version {CIPHER_VERSION}: use the release that wrote it')
    own = cipher.get('patch_size')
    if own is not None and patch_size is not None and own != patch_size:
        raise CipherError(f'the cipher has a patch size of {own}, but '
                          f'`patch_size` is {patch_size}: give it once')
    return cipher['steps'], patch_size if own is None else own
