# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether all images that a run uses are encrypted, and alike."""

from collections.abc import Iterator

from ..findings import Finding, error, validator, warning
from ..hosts import LOADING
from ..plan import EVALUATION, Plan, Use, Way


@validator
def agreement(plan: Plan) -> Iterator[Finding]:
    """Images are encrypted on every way, or on none."""
    # What encrypts on the device encrypts all of them.
    encrypted = [] if plan.device is not None else [way for way in plan.ways if way.encrypted_by]
    for way in plan.ways if encrypted else ():
        if None in way.ends:
            other = next((one for one in encrypted if None not in one.ends), encrypted[0])
            extent = 'some plain' if way.encrypted_by else 'plain'
            note = f' ({way.note})' if way.note else ''
            yield error(
                way.place,
                f'gives the model {extent} images{note}, but {other.encrypted_by}',
                _remedy(way, other),
            )


def _remedy(way: Way, other: Way) -> str:
    if not other.loads and other.encrypts:
        cipher = f'`{other.encrypts[0].name}` as there, behind all else that changes images'
    else:
        cipher = f'images of `hime encrypt` with `{LOADING}`'
    remedy = f'use {cipher}, or encrypt nothing in this config'
    return f'{remedy}, or set `tta_pipeline=None`' if way.phase == 'tta' else remedy


@validator
def phases(plan: Plan) -> Iterator[Finding]:
    """Training and evaluation have the same cipher."""
    uses = [use for use in plan.uses if use.cipher is not None]
    trained = [use for use in uses if use.is_for('train')]
    ciphers = {use.cipher for use in trained}
    for use in uses if trained else ():
        if use.cipher in ciphers:
            continue
        text = f'has {use.origin}, another cipher than that of training, {trained[0].description}'
        remedy = 'encrypt all of them with the same one'
        yield from _mismatch(use, use.place, text, remedy, 'metrics are those of other pictures')


@validator
def box_modes(plan: Plan) -> Iterator[Finding]:
    """Where patches move, boxes of training and evaluation are in the same places."""
    uses = [use for use in plan.uses if use.online and use.cipher and use.cipher.shuffles]
    trained = {use.moves_boxes: use for use in uses if use.is_for('train')}
    for use in uses if trained else ():
        if use.moves_boxes not in trained:
            (other,) = trained.values()
            text = (
                f'is {use.value.get("box_mode", "patch")!r}, but that of training, '
                f'`{other.place}`, is {other.value.get("box_mode", "patch")!r}'
            )
            effect = 'boxes are judged where no model puts them'
            yield from _mismatch(use, f'{use.place}.box_mode', text, 'take one for all', effect)


def _mismatch(use: Use, place: str, text: str, remedy: str, effect: str) -> Iterator[Finding]:
    """An error where a run goes by what it measures, else a warning."""
    if use.phase in ('val', 'switch'):
        yield error(place, text, remedy)
    elif use.phase in EVALUATION:
        yield warning(place, text, effect)
