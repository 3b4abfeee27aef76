# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is done with an encrypted data set: decrypt, verify, info, boxes."""

import json
import sys
from typing import Any

import click

from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.decrypt import decrypt_dataset
from hime_mm.encryption.describe import describe_lines
from hime_mm.encryption.verify import verify_dataset
from hime_mm.mapping.results import map_coco_results
from hime_mm.mapping.view import BoxView

from .group import FAILED
from .keys import KeyPlace, key_options
from .options import Place, results_options, show_problems, work_options
from .words import echo


@click.command()
@click.argument('data', type=Place(exists=True))
@click.argument('out', type=Place())
@key_options
@click.option('--partial', is_flag=True, help='Where a step deletes data, undo those after it.')
@work_options
def decrypt(data: str, out: str, key: KeyPlace, **options: Any) -> None:
    """Undo the encryption of DATA into OUT, where its cipher allows."""
    report = decrypt_dataset(data, out, key.read(), **options)
    echo(f'{report.files - len(report.problems)} of {report.files} files decrypted to {out}')
    show_problems(report.problems, 'missing')
    if not report.ok:
        sys.exit(FAILED)


@click.command()
@click.argument('data', type=Place(exists=True))
@key_options
@work_options
def verify(data: str, key: KeyPlace, **options: Any) -> None:
    """Compare all files of DATA with its manifest; nothing else may be there.

    With the key the manifest itself is authenticated; without it, only
    changes by accident are found there.
    """
    # Where none counts, that of the environment belongs to other data.
    needs_key = key.named or Manifest.load(data).key_id is not None
    report = verify_dataset(data, key.read() if needs_key else None, **options)
    for note in report.notes:
        echo(note)
    show_problems(report.problems, 'wrong')
    if not report.ok:
        echo(f'hime: {len(report.problems)} problems in {data}', err=True)
        sys.exit(FAILED)
    echo(
        f'{report.files} files are as they were written; manifest '
        + (
            'authenticated with the key'
            if report.authenticated
            else 'unchanged by accident, but not authenticated: no key'
        )
    )


@click.command()
@click.argument('data', type=Place(exists=True))
@click.option(
    '--json', 'as_json', is_flag=True, help='The manifest without its list of files, as JSON.'
)
def info(data: str, as_json: bool) -> None:
    """Say what DATA is, what it leaves readable and how to train on it."""
    manifest = Manifest.load(data)
    if as_json:
        echo(*json.dumps(manifest.state, indent=2).split('\n'))
    else:
        echo(*describe_lines(manifest))


@click.command()
@click.argument('results', type=click.Path(exists=True, dir_okay=False))
@click.argument('out', type=click.Path(dir_okay=False))
@results_options
@key_options
@click.option(
    '--clip/--no-clip', default=True, help='Cut boxes to the original picture.  [default: clip]'
)
@click.option(
    '--view',
    metavar='FILE',
    type=click.Path(dir_okay=False),
    help='Write a page (HTML) with the boxes on the originals, for the owner only.',
)
@click.option(
    '--originals',
    metavar='FOLDER',
    type=click.Path(exists=True, file_okay=False),
    help='The folder that was encrypted, for --view.',
)
@click.option(
    '--view-pictures',
    type=click.IntRange(1),
    default=BoxView.pictures,
    metavar='N',
    show_default=True,
    help='Pictures in the page at most.',
)
@click.option(
    '--view-score',
    type=float,
    default=BoxView.score,
    metavar='SCORE',
    show_default=True,
    help='Boxes with a lower score are hidden at first.',
)
@click.option('--force', is_flag=True, help='Replace OUT, and the page, if they are there.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
def boxes(
    results: str,
    out: str,
    data: str,
    key: KeyPlace,
    view: str | None,
    originals: str | None,
    view_pictures: int,
    view_score: float,
    quiet: bool,
    **options: Any,
) -> None:
    """Map detections on encrypted pictures to the originals.

    RESULTS is a COCO results file in pixels of the encrypted pictures, as
    MMDetection's CocoMetric writes it; OUT gets the same in pixels of the
    originals, for evaluation with the original annotations. The key is needed
    where patches were moved.

    With --view and --originals, a page shows them on the originals: one file,
    which a browser opens without a network. It holds plain pictures.
    """
    page = None
    if view is not None and originals is not None:
        page = BoxView(view, originals, view_pictures, view_score)
    elif view is not None or originals is not None:
        raise click.UsageError('--view and --originals belong together')
    manifest = Manifest.load(data)
    summary = map_coco_results(
        results,
        out,
        manifest,
        progress=not quiet,
        **options,
        key=key.read_for(manifest),
        view=page,
    )
    echo(
        f'{summary.results} boxes of {summary.images} images mapped to '
        f'{out}'
        + (
            f', {summary.kept} of them kept by non-maximum suppression at IoU {summary.nms:g}'
            if summary.nms is not None
            else ''
        )
    )
    if page is not None:
        echo(f'the originals with their boxes are in {view}: plain pictures, keep it to yourself')
    if summary.masks:
        echo(
            f'{summary.masks} segmentations left out: the cipher '
            f'{str(manifest.cipher)!r} moves pixels, and masks cannot '
            'follow',
            err=True,
        )
