# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make the picture of what attacks get back, of photos that come with scikit-image."""

import argparse

import cv2
import numpy as np
from make_pictures import save
from tqdm import tqdm

from hime_mm.audit.public import public_pictures
from hime_mm.audit.session import Session
from hime_mm.audit.settings import AuditSettings
from hime_mm.audit.subject import Case, Subject, subject_of
from hime_mm.ciphers import Cipher
from hime_mm.visualization import side_by_side, stack_rows

CIPHERS = ('shuffle', 'mix2', 'center', 'center+shuffle', 'center+erode2', 'center+erode2+shuffle')


def parse_args():
    parser = argparse.ArgumentParser(description='Show what attacks get back of a photo')
    parser.add_argument('--height', type=int, default=400, help='height in pixels to encrypt')
    parser.add_argument('--ciphers', nargs='+', default=CIPHERS)
    parser.add_argument('--columns', type=int, default=2, help='ciphers in a row')
    parser.add_argument('--panel', type=int, default=200, help='height of a panel in pixels')
    parser.add_argument('--output', '-o', default='docs/images/attacks.jpg')
    return parser.parse_args()


def attacked(img: np.ndarray, text: str, public: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """A picture encrypted, what the best attack makes of it, and what that is called."""
    cipher = Cipher(text)
    encrypted, layout, drawn = cipher.encrypt(img, np.random.default_rng(0))
    case = Case('photo', encrypted, layout.public(), img, img, drawn, layout.permutation)
    subject: Subject = subject_of(cipher, [case], public, 0)
    session = Session(subject)
    for _ in session.prepare():
        pass
    # An adversary has no original to compare with: here the most like it is shown.
    found = {name: one for name, one in session.run(0).items() if one.picture is not None}
    name, best = max(found.items(), key=lambda item: item[1].scores['ssim'].main)
    return encrypted, best.picture, f'{name}: SSIM {best.scores["ssim"].main:.2f}'


def main():
    args = parse_args()
    from skimage.data import astronaut

    side = max(args.height // 16, 2) * 16
    photo = np.ascontiguousarray(astronaut()[..., ::-1])
    img = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    # Those that come with scikit-image, too; an adversary has not this one.
    public = public_pictures(AuditSettings(), '', 'color').pictures
    public = [one for one in public if one.shape != photo.shape or (one != photo).any()]
    panels, captions = [], []
    for text in tqdm(args.ciphers):
        encrypted, made, name = attacked(img, text, public)
        panels += [encrypted, made]
        captions += [f'"{text}"', name]
    wide = 2 * args.columns
    picture = stack_rows(
        [
            side_by_side(
                [img[..., ::-1], *(one[..., ::-1] for one in panels[i : i + wide])],
                ['original', *captions[i : i + wide]],
                height=args.panel,
            )
            for i in range(0, len(panels), wide)
        ]
    )
    save(picture, args.output)


if __name__ == '__main__':
    main()
