# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Keep a few images of a COCO annotation file."""

import argparse
import json
import os
import random


def parse_args():
    parser = argparse.ArgumentParser(
        description='Keep a few images of a COCO annotation file, with all '
        'their annotations and all categories'
    )
    parser.add_argument('annotations', help='COCO annotation file')
    parser.add_argument('output', help='where the smaller file goes')
    parser.add_argument('--number', '-n', type=int, required=True, help='how many images')
    parser.add_argument(
        '--seed', type=int, help='draw them with this seed (default: the first ones)'
    )
    parser.add_argument('--max-boxes', type=int, help='only images with at most that many boxes')
    return parser.parse_args()


def main():
    args = parse_args()
    with open(args.annotations) as file:
        coco = json.load(file)
    boxes = {}
    for ann in coco['annotations']:
        boxes[ann['image_id']] = boxes.get(ann['image_id'], 0) + 1
    limit = float('inf') if args.max_boxes is None else args.max_boxes
    images = [img for img in coco['images'] if 0 < boxes.get(img['id'], 0) <= limit]
    if len(images) < args.number:
        raise SystemExit(
            f'{args.annotations} has {len(images)} such images with boxes, not {args.number}'
        )
    if args.seed is not None:
        images = random.Random(args.seed).sample(images, args.number)
    coco['images'] = images[: args.number]
    kept = {img['id'] for img in coco['images']}
    coco['annotations'] = [ann for ann in coco['annotations'] if ann['image_id'] in kept]
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    scratch = f'{args.output}.part'
    try:
        with open(scratch, 'w') as file:
            json.dump(coco, file)
        os.replace(scratch, args.output)
    except BaseException:
        if os.path.exists(scratch):
            os.remove(scratch)
        raise
    print(f'{len(coco["images"])} images, {len(coco["annotations"])} annotations in {args.output}')


if __name__ == '__main__':
    main()
