# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime encrypt``, a command for each kind of data set."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.encryption.job import Summary
from hime_mm.encryption.journal import WORK_NAME
from hime_mm.encryption.run import encrypt_coco, encrypt_folder

from .group import FAILED, LazyGroup
from .options import recipe_options, show_problems, steps_text
from .words import echo

# What is noticed of pictures, and the option that changes it.
_NOTICES = dict(
    turned='were turned or mirrored, as their EXIF orientation says: --color-type '
    'color_ignore_orientation reads all but TIFF files as they are stored',
    dark='are nearly black, since they use at most 14 of their 16 bits: --color-type unchanged '
    'keeps 16 bits',
    hidden='have colours under alpha 0, which no viewer shows and which were handed over: '
    '--transparent black paints them over',
    frames='are the first of several in their file: --frames refuse leaves such files out',
)


@click.group(cls=LazyGroup)
def encrypt() -> None:
    """Encrypt a data set into a folder that can be handed over.

    Killed and started again, it goes on where it was.
    """


def _source_options(command: Callable) -> Callable:
    """Options of what a source holds beside its pictures."""
    for option in (
        click.option(
            '--report',
            metavar='FILE',
            help='Write what became of every file of SRC as CSV: path, file, status, reason. It '
            'holds the names of the originals; with --names ids it is the way back to them.',
        ),
        click.option('--strict', is_flag=True, help='Refuse SRC if files would be left out.'),
    ):
        command = option(command)
    return command


@encrypt.command(epilog=steps_text())
@click.argument('src', type=click.Path(exists=True, file_okay=False))
@click.argument('out', type=click.Path())
@click.option(
    '--ann',
    'annotations',
    multiple=True,
    metavar='FILE',
    help='Annotation file in SRC, may be repeated.  [default: all annotations/instances_*.json, '
    'or those that Roboflow, FiftyOne and Label Studio write]',
)
@click.option(
    '--images',
    multiple=True,
    metavar='FOLDER',
    help='For each --ann, the folder of its images in SRC.  [default: train2017 for '
    'instances_train2017.json, or where such tools put them]',
)
@click.option('--licenses', type=click.Choice(('keep', 'drop')), default='keep', show_default=True)
@click.option(
    '--segmentation',
    type=click.Choice(('keep', 'drop')),
    default='drop',
    show_default=True,
    help='Outlines of the objects, where the cipher leaves pixels in place.',
)
@click.option(
    '--round-boxes',
    is_flag=True,
    help='Where patches move, round boxes as coarsely as the annotations are: their digits would '
    'tell from which rows and columns patches came.',
)
@_source_options
@recipe_options('center_crop')
def coco(annotations: Any, images: Any, licenses: str, segmentation: str, **arguments: Any) -> None:
    """Encrypt a COCO data set: SRC has annotations/ and image folders.

    Exports of CVAT, FiftyOne, Label Studio and Roboflow are read as they are
    unpacked. OUT gets the same tree, with annotations in encrypted coordinates.
    """
    with _stopping(arguments['out']):
        summary = encrypt_coco(
            annotations=annotations or None,
            images=images or None,
            licenses=licenses == 'keep',
            segmentation=segmentation == 'keep',
            **arguments,
        )
    _show_summary(summary, arguments['report'], 'coco')


@encrypt.command(epilog=steps_text())
@click.argument('src', type=click.Path(exists=True, file_okay=False))
@click.argument('out', type=click.Path())
@click.option(
    '--list',
    'lists',
    multiple=True,
    metavar='FILE',
    help='Text file of names and labels in SRC, such as '
    'meta/val.txt, to hand over with the new names; may be '
    'repeated.',
)
@_source_options
@recipe_options()
def folder(**arguments: Any) -> None:
    """Encrypt a tree of pictures, such as ImageNet's, or a flat folder.

    OUT gets the same folders; their names are the classes' names and stay.
    """
    with _stopping(arguments['out']):
        summary = encrypt_folder(**arguments)
    _show_summary(summary, arguments['report'], 'folder')


@contextmanager
def _stopping(out: str) -> Iterator[None]:
    """Have the last words of a run that is stopped tell of an output that is unfinished."""
    try:
        yield
    except (OSError, KeyboardInterrupt):
        # After the message of the error, which the group prints.
        click.get_current_context().find_root().call_on_close(lambda: _tell_unfinished(out))
        raise


def _tell_unfinished(out: str) -> None:
    work = os.path.join(out, WORK_NAME)
    if not os.path.isdir(work):
        return
    remedy = 'start again'
    if os.path.isfile(os.path.join(out, MANIFEST_NAME)):
        remedy = (
            'repair the missing pictures and start again, the others stay; or delete '
            f'{work} to go without them'
        )
    echo(
        f'{out} is unfinished and must not be handed over: {work} holds sizes and times of '
        f'the plain files. To finish it, {remedy}',
        err=True,
    )


def _show_summary(summary: Summary, report: str | None, kind: str) -> None:
    done = summary.images - len(summary.skipped)
    reused = f', {summary.reused} of them before' if summary.reused else ''
    echo(
        f'{done} of {summary.images} pictures encrypted{reused}: '
        f'{summary.files} files in {summary.out} '
        f'({summary.seconds:.1f} s), data set id '
        f'{summary.dataset_id}'
    )
    for step, (num_clipped, total) in summary.clipped.items():
        echo(f'{step}: {100 * num_clipped / max(total, 1):.3f} % of the values were clipped')
    if summary.finished_before:
        echo(
            'an earlier run had finished: nothing was done, and the '
            'source was not looked at. `hime verify` compares the '
            'files'
        )
    if summary.tiny:
        echo(
            f'{summary.tiny} objects are below 1x1 pixel now, which '
            'MMDetection leaves out: a larger --resize keeps them'
        )
    for name, num in summary.noticed.items():
        echo(f'{num} pictures {_NOTICES[name]}')
    if summary.noticed and report is None:
        echo('--report FILE says which pictures these are')
    if summary.noticed.get('turned') and kind == 'coco':
        echo(
            'Boxes were not turned with their pictures: if they follow the pixels as '
            'stored, use --color-type color_ignore_orientation'
        )
    if summary.telling:
        echo(
            f'{summary.telling} boxes leave at most two places from which the patch of their '
            'centre can have come, since they are large or since round numbers tell it: '
            'where that matters, leave large objects out; --round-boxes hides round numbers'
        )
    if summary.dropped:
        echo(f'not handed over: {", ".join(summary.dropped)}')
    more = '--report FILE names them all' if report is None else f'{report} names them all'
    show_problems(summary.left_out, 'left out', more)
    show_problems(summary.warnings, 'warning')
    show_problems(summary.skipped, 'missing')
    if not summary.complete:
        _tell_unfinished(summary.out)
        sys.exit(FAILED)
    echo(f'`hime info {summary.out}` says what the cipher leaves readable')
