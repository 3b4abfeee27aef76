# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""All attacks that there are, in the order in which they are reported."""

from importlib import import_module
from importlib.util import find_spec

from .base import ATTACKS, Attack

#: What registers attacks; what others go on from comes first.
_MODULES = ('jigsaw', 'keys', 'pixels', 'linkage', 'probe')


def all_attacks() -> dict[str, type[Attack]]:
    """Attacks by name."""
    for name in _MODULES:
        import_module(f'{__package__}.{name}')
    return dict(ATTACKS)


def missing(attack: type[Attack]) -> str:
    """Packages that the attack needs and that are not there; empty if all are."""
    return ', '.join(name for name in attack.requires if find_spec(name) is None)
