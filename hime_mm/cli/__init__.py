# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command ``hime``.

Needs NumPy, OpenCV, cryptography, click and tqdm only; a command imports what
it needs when it runs.
"""

import click

from hime_mm.version import __version__

from .group import LazyGroup

_PLACES = {
    'keygen': 'hime_mm.cli.keys:keygen',
    'encrypt': 'hime_mm.cli.encrypt:encrypt',
    'decrypt': 'hime_mm.cli.datasets:decrypt',
    'verify': 'hime_mm.cli.datasets:verify',
    'info': 'hime_mm.cli.datasets:info',
    'boxes': 'hime_mm.cli.datasets:boxes',
    'eval': 'hime_mm.cli.evaluation:evaluate',
    'audit': 'hime_mm.cli.audit:audit',
    'audit report': 'hime_mm.cli.audit:report',
    'audit challenge': 'hime_mm.cli.challenge:challenge',
    'audit score': 'hime_mm.cli.challenge:score',
    'doctor': 'hime_mm.cli.doctor:doctor',
}


@click.group(
    cls=LazyGroup,
    places=_PLACES,
    context_settings=dict(help_option_names=['-h', '--help'], max_content_width=100),
)
@click.version_option(__version__, prog_name='hime')
def main() -> None:
    """Encrypt images perceptually, so that models can still learn from them.

    This is perceptual obfuscation, not encryption in the cryptographic sense:
    `hime info` says what each cipher leaves readable.
    """
