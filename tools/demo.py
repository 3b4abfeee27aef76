# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make a data set, train a detector on its encrypted images, show both sides.

Owner: photographic scenes in COCO format. Engineer: an ordinary MMDetection
runner whose pipeline mixes the images up (MI). Owner again: predictions, read
in the coordinates of the originals.
"""

import argparse
import json
import os
import os.path as osp
import sys
import time

import cv2
import mmcv
import numpy as np
from demo_scenes import CLASSES, make_demo_coco
from mmengine.config import Config, DictAction
from mmengine.runner import Runner, find_latest_checkpoint

from hime_mm.apis import check_config, force_safe_loading
from hime_mm.errors import ConfigError
from hime_mm.transforms import Encrypt
from hime_mm.visualization import draw_boxes, side_by_side, stack_rows

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
GOAL = 0.7


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--config',
        default=osp.join(ROOT, 'configs/demo/peyolos_mi2_demo.py'),
        help='config (default: configs/demo/peyolos_mi2_demo.py)',
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
        help='override settings of the config, as in tools/train.py',
    )
    return parser.parse_args()


def load_config(args, data):
    cfg = Config.fromfile(args.config)
    root = str(data) + os.sep
    cfg.train_dataloader.dataset.dataset.data_root = root
    for name in ('val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = root
        cfg[f'{name}_evaluator'].ann_file = osp.join(root, 'annotations/instances_val.json')
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = osp.join(args.work_dir, 'train')
    if not args.fresh and find_latest_checkpoint(cfg.work_dir):
        print(f'Going on from the last checkpoint in {cfg.work_dir}; --fresh starts anew.')
        cfg.resume = True
    return check_config(cfg)


def read(path):
    """An image file, RGB."""
    return mmcv.imread(str(path), channel_order='rgb')


def write(picture, folder, name):
    os.makedirs(folder, exist_ok=True)
    path = osp.join(folder, name)
    if not cv2.imwrite(path, picture[..., ::-1]):
        raise OSError(f'could not write {path}')
    print(f'  {path}')


def encrypted(dataset, index):
    """One image as the engineer gets it, RGB."""
    transforms = dataset.pipeline.transforms
    results = dataset.get_data_info(index)
    for transform in transforms:
        results = transform(results)
        if isinstance(transform, Encrypt):
            return results['img'][..., ::-1]
    raise ConfigError('`test_dataloader.dataset.pipeline` does not encrypt')


def paint(runner, results, number, folder):
    """Write what each side sees.

    Args:
        runner (:obj:`Runner`): After testing.
        results (list[dict]): COCO results of the validation images.
        number (int): How many images.
        folder (str): Where the pictures go.
    """
    dataset = runner.test_dataloader.dataset
    seen, found = [], []
    for index in range(min(number, len(dataset))):
        info = dataset.get_data_info(index)
        image, small = read(info['img_path']), encrypted(dataset, index)
        truth = [i for i in info['instances'] if not i['ignore_flag']]
        seen.append(
            side_by_side(
                [image, small], ['owner: original', 'engineer: what is trained on'], height=288
            )
        )
        kept = [r for r in results if r['image_id'] == info['img_id'] and r['score'] >= 0.7]
        boxes = np.array([r['bbox'] for r in kept]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [dataset.cat2label[r['category_id']] for r in kept]
        big = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        scores = [r['score'] for r in kept]
        found.append(
            side_by_side(
                [
                    draw_boxes(big, boxes, labels, CLASSES, scores),
                    draw_boxes(image, boxes, labels, CLASSES, scores),
                    draw_boxes(
                        image, [i['bbox'] for i in truth], [i['bbox_label'] for i in truth], CLASSES
                    ),
                ],
                ['engineer: predictions', 'owner: the same boxes', 'owner: annotations'],
                height=288,
            )
        )
    gap = np.full((len(seen[0]), 24, 3), 255, np.uint8)
    pairs = [np.hstack([seen[i], gap, *seen[i + 1 : i + 2]]) for i in range(0, len(seen), 2)]
    write(stack_rows(pairs), folder, 'what_the_engineer_sees.png')
    write(stack_rows(found), folder, 'predictions.png')


def main():
    args = parse_args()
    force_safe_loading()
    start = time.time()
    data = make_demo_coco(osp.join(args.work_dir, 'data'))
    cfg = load_config(args, data)
    outputs = osp.join(args.work_dir, 'results')
    cfg.test_evaluator.outfile_prefix = outputs
    runner = Runner.from_cfg(cfg)
    runner.train()
    metrics = runner.test()

    with open(f'{outputs}.bbox.json') as file:
        results = json.load(file)
    print('\nPictures:')
    paint(runner, results, args.pictures, osp.join(args.work_dir, 'pictures'))
    ap50 = metrics['coco/bbox_mAP_50']
    print(
        f'\nOn {len(runner.test_dataloader.dataset)} held-out images, '
        'encrypted with '
        f'"{cfg.encrypt.cipher}": AP {metrics["coco/bbox_mAP"]:.3f}, AP50 '
        f'{ap50:.3f}. {(time.time() - start) / 60:.1f} minutes.'
    )
    print('MI is no encryption: look at what_the_engineer_sees.png for what it leaves.')
    if ap50 < GOAL:
        print(f'AP50 is below {GOAL}: something is wrong with this run.')
        sys.exit(1)


if __name__ == '__main__':
    main()
