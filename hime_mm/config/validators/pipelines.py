# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What stands around the encryption in pipelines."""

from collections.abc import Iterator, Sequence

from hime_mm.ciphers import Cipher
from hime_mm.errors import HimeError
from hime_mm.transforms import Encrypt, EncryptedAugment, PatchReshuffle
from hime_mm.transforms.loading import check_coordinates

from ..findings import Finding, error, validator, warning
from ..hosts import CHANCE, HARMLESS, LOADING, MAYBE, RESIZERS, SIZES
from ..plan import EVALUATION, Node, Plan, Way
from ..ways import flatten

ENCRYPTED_TWICE = 'would encrypt images that are encrypted already'


@validator
def chance(plan: Plan) -> Iterator[Finding]:
    """Encryption is not left to chance."""
    for node in plan.used:
        if node.short not in CHANCE:
            continue
        parts = node.child('transforms', node.value.get('transforms')).children()
        encrypting = [plan.holds(part.place, Encrypt) for part in parts]
        if any(encrypting) and (node.short in MAYBE or not all(encrypting)):
            yield error(
                node.place,
                f': a {node.name} around the encryption would let images pass in plain',
                'move the encryption out of it',
            )


@validator
def once(plan: Plan) -> Iterator[Finding]:
    """Images are encrypted once."""
    for way in plan.ways:
        if way.loads and way.encrypts:
            yield error(
                way.place,
                ENCRYPTED_TWICE,
                f'{LOADING} is for a data set that `hime encrypt` '
                'made, the other transforms of hime_mm for plain images. Leave one of '
                'them out',
            )
    for line in plan.pipelines if plan.device is not None else ():
        for use in line.loads + line.encrypts:
            yield error(
                plan.device.place,
                f'would encrypt images that `{use.place}` has encrypted already',
                'leave one of them out',
            )


@validator
def plain_data(plan: Plan) -> Iterator[Finding]:
    """Images that are taken for plain are not encrypted."""
    for way in plan.ways:
        if way.manifest is None or way.loads or not way.steps:
            continue
        if way.encrypts or plan.device is not None:
            yield error(
                way.place,
                f'{ENCRYPTED_TWICE}: {way.folder} belongs to {way.manifest}',
                f'Use {LOADING} instead',
            )
        else:
            yield warning(
                way.place,
                f': {way.folder} belongs to {way.manifest}, so its images are encrypted',
                f'put `dict(type={LOADING!r})` behind LoadImageFromFile',
            )


@validator
def neighbours(plan: Plan) -> Iterator[Finding]:
    """Nothing changes encrypted images."""
    # Ways share pipelines.
    yield from dict.fromkeys(finding for way in plan.ways for finding in _neighbours(way))


def _neighbours(way: Way) -> Iterator[Finding]:
    steps = list(flatten(way.steps))
    places = [step.place for step in steps]
    for use in way.loads:
        others = [step for step in steps if step.place != use.place]
        # Mirroring an encrypted image is encrypting the mirrored one, but
        # where the pixels of all patches are permuted alike.
        flips = use.cipher is None or not use.cipher.shared
        yield from _changes(way, others, use.cipher, flips)
    if way.encrypts:
        # Of branches the last; what is in no branch encrypts for all of them.
        trunk = {step.place for step in way.steps}
        use = next((use for use in way.encrypts if use.place in trunk), way.encrypts[-1])
        yield from _changes(way, steps[places.index(use.place) + 1 :], use.cipher, False)


def _changes(
    way: Way, steps: Sequence[Node], cipher: Cipher | None, flips: bool
) -> Iterator[Finding]:
    harmless = HARMLESS + ('RandomFlip',) * flips
    if cipher is not None and not cipher.keeps_grey:
        harmless += ('ColorJitter',)
    for step in steps:
        # The pipeline that has it, be it within a wrapper of transforms.
        place = max(
            (line.place for line in way.lines if step.place.startswith(line.place)), key=len
        )
        if step.is_a(EncryptedAugment):
            text = f': hime_mm.{step.short} is for training'
            if way.phase in EVALUATION and step.is_a(PatchReshuffle):
                yield error(
                    place,
                    f'{text}: what is predicted for the new order cannot be mapped '
                    'back, not with the key either',
                    'Leave it out here',
                )
            elif way.phase in EVALUATION:
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
def masks(plan: Plan) -> Iterator[Finding]:
    """No masks come to patches that move."""
    # Ways share pipelines.
    yield from dict.fromkeys(finding for way in plan.ways for finding in _masks(way))


def _masks(way: Way) -> Iterator[Finding]:
    for use in way.encrypts:
        if use.cipher is None or not use.cipher.moves_pixels:
            continue
        for step in flatten(way.steps):
            if step.place == use.place:
                break
            asked = [key for key in ('with_mask', 'with_seg') if step.value.get(key)]
            if step.name.endswith('LoadAnnotations') and asked:
                # No error: a step of the user may take them away again.
                yield warning(
                    f'{step.place}.{asked[0]}',
                    f'loads masks, which cannot follow the pixels that `{use.place}` moves '
                    f'(cipher {str(use.cipher)!r}) and end the run at the first image',
                    'leave them out',
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
        if not line.phase or 'pipeline' not in str(line.key):
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
