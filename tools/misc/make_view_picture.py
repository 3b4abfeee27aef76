# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make the picture of the owner's page: painted scenes, and boxes that chance moved a little."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from make_pictures import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo_scenes import make_demo_coco

from hime_mm.apis import BoxView, encrypt_coco, map_coco_results
from hime_mm.ciphers import Key

ANN = 'annotations/instances_val.json'


def parse_args():
    parser = argparse.ArgumentParser(description='Show the page of `hime boxes --view`')
    parser.add_argument('--pictures', type=int, default=4)
    parser.add_argument('--width', type=int, default=1000, help='of the window in pixels')
    parser.add_argument('--height', type=int, default=1150)
    parser.add_argument('--output', '-o', default='docs/images/view.jpg')
    return parser.parse_args()


def moved(path: Path, rng: np.random.Generator) -> list[dict]:
    """Encrypted annotations as if a model had found them: not quite, and some of another class."""
    coco = json.loads(path.read_text())
    results = []
    for ann in coco['annotations']:
        for score, spread in ((0.8, 0.03), (0.25, 0.1)):
            x, y, w, h = ann['bbox']
            # The middle stays in its patch.
            dw, dh = rng.normal(0, spread, 2) * (w, h)
            label = ann['category_id']
            if rng.random() < 0.15:
                label = int(rng.choice([category['id'] for category in coco['categories']]))
            box = [x - dw / 2, y - dh / 2, w + dw, h + dh]
            score = float(np.clip(rng.normal(score, 0.12), 0.05, 0.99))
            row = dict(image_id=ann['image_id'], category_id=label, bbox=box, score=score)
            results.append(row)
    return results


def main():
    args = parse_args()
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        sys.exit('Chromium takes the picture: on Debian, apt-get install chromium')
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain = make_demo_coco(root / 'plain', 1, args.pictures, size=384)
        key = Key(bytes(32))
        encrypt_coco(str(plain), str(root / 'data'), 'paper-rs', key=key, dataset_id='view')
        results = moved(root / 'data' / ANN, np.random.default_rng(0))
        (root / 'results.bbox.json').write_text(json.dumps(results))
        map_coco_results(
            str(root / 'results.bbox.json'),
            str(root / 'original.bbox.json'),
            str(root / 'data'),
            ANN,
            key,
            view=BoxView(str(root / 'view.html'), str(plain)),
        )
        size = f'--window-size={args.width},{args.height}'
        taken = f'--screenshot={root / "view.png"}'
        flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', size]
        url = (root / 'view.html').as_uri()
        subprocess.run([chromium, *flags, taken, url], check=True, capture_output=True, timeout=120)
        save(cv2.imread(str(root / 'view.png'))[..., ::-1], args.output)


if __name__ == '__main__':
    main()
