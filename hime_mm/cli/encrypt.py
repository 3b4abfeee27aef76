# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime encrypt``."""

import click

from .group import LazyGroup

_PLACES = {
    'coco': 'hime_mm.cli.encrypt_kinds:coco',
    'folder': 'hime_mm.cli.encrypt_kinds:folder',
}


@click.group(cls=LazyGroup, places=_PLACES)
def encrypt() -> None:
    """Encrypt a data set into a folder that can be handed over.

    Killed and started again, it goes on where it was.
    """
