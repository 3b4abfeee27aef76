# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make the picture of a report of `hime audit`, of pictures that come with scikit-image.

Needs Selenium, Chromium and its driver.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage

from hime_mm.audit.run import audit_pictures
from hime_mm.audit.settings import AuditSettings
from hime_mm.images import Recipe

#: Crops of each picture; the adversary learns from others that come with scikit-image.
CROPS = {
    'camera.png': 8,
    'coins.png': 6,
    'hubble_deep_field.jpg': 6,
    'retina.jpg': 6,
    'ihc.png': 4,
    'moon.png': 4,
    'page.png': 3,
    'clock_motion.png': 2,
    'text.png': 1,
}
CIPHERS = ('paper-rs', 'paper-mi', 'center+erode2+shuffle', 'mix2+center+shuffle')
#: What is left of the page: its head, the charts of bars, and pictures of two ciphers.
LEAVE = """
const [, charts, ...others] = document.querySelectorAll('main > section');
charts.querySelectorAll('h3, h3 ~ *').forEach((node) => node.remove());
others.forEach((section, i) => {
  if (i % 2 || i > 2 || !section.querySelector('.worst')) section.remove();
  [...section.children].forEach((node) => { if (!node.matches('h2, .worst')) node.remove(); });
  [...section.querySelectorAll('figure')].slice(2).forEach((node) => node.remove());
});
document.querySelector('footer').remove();
const box = document.body.getBoundingClientRect();
return [box.left, box.width, document.documentElement.scrollHeight];
"""


def parse_args():
    parser = argparse.ArgumentParser(description='Show parts of a report of `hime audit`')
    parser.add_argument('--pictures', type=int, default=sum(CROPS.values()))
    parser.add_argument('--size', type=int, default=224, help='height and width to encrypt')
    parser.add_argument('--ciphers', nargs='+', default=CIPHERS)
    parser.add_argument('--width', type=int, default=1600, help='of the window, in pixels')
    parser.add_argument('--report', help='an audit that is there, in place of making one')
    parser.add_argument('--output', '-o', default='docs/images/report.jpg')
    return parser.parse_args()


def make_crops(folder: Path, most: int) -> None:
    """Write crops of scikit-image's pictures, the same each time."""
    rng = np.random.default_rng(0)
    places = [(name, i) for name, count in CROPS.items() for i in range(count)]
    for name, i in places[:most]:
        img = cv2.imread(str(Path(skimage.__file__).parent / 'data' / name))
        side = min(max(round(min(img.shape[:2]) * 0.6), 160), *img.shape[:2])
        y, x = (int(rng.integers(0, length - side + 1)) for length in img.shape[:2])
        place = folder / f'{Path(name).stem}_{i + 1}.png'
        cv2.imwrite(str(place), img[y : y + side, x : x + side])


def shown(page: Path, width: int) -> np.ndarray:
    """Parts of a page as Chromium shows them, BGR."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium') or ''
    for flag in ('headless=new', 'disable-gpu', 'hide-scrollbars', f'window-size={width},900'):
        options.add_argument(f'--{flag}')
    if os.geteuid() == 0:
        options.add_argument('--no-sandbox')
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
    try:
        driver.get(page.resolve().as_uri())
        left, wide, height = driver.execute_script(LEAVE)
        driver.set_window_size(width, int(height) + 200)
        data = driver.get_screenshot_as_png()
    finally:
        driver.quit()
    img = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return img[: int(height), int(left) : int(left + wide)]


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as work:
        src, out = Path(work) / 'pictures', Path(args.report or Path(work) / 'audit')
        if args.report is None:
            src.mkdir()
            make_crops(src, args.pictures)
            preprocess = dict(resize=(args.size, args.size))
            recipes = [Recipe.build(text, preprocess=preprocess) for text in args.ciphers]
            audit_pictures(str(src), str(out), recipes, AuditSettings(args.pictures))
        picture = shown(out / 'report.html', args.width)
    os.makedirs(os.path.dirname(args.output) or '.', exist_ok=True)
    if not cv2.imwrite(args.output, picture, [cv2.IMWRITE_JPEG_QUALITY, 80]):
        raise SystemExit(f'could not write {args.output}')
    print(args.output)


if __name__ == '__main__':
    main()
