# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What lowers a leak, as far as it was measured."""

from collections.abc import Iterable

from hime_mm.ciphers.figures import quoted

#: By measure: what leaks, and what lowers it; figures are of COCO photos at 224x224.
_REMEDIES = {
    'nc_component': (
        'Neighbouring patches are put back',
        'Delete what a solver compares: the borders of patches with `erode`, their means with '
        '`center`, both before `shuffle`. `shuffle` alone left {shuffle nc_component}, '
        '`erode2+shuffle` {erode2+shuffle nc_component}, `center+erode2+shuffle` '
        '{center+erode2+shuffle nc_component}, `mix2+center+shuffle` {mix2+center+shuffle '
        'nc_component}. Smaller patches leave less to compare: `center+erode2+shuffle` with 32 '
        'pixels left {center+erode2+shuffle/32 nc_component}. `orient`, `negate` and '
        '`permute_pixels` do next to nothing.',
    ),
    'ssim': (
        'Reconstructions are like the originals',
        'Where patches stay in their places, what they show is seen: add `shuffle`, and delete '
        'with `center`, `erode` or `mix` before it. Where they are moved, what lowers the share of '
        'neighbours lowers the likeness, too.',
    ),
    'pixel_order': (
        'The order of pixels in a patch is found',
        'Leave `permute_pixels` out: one order for all patches gives itself away, and hides '
        'nothing from a model or an attack.',
    ),
    'rank_1': (
        'Who has a copy finds the picture again',
        'No step here helps: {center+erode4+shuffle rank_1} of the originals were found with '
        '`center+erode4+shuffle`, too. Do not hand over encrypted pictures whose originals others '
        'have, or may get from the web.',
    ),
    'accuracy': (
        'The class is told by a classifier trained on public pictures',
        'That is what the method leaves to the engineer, too: what a model learns, an adversary '
        'learns. If the class itself is what is to be hidden, do not hand the pictures over.',
    ),
    'shared': (
        'A known or chosen picture gives a permutation away',
        'Leave steps out whose draw all pictures share, such as `permute_pixels`, and never use a '
        'key and a data-set id twice for different pictures.',
    ),
    'read': (
        'Programs read faces, texts or objects',
        'Where a face or a word fits into a patch, moving patches does not hide it: encrypt at a '
        'smaller size or with smaller patches, or delete within patches with `mix` or `center`. '
        'Where reconstructions are read, lower what attacks put back or restore, as above. Then '
        'measure again.',
    ),
}


def remedies(leaks: Iterable[tuple[str, str]]) -> list[tuple[str, str, list[str]]]:
    """What leaks, what lowers it, and the ciphers that it leaks from.

    Args:
        leaks (Iterable[tuple[str, str]]): Pairs of a measure and a cipher.
    """
    found: dict[str, list[str]] = {}
    for metric, cipher in leaks:
        if metric in _REMEDIES:
            of = found.setdefault(metric, [])
            of += [] if cipher in of else [cipher]
    return [
        (title, quoted(text), found[metric])
        for metric, (title, text) in _REMEDIES.items()
        if metric in found
    ]
