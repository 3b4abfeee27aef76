# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Ciphers with a name.

No preset is called recommended: that is for measured leakage against measured
accuracy to decide.
"""

from dataclasses import dataclass
from typing import Dict


@dataclass(frozen=True)
class Preset:
    """A cipher with a name.

    Args:
        steps (str): The cipher's short form.
        patch_size (int): Side of a patch in pixels.
        source (str): Where the settings come from.
    """

    steps: str
    patch_size: int
    source: str


_PAPER = ('Hao et al., "Human-imperceptible, Machine-recognizable Images", '
          'IJCAI 2025')

PRESETS: Dict[str, Preset] = {
    'paper-rs': Preset('shuffle', 16, f'{_PAPER}, random shuffling (RS)'),
    'paper-mi': Preset('mix2', 16, f'{_PAPER}, mixing-up (MI), g = 2'),
}
