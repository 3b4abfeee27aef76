# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The challenge: audit challenge, audit score."""

import json
import os
from typing import Any

import click

from hime_mm.audit.challenge import (
    CIPHERS,
    PUBLIC,
    SECRET,
    check_place,
    make_challenge,
    score_lines,
    score_submission,
)
from hime_mm.images.files import write_atomic

from .words import echo


@click.command('challenge')
@click.argument('out', type=click.Path())
@click.option(
    '-c',
    '--cipher',
    'ciphers',
    metavar='CIPHER',
    multiple=True,
    default=CIPHERS,
    help='A cipher or preset, as of `hime encrypt`; may be repeated.  '
    f'[default: {", ".join(CIPHERS)}]',
)
@click.option(
    '--patch-size',
    type=click.IntRange(1),
    metavar='P',
    help="Side of a patch in pixels.  [default: the preset's, or 16]",
)
@click.option(
    '-n',
    '--scenes',
    'num_scenes',
    type=click.IntRange(1),
    default=24,
    metavar='N',
    show_default=True,
    help="Painted scenes for each cipher, beside scikit-image's pictures.",
)
@click.option(
    '--size',
    type=click.IntRange(1),
    default=224,
    metavar='PIXELS',
    show_default=True,
    help='Side of the pictures.',
)
@click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
def challenge(out: str, quiet: bool, **options: Any) -> None:
    """Make ciphertexts for everybody to break, and the truth to judge by.

    OUT/public is to be published. OUT/secret holds the key and the originals:
    keep it, and show it to nobody before the challenge is over. docs/challenge.md
    has the rules.
    """
    sha256 = make_challenge(out, progress=not quiet, **options)
    echo(
        f'{os.path.join(out, PUBLIC)}: publish this folder, and with it this name:',
        f'challenge {sha256}',
        f'{os.path.join(out, SECRET)}: keep this folder, and hand it to nobody',
    )


@click.command('score')
@click.argument('submission', type=click.Path(exists=True, file_okay=False))
@click.option(
    '--challenge',
    'public',
    required=True,
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='Folder `public` of the challenge.',
)
@click.option(
    '--secret',
    required=True,
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='Its folder `secret`.',
)
@click.option('--out', metavar='FILE', help='Write the score as JSON, too.')
@click.option('--force', is_flag=True, help='Replace the file of --out if it is there.')
@click.option('--json', 'as_json', is_flag=True, help='Print the score as JSON.')
def score(
    submission: str, public: str, secret: str, out: str | None, force: bool, as_json: bool
) -> None:
    """Judge what was handed in to a challenge.

    Before, the published files and the truth are compared with what was
    frozen. What was not handed in counts as a grey picture, or as nothing put
    back.
    """
    if out is not None:
        check_place(out, submission, public, secret)
        if os.path.exists(out) and not force:
            raise FileExistsError(
                f'{out} is there already: choose another file, or replace it with `--force`'
            )
    state = score_submission(submission, public, secret)
    text = json.dumps(state, indent=1)
    if out is not None:
        write_atomic(out, text + '\n')
    echo(*(text.split('\n') if as_json else score_lines(state)))
