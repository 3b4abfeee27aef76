# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What was measured of ciphers: ``figures.json``, and texts that quote it.

`tools/experiments/leakage.py` writes the file; nothing else knows a figure.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

#: The file that texts quote.
FIGURES = Path(__file__).with_name('figures.json')
#: In place of a figure that was not measured.
UNKNOWN = 'an unknown share'
_QUOTE = re.compile(r'\{(\S+) (\w+)(?: in (\w+))?\}')


@lru_cache(maxsize=1)
def figures() -> dict:
    """All figures: ``sets`` by name, in each ``ciphers`` by string, in each metrics by name."""
    return json.loads(FIGURES.read_text())


def figure(cipher: str, metric: str, pictures: str = 'coco') -> float:
    """What the strongest attack got on average.

    Args:
        cipher (str): As the file has it, with ``/32`` behind it for patches of
            32 pixels.
        metric (str): Such as ``'nc_component'``.
        pictures (str): The set of pictures. Defaults to 'coco'.

    Raises:
        KeyError: If it was not measured.
    """
    return figures()['sets'][pictures]['ciphers'][cipher][metric]['mean']


def quoted(text: str) -> str:
    """A text with figures in place of ``{cipher metric}`` or ``{cipher metric in set}``.

    Shares are given in percent, PSNR in dB.
    """

    def number(found: re.Match) -> str:
        cipher, metric, pictures = found.groups()
        try:
            value = figure(cipher, metric, pictures or 'coco')
        except KeyError:
            return UNKNOWN
        return f'{value:.1f} dB' if metric == 'psnr' else f'{100 * value:.1f} %'

    return _QUOTE.sub(number, text)


#: What is said of a whole cipher, by metric.
_SAID = {
    'nc_component': 'put {} of the neighbouring patches back',
    'psnr': 'made pictures that reach {}',
    'rank_1': 'found {} of the originals among {gallery}',
}


def whole(cipher: str, patch_size: int) -> str:
    """What attacks got of pictures under a cipher, in a sentence; empty if it was not measured."""
    name = cipher if patch_size == 16 else f'{cipher}/{patch_size}'
    one = figures()['sets']['coco']
    found = one['ciphers'].get(name, {})
    said = [
        text.format(quoted(f'{{{name} {metric}}}'), gallery=figures()['linkage']['gallery'])
        for metric, text in _SAID.items()
        if metric in found and found[metric]['counts']
    ]
    return f'attacks {", ".join(said)} ({one["title"]}; lower bounds)' if said else ''
