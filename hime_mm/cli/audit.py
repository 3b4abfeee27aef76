# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What leaks: audit."""

import math
import os
import sys
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from hime_mm.audit.page import write_page
from hime_mm.audit.run import audit_dataset, audit_pictures
from hime_mm.audit.settings import AuditSettings
from hime_mm.audit.table import table
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.evaluation.leakage.risk import METRICS
from hime_mm.images import Recipe
from hime_mm.images.augment import Augment
from hime_mm.images.preprocess import Preprocess

from .group import FAILED
from .keys import KeyPlace, key_options
from .options import sizing_options, work_options
from .words import echo

#: Options that say how plain pictures are encrypted.
_OF_PLAIN = {'ciphers', 'patch_size', *(item.name for item in fields(Preprocess))} | {
    item.name for item in fields(Augment)
}


def _key(place: KeyPlace, src: str) -> Key | None:
    """The key that is named, or that of the environment if it is the data set's."""
    key = place.read()
    # That of another data set in the environment is no error.
    fits = place.named or key is None or key.id == Manifest.load(src).key_id
    return key if fits else None


def _limits(
    context: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition('=')
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise click.BadParameter(f'{text!r} is no limit such as nc=0.1')
        # Of several the strictest counts.
        limits[name] = min(limit, limits.get(name, limit))
        if name not in METRICS:
            raise click.BadParameter(
                f'no measure is called {name!r}: known are {", ".join(METRICS)}'
            )
    return limits


@click.command(
    epilog='Measures: ' + '; '.join(f'{name}, {text}' for name, text in METRICS.items()) + '.'
)
@click.argument('src', type=click.Path(exists=True, file_okay=False))
@click.option(
    '--out', required=True, metavar='FOLDER', type=click.Path(), help='Where the report goes.'
)
@click.option(
    '-c',
    '--cipher',
    'ciphers',
    metavar='CIPHER',
    multiple=True,
    help='Of plain pictures: a cipher or preset to try, as of `hime encrypt`; may be repeated.',
)
@key_options
@click.option(
    '--originals',
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='With an encrypted data set: the folder that was encrypted.',
)
@click.option(
    '-n',
    '--pictures',
    'num_pictures',
    type=click.IntRange(1),
    default=40,
    metavar='N',
    help='How many are attacked, drawn with the seed.',
    show_default=True,
)
@click.option(
    '--seed',
    type=click.IntRange(0),
    default=0,
    metavar='N',
    show_default=True,
    help='Of the sample, the encryption and the attacks.',
)
@click.option(
    '--public',
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='Pictures of others that the adversary learns from; with folders that are classes of '
    'SRC, too, a classifier is trained.  [default: those of scikit-image]',
)
@click.option(
    '--num-public',
    type=click.IntRange(1),
    default=80,
    metavar='N',
    show_default=True,
    help='How many of these.',
)
@click.option(
    '--attack',
    'attacks',
    metavar='NAME',
    multiple=True,
    help='Only this attack or reader; may be repeated.  [default: all]',
)
@click.option(
    '--people',
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='Pictures of people whom the adversary knows, a folder each; folders of SRC that are '
    'called alike say who is on them.  [default: the faces of the originals]',
)
@click.option(
    '--onnx',
    metavar='FILE',
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help='A model that reads pictures, too, a classifier or a detector; may be repeated.',
)
@click.option(
    '--budget',
    type=click.FloatRange(0, min_open=True),
    metavar='SECONDS',
    help='Stop after so long; started again, it goes on.',
)
@click.option(
    '--fail-above',
    'limits',
    metavar='MEASURE=LIMIT',
    multiple=True,
    callback=_limits,
    help='End with status 1 where the strongest attack gets more than this on average; may be '
    'repeated.',
)
@sizing_options
@work_options
def audit(
    src: str,
    out: str,
    ciphers: tuple[str, ...],
    key: KeyPlace,
    originals: str | None,
    limits: dict[str, float],
    recipe: dict[str, Any],
    **settings: Any,
) -> None:
    """Attack the pictures of SRC as an adversary would, and measure what leaks.

    SRC is a folder of plain pictures, and every --cipher is tried on it; or it
    is an encrypted data set, whose cipher counts. Of a data set, the key tells
    how patches were moved, and --originals what they showed; without either
    the attacks are rehearsed on public pictures under the same cipher. Nothing
    is written to SRC.

    A page for people, report.html, is written with it; `hime audit report`
    makes it again.

    Figures are lower bounds: what these attacks got, not what can be got.
    """
    chosen = AuditSettings(**settings)
    context = click.get_current_context()
    given = [
        param.opts[-1]
        for param in context.command.params
        if param.name in _OF_PLAIN
        and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]
    if os.path.isfile(os.path.join(src, MANIFEST_NAME)):
        if given:
            raise click.UsageError(f'{src} is encrypted already: leave out {", ".join(given)}')
        report = audit_dataset(src, out, _key(key, src), originals, chosen)
    elif not ciphers or originals or key.named:
        remedy = 'leave out the key' if key.named else 'leave out --originals'
        raise click.UsageError(
            f'{src} is no encrypted data set, but a folder of plain pictures: '
            + (remedy if ciphers else 'name ciphers with --cipher')
        )
    else:
        recipes = [Recipe.build(cipher, **recipe) for cipher in ciphers]
        report = audit_pictures(src, out, recipes, chosen)
    echo(
        *table(report),
        f'{out}: report.html to look at, audit.json, and for each cipher a folder with worst.png',
    )
    above = report.above(limits)
    for line in above:
        echo(f'hime: {line}', err=True)
    if above:
        sys.exit(FAILED)


@click.command('report')
@click.argument('folder', type=click.Path(exists=True, file_okay=False))
@click.option(
    '--out',
    metavar='FILE',
    type=click.Path(dir_okay=False),
    help='Where the page goes.  [default: report.html in FOLDER, without pictures '
    'report_shared.html]',
)
@click.option(
    '--pictures/--no-pictures',
    default=True,
    help='Show the pictures of which most leaked; without them the page names none and may be '
    'shared.  [default: pictures]',
)
@click.option('--force', is_flag=True, help='Replace FILE if it is there.')
def report(folder: str, out: str | None, pictures: bool, force: bool) -> None:
    """Make the page of the audit in FOLDER again, of its summary and pictures alone.

    What is missing there, or was changed since, the page says. With pictures
    it holds plain ones, so that nobody else can read the file.
    """
    if out is not None and os.path.lexists(out) and not force:
        raise click.UsageError(f'{out} is there already: choose another file, or --force')
    place = write_page(folder, out, pictures)
    echo(
        f'{place}: '
        + ('holds plain pictures, not to be handed over' if pictures else 'holds no pictures')
    )
