# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How good detections on encrypted pictures are: eval."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from hime_mm.datasets.manifest import Manifest
from hime_mm.evaluation.coco import CocoScores, evaluate_results

from .keys import KeyPlace, key_options
from .options import results_options
from .words import echo


def _numbers(kind: type) -> Any:
    """What reads numbers with commas between them."""

    def read(context: click.Context, param: click.Parameter, text: str | None) -> Any:
        try:
            return text if text is None else tuple(kind(one) for one in text.split(','))
        except ValueError:
            raise click.BadParameter(f'{text!r} is no numbers with commas between them') from None

    return read


@click.command('eval')
@click.argument('results', type=click.Path(exists=True, dir_okay=False))
@results_options
@click.option(
    '--ann',
    'ann_file',
    required=True,
    metavar='FILE',
    type=click.Path(exists=True, dir_okay=False),
    help='Annotation file of the originals.',
)
@key_options
@click.option('--classes', metavar='NAME', multiple=True, help='Only this class; may be repeated.')
@click.option(
    '--max-dets',
    metavar='N,N,N',
    callback=_numbers(int),
    help='Detections per picture and class.  [default: 1,10,100]',
)
@click.option(
    '--iou-thrs',
    metavar='IOU,IOU',
    callback=_numbers(float),
    help='IoUs of a match.  [default: 0.5 to 0.95 in steps of 0.05]',
)
@click.option('--classwise', is_flag=True, help='AP of each class, too.')
@click.option('--json', 'as_json', is_flag=True, help='All numbers as JSON.')
@click.option(
    '--out', metavar='FILE', type=click.Path(dir_okay=False), help='Write the mapped results to it.'
)
@click.option('--force', is_flag=True, help='Replace the file of --out if it is there.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
def evaluate(
    results: str,
    data: str,
    ann_file: str,
    key: KeyPlace,
    classes: tuple[str, ...],
    max_dets: tuple[int, ...] | None,
    classwise: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Evaluate detections on encrypted pictures in pixels of the originals.

    RESULTS is a COCO results file in pixels of the encrypted pictures, as
    MMDetection's CocoMetric writes it. Boxes are mapped back as `hime boxes`
    does and judged against the original annotations by pycocotools. The key is
    needed where patches were moved. Nothing is written without --out.
    """
    manifest = Manifest.load(data)
    if max_dets is not None:
        options['max_dets'] = max_dets
    scores = evaluate_results(
        results,
        manifest,
        ann_file,
        key=key.read_for(manifest),
        classes=list(classes) or None,
        progress=not quiet,
        **options,
    )
    if as_json:
        echo(*json.dumps(asdict(scores), indent=2).split('\n'))
        return
    _show(scores, ann_file, data, classwise)


def _show(scores: CocoScores, ann_file: str, data: str, classwise: bool) -> None:
    done = scores.mapping
    assert done is not None
    kept = '' if done.nms is None else f', {done.kept} kept by suppression at IoU {done.nms:g}'
    left = f'; {scores.left_out} more are no part of {data}' if scores.left_out else ''
    echo(
        f'{done.results} boxes of {done.images} images{kept}',
        f'evaluated on {scores.images} images of {ann_file}{left}',
        *_rows(scores.numbers),
    )
    if classwise:
        echo('AP of each class', *_rows(scores.classes))


def _rows(numbers: Mapping[str, float | None]) -> list[str]:
    """A line for each number, those without one as ``-``."""
    width = max(map(len, numbers), default=0)
    return [
        f'  {name:{width}}  {"-" if value is None else f"{value:.4f}"}'
        for name, value in numbers.items()
    ]
