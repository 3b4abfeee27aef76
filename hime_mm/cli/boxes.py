# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime boxes``."""

from typing import Any, Optional

import click

from hime_mm.datasets.manifest import Manifest
from hime_mm.mapping.results import map_coco_results

from .keys import key_options, read_key


@click.command()
@click.argument('results', type=click.Path(exists=True, dir_okay=False))
@click.argument('out', type=click.Path(dir_okay=False))
@click.option('--data', required=True, metavar='FOLDER',
              type=click.Path(exists=True),
              help='The encrypted data set that the results are of.')
@click.option('--annotations', metavar='FILE',
              help='Annotation file that the results were made with.  '
              '[default: all those of the data set]')
@key_options
@click.option('--nms', type=click.FloatRange(0, 1), metavar='IOU',
              help='Of two boxes of one class that overlap more than this, '
              'leave out the one with the lower score; 1 keeps all.  '
              '[default: 0.6 where patches were moved, else 1]')
@click.option('--clip/--no-clip', default=True,
              help='Cut boxes to the original picture.  [default: clip]')
@click.option('--force', is_flag=True, help='Replace OUT if it is there.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
def boxes(results: str, out: str, data: str, annotations: Optional[str],
          key_file: Any, key_env: Any, key_fd: Any, nms: Optional[float],
          clip: bool, force: bool, quiet: bool) -> None:
    """Map detections on encrypted pictures to the originals.

    RESULTS is a COCO results file in pixels of the encrypted pictures, as
    MMDetection's CocoMetric writes it; OUT gets the same in pixels of the
    originals, for evaluation with the original annotations. The key is needed
    where patches were moved.
    """
    manifest = Manifest.load(data)
    key = None
    # Another data set's key in the environment is no error where none counts.
    if manifest.cipher.shuffles or any(
            value is not None for value in (key_file, key_env, key_fd)):
        key = read_key(key_file, key_env, key_fd,
                       required=manifest.key_id is not None)
    summary = map_coco_results(results, out, manifest, annotations, key, nms,
                               clip, force, not quiet)
    click.echo(f'{summary.results} boxes of {summary.images} images mapped to '
               f'{out}' + (f', {summary.kept} of them kept by non-maximum '
                           f'suppression at IoU {summary.nms:g}'
                           if summary.nms is not None else ''))
    if summary.masks:
        click.echo(f'{summary.masks} segmentations left out: the cipher '
                   f'{str(manifest.cipher)!r} moves pixels, and masks cannot '
                   'follow', err=True)
