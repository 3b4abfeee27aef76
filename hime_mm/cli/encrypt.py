# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime encrypt``, a command for each kind of data set."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from hime_mm.datasets.stores import open_store
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.encryption.job import Summary
from hime_mm.encryption.lock import WORK_NAME
from hime_mm.encryption.plan import load_plan
from hime_mm.encryption.run import (
    encrypt_coco,
    encrypt_folder,
    encrypt_shards,
    finish_dataset,
    plan_coco,
    plan_folder,
)
from hime_mm.errors import HimeError

from .group import FAILED, LazyGroup
from .keys import KeyPlace, key_options
from .options import Place, engine_options, recipe_options, show_problems, steps_text
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

    Killed and started again, it goes on where it was. SRC and OUT are folders,
    or URLs such as s3://bucket/data.

    On many machines: `plan` once, `run` a part of the shards on each, `finish` once.
    """


def _decorated(*decorators: Callable) -> Callable:
    """Several decorators as one; the options of the first are shown first."""

    def decorate(command: Callable) -> Callable:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_src = click.argument('src', type=Place(exists=True, file_okay=False))
_out = click.argument('out', type=Place())
_coco_options = _decorated(
    _src,
    _out,
    click.option(
        '--ann',
        'annotations',
        multiple=True,
        metavar='FILE',
        help='Annotation file in SRC, may be repeated.  [default: all annotations/'
        'instances_*.json, or those that Roboflow, FiftyOne and Label Studio write]',
    ),
    click.option(
        '--images',
        multiple=True,
        metavar='FOLDER',
        help='For each --ann, the folder of its images in SRC.  [default: train2017 for '
        'instances_train2017.json, or where such tools put them]',
    ),
    click.option(
        '--licenses', type=click.Choice(('keep', 'drop')), default='keep', show_default=True
    ),
    click.option(
        '--segmentation',
        type=click.Choice(('keep', 'drop')),
        default='drop',
        show_default=True,
        help='Outlines of the objects, where the cipher leaves pixels in place.',
    ),
    click.option(
        '--round-boxes',
        is_flag=True,
        help='Where patches move, round boxes as coarsely as the annotations are: their digits '
        'would tell from which rows and columns patches came.',
    ),
)
_folder_options = _decorated(
    _src,
    _out,
    click.option(
        '--list',
        'lists',
        multiple=True,
        metavar='FILE',
        help='Text file of names and labels in SRC, such as '
        'meta/val.txt, to hand over with the new names; may be '
        'repeated.',
    ),
)
_report_option = click.option(
    '--report',
    metavar='FILE',
    help='Write what became of every file of SRC as CSV: path, file, status, reason. It '
    'holds the names of the originals; with --names ids it is the way back to them.',
)
_retry_option = click.option(
    '--retry-failed',
    is_flag=True,
    help='Try all pictures again that were left out, and not only those that have changed since.',
)
_plan_options = _decorated(
    click.option('--strict', is_flag=True, help='Refuse SRC if files would be left out.'),
    click.option(
        '--add',
        is_flag=True,
        help='Where OUT is finished, add what is new in SRC; no byte of the other pictures is '
        'touched.',
    ),
    click.option(
        '--shard-size',
        type=click.IntRange(1),
        metavar='N',
        help='Pictures of a shard, which is what is done again after a kill, and what a tar '
        'holds.  [default: 16 to 1000, from the number of pictures]',
    ),
)
_quiet_option = click.option('-q', '--quiet', is_flag=True, help='No progress bar.')


def _coco_arguments(
    annotations: Any, images: Any, licenses: str, segmentation: str, **arguments: Any
) -> dict:
    return dict(
        arguments,
        annotations=annotations or None,
        images=images or None,
        licenses=licenses == 'keep',
        segmentation=segmentation == 'keep',
    )


@encrypt.command(epilog=steps_text())
@_coco_options
@_report_option
@_plan_options
@_retry_option
@recipe_options('center_crop')
@engine_options
def coco(**arguments: Any) -> None:
    """Encrypt a COCO data set: SRC has annotations/ and image folders.

    Exports of CVAT, FiftyOne, Label Studio and Roboflow are read as they are
    unpacked. OUT gets the same tree, with annotations in encrypted coordinates.
    """
    with _stopping(arguments['out']):
        summary = encrypt_coco(**_coco_arguments(**arguments))
    _show_summary(summary, arguments['report'], 'coco')


@encrypt.command(epilog=steps_text())
@_folder_options
@_report_option
@_plan_options
@_retry_option
@recipe_options()
@engine_options
def folder(**arguments: Any) -> None:
    """Encrypt a tree of pictures, such as ImageNet's, or a flat folder.

    OUT gets the same folders; their names are the classes' names and stay.
    """
    with _stopping(arguments['out']):
        summary = encrypt_folder(**arguments)
    _show_summary(summary, arguments['report'], 'folder')


@encrypt.group(cls=LazyGroup)
def plan() -> None:
    """Write what is to be done, for `run` on many machines and `finish`.

    It lies in OUT/.hime-work and holds the names of the originals.
    """


@plan.command('coco', epilog=steps_text())
@_coco_options
@_plan_options
@recipe_options('center_crop')
@_quiet_option
def planned_coco(quiet: bool, **arguments: Any) -> None:
    """Plan to encrypt a COCO data set, as `hime encrypt coco` does."""
    _show_plan(plan_coco(progress=not quiet, **_coco_arguments(**arguments)))


@plan.command('folder', epilog=steps_text())
@_folder_options
@_plan_options
@recipe_options()
@_quiet_option
def planned_folder(quiet: bool, **arguments: Any) -> None:
    """Plan to encrypt a tree of pictures, as `hime encrypt folder` does."""
    _show_plan(plan_folder(progress=not quiet, **arguments))


class _PartOf(click.ParamType):
    """I/N, counted from 1."""

    name = 'I/N'

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        first, _, num = value.partition('/')
        if not (first.isdecimal() and num.isdecimal() and 1 <= int(first) <= int(num)):
            self.fail(f'{value!r} is no part such as 1/8, …, 8/8', param, ctx)
        return int(first), int(num)


@encrypt.command('run')
@_out
@click.option(
    '--shards',
    type=_PartOf(),
    default='1/1',
    metavar='I/N',
    help='The I-th of N parts of the shards, such as the task of an array job.  [default: all]',
)
@_retry_option
@key_options
@engine_options
def run_part(out: str, key: KeyPlace, **arguments: Any) -> None:
    """Do the shards of a plan, or a part of them.

    The key is that of the plan. Parts may run at the same time, on any
    machine that reaches SRC and OUT by the same names.
    """
    place = key.given(elsewhere=arguments['engine'] is not None)
    summary = encrypt_shards(out, key=place, **arguments)
    done = summary.images - len(summary.skipped)
    echo(
        f'{done} of {summary.images} pictures of these shards are there, {summary.reused} of them '
        f'from before ({summary.seconds:.1f} s)'
    )
    show_problems(summary.warnings, 'warning')
    show_problems(summary.skipped, 'missing')
    echo(f'`hime encrypt finish {out}` merges the shards when all of them are done')
    if not summary.complete:
        sys.exit(FAILED)


@encrypt.command('finish')
@_out
@_report_option
@key_options
@_quiet_option
def finish(out: str, key: KeyPlace, report: str | None, quiet: bool) -> None:
    """Merge the shards of a plan that are all done, and write the manifest."""
    plan = load_plan(open_store(out))
    with _stopping(out):
        summary = finish_dataset(out, key=key.read(), report=report, progress=not quiet)
    _show_summary(summary, report, 'folder' if plan is None else plan.head['kind'])


def _show_plan(summary: Summary) -> None:
    echo(
        f'{summary.images} pictures are planned in {summary.out}, data set id {summary.dataset_id}',
        f'`hime encrypt run {summary.out} --shards I/N` does a part of them, and '
        f'`hime encrypt finish {summary.out}` merges what all parts have done',
    )


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
    try:
        store = open_store(out)
        begun = load_plan(store) is not None
        finished = store.size(MANIFEST_NAME) is not None
    except (HimeError, OSError):  # which has been said
        return
    if not begun:
        return
    work, remedy = store.place(WORK_NAME), 'start again'
    if finished:
        remedy = (
            'repair the missing pictures and start again, the others stay; or delete '
            f'{work} to go without them'
        )
    echo(
        f'{out} is unfinished and must not be handed over: {work} holds names, sizes and times of '
        f'the plain files. To finish it, {remedy}',
        err=True,
    )


def _show_summary(summary: Summary, report: str | None, kind: str) -> None:
    done = summary.images - len(summary.skipped)
    reused = f', {summary.reused} of them before' if summary.reused else ''
    if summary.added:
        reused += f', added to those that {summary.out} has'
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
    show_problems(summary.left_out, 'left out', more, summary.num_left_out)
    show_problems(summary.warnings, 'warning')
    show_problems(summary.skipped, 'missing')
    if not summary.complete:
        _tell_unfinished(summary.out)
        sys.exit(FAILED)
    echo(f'`hime info {summary.out}` says what the cipher leaves readable')
