# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Show what a pipeline makes of a data set, to files.

Each picture has the image as it goes into the encryption, what the engineer
sees, and the boxes of both. It shows plain images: it is the owner's tool. Of
a data set that is encrypted already it shows what there is.
"""

import argparse
import copy
import os
import os.path as osp

import mmcv
import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, init_default_scope
from tqdm import tqdm

from hime_mm.config import check_config, read
from hime_mm.transforms import Encrypt, LoadEncryptedMeta
from hime_mm.visualization import draw_boxes, side_by_side


def parse_args():
    parser = argparse.ArgumentParser(
        description='Browse a data set: originals and encrypted images side '
        'by side, written to files'
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--output-dir',
        '-o',
        default='work_dirs/browse',
        help='folder for the pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--phase',
        choices=['train', 'val', 'test'],
        default='train',
        help='which dataloader (default: %(default)s)',
    )
    parser.add_argument('--number', '-n', type=int, help='how many images (default: all of them)')
    parser.add_argument('--no-original', action='store_true', help='only what the engineer sees')
    parser.add_argument('--no-boxes', action='store_true', help='no boxes')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as in tools/train.py',
    )
    return parser.parse_args()


def as_array(boxes):
    """Boxes of any kind as an array of shape (n, 4)."""
    boxes = getattr(boxes, 'tensor', boxes)
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def run(transforms, results):
    """Run some transforms; None where one of them drops the sample."""
    for transform in transforms:
        results = transform(results)
        if results is None:
            return None
    return results


def views(dataset, index):
    """The image before and after encryption with its boxes in both.

    Returns:
        tuple: Two dicts with ``img`` (BGR), ``boxes`` (n, 4) and ``labels``;
        the first is None where the pipeline does not encrypt.
    """
    transforms = dataset.pipeline.transforms
    at = next((i for i, t in enumerate(transforms) if isinstance(t, Encrypt)), None)
    last = next(
        (i for i, t in enumerate(transforms) if type(t).__name__.startswith('Pack')),
        len(transforms),
    )
    stop = last if at is None else at
    before = run(transforms[:stop], dataset.get_data_info(index))
    if before is None:
        return None, None
    if at is None:
        return None, view(before, before.get('gt_bboxes'))
    encrypt = copy.copy(transforms[at])
    # The owner may see where boxes go.
    encrypt.keep_permutation = True
    # Transforms write to the dict they get, and to what is in it.
    after = encrypt(copy.deepcopy(before))
    after = run(transforms[at + 1 : last], after)
    if after is None:
        return None, None
    boxes = before.get('gt_bboxes')
    labels = before.get('gt_bboxes_labels')
    if boxes is None and after.get('gt_bboxes') is not None:
        # Loaded after the encryption, in the scale of the file.
        scale = np.broadcast_to(before.get('scale_factor', (1.0, 1.0)), 2)
        boxes = as_array(after['gt_bboxes']) * np.tile(scale, 2)
        labels = after.get('gt_bboxes_labels')
    mapped = None
    if boxes is not None:
        boxes = as_array(boxes)
        mapped = after['patch_layout'].map_boxes(boxes)
    return view(before, boxes, labels), view(after, mapped, labels)


def encrypt_last(dataset, cipher, fit):
    """Have a pipeline encrypt as the data preprocessor will, for a look."""
    while 'pipeline' not in dataset:
        if 'dataset' not in dataset:
            raise SystemExit(f'found no pipeline in a {dataset.type}')
        dataset = dataset.dataset
    dataset.pipeline.insert(
        len(dataset.pipeline) - 1,
        dict(type='hime_mm.Encrypt', cipher=cipher.to_dict(), patch_size=cipher.patch_size, **fit),
    )


def loads_encrypted(dataset):
    """Whether a data set was encrypted before."""
    return any(
        isinstance(transform, LoadEncryptedMeta) for transform in dataset.pipeline.transforms
    )


def view(results, boxes, labels=None):
    """What is drawn of one sample."""
    if labels is None:
        labels = results.get('gt_bboxes_labels')
    return dict(
        img=results['img'],
        boxes=np.zeros((0, 4)) if boxes is None else as_array(boxes),
        labels=labels,
    )


def paint(one, classes, with_boxes):
    """A view as an RGB picture."""
    img = one['img']
    if img.ndim == 3 and img.shape[2] == 3:
        img = img[..., ::-1]
    boxes = one['boxes'] if with_boxes else np.zeros((0, 4))
    return draw_boxes(img, boxes, one['labels'], classes)


def main():
    args = parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    for phase in {'train', 'val', 'test'} - {args.phase}:
        # Nothing is run: what is not looked at need not agree.
        cfg[f'{phase}_dataloader'] = None
    cfg = check_config(cfg)
    scope = cfg.get('default_scope', 'mmdet')
    init_default_scope(scope)
    loader = cfg.get(f'{args.phase}_dataloader')
    if loader is None:
        raise SystemExit(f'{args.config} has no `{args.phase}_dataloader`')
    device = read(cfg).device
    if device is not None:
        fit = dict(fit='error')
        if device.value.get('pad_size_divisor', 1) > 1:
            fit = dict(fit='pad', pad_val=device.value.get('pad_value', 0))
        encrypt_last(loader.dataset, device.cipher, fit)
    dataset = DATASETS.build(loader.dataset)
    while type(dataset).__name__ in ('RepeatDataset', 'ClassBalancedDataset'):
        # They repeat images, and leave them as they are.
        dataset = dataset.dataset
    if (
        not hasattr(dataset, 'pipeline')
        or hasattr(dataset, 'dataset')
        or (isinstance(dataset.pipeline, (list, tuple)))
    ):
        raise SystemExit(
            f'cannot look into a {type(dataset).__name__}: name one of its '
            'data sets with --cfg-options'
        )
    dataset.full_init()
    classes = dataset.metainfo.get('classes')
    os.makedirs(args.output_dir, exist_ok=True)
    number = len(dataset)
    if args.number is not None:
        number = min(args.number, number)
    skipped = 0
    for index in tqdm(range(number), unit='img'):
        before, after = views(dataset, index)
        if after is None:
            skipped += 1
            continue
        pictures, captions = [], []
        if before is not None and not args.no_original:
            pictures.append(paint(before, classes, not args.no_boxes))
            captions.append('owner: before encryption')
        pictures.append(paint(after, classes, not args.no_boxes))
        shape = f'{after["img"].shape[1]}x{after["img"].shape[0]}'
        if before is None and not loads_encrypted(dataset):
            captions.append(f'not encrypted by this pipeline: {shape}')
        else:
            captions.append(f'engineer: {shape}')
        picture = side_by_side(pictures, captions)
        name = dataset.get_data_info(index).get('img_path', f'{index:08d}')
        stem = osp.splitext(osp.basename(name))[0]
        # Numbered: images of different folders may share a name.
        path = osp.join(args.output_dir, f'{index:06d}_{stem}.png')
        if not mmcv.imwrite(picture[..., ::-1], path):
            raise OSError(f'could not write {path}')
    print(
        f'{number - skipped} pictures in {args.output_dir}'
        f'{f", {skipped} dropped by the pipeline" if skipped else ""}'
    )


if __name__ == '__main__':
    main()
