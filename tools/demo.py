# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Train detectors on encrypted images of a data set made for it, show both sides.

Owner: photographic scenes in COCO format. First act: an ordinary MMDetection
runner whose pipeline mixes the images up (MI). Second act: the owner shuffles
them with a hardened cipher and a key into a folder, a detector is trained on
that folder alone, and the owner maps its predictions back.
"""

import argparse
import json
import os
import os.path as osp
import sys
import time
from pathlib import Path

import cv2
import mmcv
import numpy as np
from demo_scenes import CLASSES, make_demo_coco
from mmengine.config import Config, DictAction
from mmengine.runner import Runner, find_latest_checkpoint

from hime_mm.apis import check_config, encrypt_coco, evaluate_results, force_safe_loading
from hime_mm.ciphers import Key
from hime_mm.errors import ConfigError
from hime_mm.transforms import Encrypt
from hime_mm.visualization import draw_boxes, side_by_side, stack_rows

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
CONFIGS = dict(mi='configs/demo/petoken_mi2_demo.py', rs='configs/demo/petoken_rs_demo.py')
CIPHER = 'center+erode2+shuffle'
GOAL = 0.7
#: Scores of boxes that are drawn.
SHOWN = 0.35


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--acts',
        nargs='+',
        choices=sorted(CONFIGS),
        default=sorted(CONFIGS),
        help='mi: mixed up in the pipeline; rs: a folder that the owner shuffled (default: both)',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/demo',
        help='folder for data, logs and pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='train anew in place of going on from the last checkpoint',
    )
    parser.add_argument(
        '--pictures',
        type=int,
        default=6,
        choices=range(1, 101),
        metavar='N',
        help='images in each picture (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the configs, as in tools/train.py',
    )
    return parser.parse_args()


def read(path):
    """An image file, RGB."""
    return mmcv.imread(str(path), channel_order='rgb')


def write(picture, folder, name):
    os.makedirs(folder, exist_ok=True)
    path = osp.join(folder, name)
    if not cv2.imwrite(path, picture[..., ::-1]):
        raise OSError(f'could not write {path}')
    print(f'  {path}')


def load_config(args, act, train_root, val_root):
    """The config of an act, on these data sets."""
    cfg = Config.fromfile(osp.join(ROOT, CONFIGS[act]))
    cfg.train_dataloader.dataset.dataset.data_root = train_root
    for name in ('val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = val_root
        cfg[f'{name}_evaluator'].ann_file = osp.join(val_root, 'annotations/instances_val.json')
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = osp.join(args.work_dir, f'train_{act}')
    cfg.test_evaluator.outfile_prefix = osp.join(args.work_dir, f'results_{act}')
    if not args.fresh and find_latest_checkpoint(cfg.work_dir):
        print(f'Going on from the last checkpoint in {cfg.work_dir}; --fresh starts anew.')
        cfg.resume = True
    return check_config(cfg)


def train(cfg):
    """Train and test: metrics, and the results file."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, runner.test(), f'{cfg.test_evaluator.outfile_prefix}.bbox.json'


def encrypted(dataset, index):
    """One image as the engineer gets it, RGB."""
    results = dataset.get_data_info(index)
    for transform in dataset.pipeline.transforms:
        results = transform(results)
        if isinstance(transform, Encrypt):
            return results['img'][..., ::-1]
    raise ConfigError('`test_dataloader.dataset.pipeline` does not encrypt')


def mixed(args, data):
    """First act: mixed up in the pipeline, so boxes come back by their scale."""
    runner, metrics, results = train(load_config(args, 'mi', data, data))
    found = json.loads(Path(results).read_text())
    dataset = runner.test_dataloader.dataset
    shown = [encrypted(dataset, i) for i in range(min(args.pictures, len(dataset)))]
    scores = metrics['coco/bbox_mAP'], metrics['coco/bbox_mAP_50']
    print(f'\nMI, g = 2: AP {scores[0]:.3f}, AP50 {scores[1]:.3f} on held-out images.')
    return scores, shown, found, found


def hand_over(args, data):
    """The owner's part: a key, and two folders for the engineer."""
    path = osp.join(args.work_dir, 'owner', 'owner.key')
    if not osp.exists(path):
        os.makedirs(osp.dirname(path), exist_ok=True)
        Key.generate().save(path)
    key, folders = Key.from_file(path), []
    for split, views, augment in (('train', 10, dict(flip=0.5, crop=(0.5, 1.0))), ('val', 1, {})):
        folders.append(osp.join(args.work_dir, 'handed_over', split, ''))
        if not osp.exists(osp.join(folders[-1], 'hime.json')):
            encrypt_coco(
                data,
                folders[-1],
                CIPHER,
                annotations=[f'annotations/instances_{split}.json'],
                key=key,
                views=views,
                preprocess=dict(resize=(160, 160), augment=augment),
            )
    return key, *folders


def shuffled(args, data):
    """Second act: a folder that was handed over, and the owner's numbers with the key."""
    key, train_root, val_root = hand_over(args, data)
    cfg = load_config(args, 'rs', train_root, val_root)
    runner, metrics, results = train(cfg)
    mapped = osp.join(args.work_dir, 'owner', 'mapped.bbox.json')
    original = osp.join(data, 'annotations/instances_val.json')
    owner = evaluate_results(
        results, val_root, original, key=key, out=mapped, force=True, progress=False
    ).numbers
    dataset = runner.test_dataloader.dataset
    infos = [dataset.get_data_info(i) for i in range(min(args.pictures, len(dataset)))]
    print(
        f'\nRS hardened ({CIPHER}): AP {owner["AP"]:.3f}, AP50 {owner["AP50"]:.3f} on held-out '
        'images, mapped back by the owner; the engineer, without the key, measures AP50 '
        f'{metrics["coco/bbox_mAP_50"]:.3f}.'
    )
    return (
        (owner['AP'], owner['AP50']),
        [read(info['img_path']) for info in infos],
        json.loads(Path(results).read_text()),
        json.loads(Path(mapped).read_text()),
    )


def drawn(image, results, image_id, size=None):
    """An image with the boxes of its results, scaled from another size."""
    kept = [r for r in results if r['image_id'] == image_id and r.get('score', 1) >= SHOWN]
    boxes = np.array([r['bbox'] for r in kept]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if size is not None:
        boxes *= np.tile(np.divide(image.shape[1::-1], size), 2)
    scores = [r['score'] for r in kept] if kept and 'score' in kept[0] else None
    return draw_boxes(image, boxes, [r['category_id'] - 1 for r in kept], CLASSES, scores)


def paint(acts, data, number, folder):
    """Write what each side sees.

    Args:
        acts (dict): What each act gave.
        data (str): The originals.
        number (int): How many images.
        folder (str): Where the pictures go.
    """
    truth = json.loads(Path(data, 'annotations/instances_val.json').read_text())
    infos = truth['images'][:number]
    images = [read(osp.join(data, 'val', info['file_name'])) for info in infos]
    titles = dict(mi='MI, g = 2', rs=f'RS hardened: {CIPHER}')
    rows = []
    for i, image in enumerate(images):
        row = [image, *(shown[i] for _, shown, _, _ in acts.values())]
        names = ['owner: original', *(f'engineer: {titles[act]}' for act in acts)]
        rows.append(side_by_side(row, names, height=288))
    print('\nPictures:')
    write(stack_rows(rows), folder, 'what_the_engineer_sees.png')
    for act, (_, shown, found, mapped) in acts.items():
        rows = []
        for info, image, small in zip(infos, images, shown, strict=True):
            big = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            # MMDetection gives boxes of MI images in pixels of the originals.
            size = small.shape[1::-1] if act == 'rs' else None
            rows.append(
                side_by_side(
                    [
                        drawn(big, found, info['id'], size),
                        drawn(image, mapped, info['id']),
                        drawn(image, truth['annotations'], info['id']),
                    ],
                    [
                        f'engineer: token head on {titles[act].partition(":")[0]}',
                        'owner: with the key' if act == 'rs' else 'owner: the same boxes',
                        'owner: annotations',
                    ],
                    height=288,
                )
            )
        write(stack_rows(rows), folder, f'predictions_{act}.png')


def main():
    args = parse_args()
    force_safe_loading()
    start = time.time()
    data = osp.join(make_demo_coco(osp.join(args.work_dir, 'data')), '')
    acts = {act: dict(mi=mixed, rs=shuffled)[act](args, data) for act in args.acts}
    paint(acts, data, args.pictures, osp.join(args.work_dir, 'pictures'))
    print(f'\n{(time.time() - start) / 60:.1f} minutes.')
    print('Neither is encryption: look at what_the_engineer_sees.png for what is left.')
    low = {act: scores[1] for act, (scores, *_) in acts.items() if scores[1] < GOAL}
    if low:
        print(f'AP50 is below {GOAL}: {low}. Something is wrong with this run.')
        sys.exit(1)


if __name__ == '__main__':
    main()
