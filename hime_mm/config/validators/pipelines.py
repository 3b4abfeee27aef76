# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What stands around the encryption in pipelines."""

import os
from collections.abc import Iterator, Sequence

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import find_manifest
from hime_mm.errors import HimeError, ManifestError
from hime_mm.transforms import Encrypt, EncryptedAugment, LoadEncryptedMeta, PatchReshuffle
from hime_mm.transforms.loading import check_coordinates

from ..findings import Finding, error, validator, warning
from ..hosts import CHANCE, EVALUATION, HARMLESS, LOADING, RESIZERS, SIZES
from ..plan import Node, Plan

ENCRYPTED_TWICE = 'would encrypt images that are encrypted already'


@validator
def chance(plan: Plan) -> Iterator[Finding]:
    """Encryption is not left to chance."""
    for node in plan.nodes:
        if node.short in CHANCE and plan.holds(node.child('transforms', None).place, Encrypt):
            yield error(
                node.place,
                f': a {node.name} around the encryption would let images pass in plain',
                'move the encryption out of it',
            )


@validator
def once(plan: Plan) -> Iterator[Finding]:
    """Images are encrypted once."""
    for line in plan.pipelines:
        if (line.encrypts and (line.loads or plan.wraps(line, LoadEncryptedMeta))) or (
            line.loads and plan.wraps(line, Encrypt)
        ):
            yield error(
                line.place,
                ENCRYPTED_TWICE,
                f'{LOADING} is for a data set that `hime encrypt` '
                'made, the other transforms of hime_mm for plain images. Leave one of '
                'them out',
            )
        for use in line.loads + line.encrypts:
            # The variables of a config file are not what is run.
            if plan.device is not None and '_dataloader.' in use.place:
                yield error(
                    plan.device.place,
                    f'would encrypt images that `{use.place}` has encrypted already',
                    'leave one of them out',
                )


@validator
def plain_data(plan: Plan) -> Iterator[Finding]:
    """Images that are taken for plain are not encrypted."""
    for line in plan.pipelines:
        if not line.of_data or line.loads or not line.steps or plan.wraps(line, LoadEncryptedMeta):
            continue
        folder = line.image_folder
        if folder is None or not os.path.isdir(folder):
            continue
        try:
            manifest = find_manifest(folder)
        except ManifestError:
            continue
        if line.encrypts or plan.device is not None:
            yield error(
                line.place,
                f'{ENCRYPTED_TWICE}: {folder} belongs to {manifest}',
                f'Use {LOADING} instead',
            )
        else:
            yield warning(
                line.place,
                f': {folder} belongs to {manifest}, so its images are encrypted',
                f'put `dict(type={LOADING!r})` behind LoadImageFromFile',
            )


@validator
def neighbours(plan: Plan) -> Iterator[Finding]:
    """Nothing changes encrypted images."""
    for line in plan.pipelines:
        for use in line.loads:
            others = [step for step in line.steps if step.key != use.key]
            # Mirroring an encrypted image is encrypting the mirrored one, but
            # where the pixels of all patches are permuted alike.
            flips = use.cipher is None or not use.cipher.shared
            yield from _changes(line.place, others, use.cipher, flips)
        if line.encrypts:
            last = line.encrypts[-1]
            yield from _changes(line.place, line.steps[last.key + 1 :], last.cipher, False)
        elif line.of_data and not line.loads and plan.wraps(line, LoadEncryptedMeta):
            yield from _changes(line.place, line.steps, None, True)


def _changes(
    place: str, steps: Sequence[Node], cipher: Cipher | None, flips: bool
) -> Iterator[Finding]:
    harmless = HARMLESS + ('RandomFlip',) * flips
    if cipher is not None and not cipher.keeps_grey:
        harmless += ('ColorJitter',)
    for step in steps:
        if step.is_a(EncryptedAugment):
            text = f': hime_mm.{step.short} is for training'
            if place.startswith(EVALUATION) and step.is_a(PatchReshuffle):
                yield error(
                    place,
                    f'{text}: what is predicted for the new order cannot be mapped '
                    'back, not with the key either',
                    'Leave it out here',
                )
            elif place.startswith(EVALUATION):
                yield warning(place, f'{text}; metrics are those of other pictures')
        elif not step.short.startswith(harmless):
            yield warning(
                place,
                f': {step.short} works on encrypted images',
                'Whatever resizes, flips, '
                'crops or recolours belongs before the encryption; what may follow it is named '
                'in docs/datasets.md',
            )


@validator
def original_coordinates(plan: Plan) -> Iterator[Finding]:
    """Coordinates of the original are asked for where somebody knows them."""
    for line in plan.pipelines:
        for use in line.loads:
            if use.coordinates != 'original':
                continue
            try:
                if use.manifest is not None:
                    check_coordinates(use.manifest, use.coordinates)
            except HimeError as wrong:
                yield error(use.place, f': {wrong}')
            if any(
                step.name.endswith('LoadAnnotations') and step.value.get('with_mask')
                for step in line.steps[use.key + 1 :]
            ):
                yield error(
                    use.place,
                    ": with `coordinates='original'` masks would be drawn at "
                    'the size of the original, but they are in encrypted coordinates',
                    'put LoadAnnotations before it',
                )


@validator
def sizes(plan: Plan) -> Iterator[Finding]:
    """What is encrypted on the device can be cut into patches."""
    use = plan.device
    if use is None or use.cipher is None or use.value.get('pad_size_divisor', 1) != 1:
        return
    side = use.cipher.patch_size
    for line in plan.pipelines:
        if not line.of_data or '_dataloader' not in line.place:
            continue
        size, name = Node('', None), ''
        for step in line.steps:
            key = SIZES.get(step.short)
            if key is not None and not step.value.get('keep_ratio'):
                size, name = step.child(key, step.value.get(key)), step.short
            elif key is not None or step.short.startswith(RESIZERS):
                size = Node('', None)
        sides = size.value if isinstance(size.value, (list, tuple)) else (size.value,)
        if any(isinstance(length, int) and length % side for length in sides):
            yield error(
                size.place,
                f'is {size.value}, which holds no whole number of patches of '
                f'side {side}, but `{use.place}` encrypts what {name} gives',
                f'choose a multiple, or set `pad_size_divisor={side}` there',
            )
