# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How well a classifier of the adversary's tells what encrypted pictures show.

    python tools/experiments/recognition.py --caltech data/caltech101 --public data/coco/train2017

A small vision transformer is trained with the same settings on plain pictures of ten
classes of Caltech-101, on these encrypted anew in each epoch, and on what an attack on pixels
made of them. The test pictures are the owner's: plain, encrypted, reconstructed. That of
plain pictures is asked about the reconstructions, too. Results go into the work directory,
and from there by leakage.py into the page.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from leakage import cipher_of, keep
from tqdm import tqdm

from hime_mm.attacks.base import Evidence
from hime_mm.attacks.probe import EncryptedAnew, TrainedProbe, small_backbone, train_probe
from hime_mm.audit.session import Session
from hime_mm.audit.subject import Case, subject_of
from hime_mm.ciphers import Cipher, PatchLayout
from hime_mm.evaluation.leakage import relative_accuracy
from hime_mm.images.codec import read_image

SIDE = 144
#: Pictures of each class, at most: to learn from, and to be told.
MOST = (60, 30)
CLASSES = 10
#: Each cipher, and the attack on pixels that reconstructs; empty where that is left out.
CIPHERS = {
    'shuffle': 'jigsaw',
    'center+shuffle': 'seams',
    'center+erode2+shuffle': 'seams',
    'mix2+shuffle': 'tv',
    'mix2+center+shuffle': 'seams',
    'center': 'seams',
    'mix2': 'tv',
    'mix2+center': 'seams',
    'mix4': 'tv',
    # What could be put on top of `center+erode2`, beside what is there.
    'center+erode3+shuffle': '',
    'center+erode4+shuffle': '',
    'center+erode2+noise10+shuffle': '',
    'center+erode2+quantize16+shuffle': '',
    'center+erode2+quantize4+shuffle': '',
    'center+erode2+lowpass2+shuffle': '',
    'center+erode2+contrast+shuffle': '',
    'center+erode2+equalize+shuffle': '',
}


def load(folder: Path, names: list[str], most: int) -> tuple[list[np.ndarray], list[int]]:
    """The first pictures of some classes, and the number of the class of each."""
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir())[:most]:
            img = read_image(str(path), 'color')
            pictures.append(cv2.resize(img, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
            labels.append(label)
    return pictures, labels


def attacked(
    cipher: Cipher, pictures: list[np.ndarray], public: list[np.ndarray], attack: str, seed: int
) -> list[np.ndarray]:
    """What an attack that learnt from others makes of pictures that were encrypted."""
    rng, cases = np.random.default_rng(seed), []
    for i, plain in enumerate(pictures):
        encrypted, layout, drawn = cipher.encrypt(plain, rng)
        cases.append(
            Case(str(i), encrypted, layout.public(), plain, plain, drawn, layout.permutation)
        )
    subject = subject_of(cipher, cases, public, seed)
    session = Session(subject, ('jigsaw', attack))
    for _ in session.prepare():
        pass
    made = [session.run(i)[attack] for i in range(len(cases))]
    # Where it failed the adversary has what was encrypted, and no more.
    size = (SIDE, SIDE)
    return [
        cv2.resize(case.encrypted, size) if one.picture is None else one.picture
        for one, case in zip(made, cases, strict=True)
    ]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/leakage'))
    parser.add_argument('--caltech', type=Path, metavar='FOLDER', required=True)
    parser.add_argument('--public', type=Path, metavar='FOLDER', required=True)
    parser.add_argument('--cipher', nargs='+', choices=CIPHERS, default=[*CIPHERS])
    parser.add_argument('--epochs', type=int, default=20)
    return parser.parse_args()


def main() -> None:
    """Train all classifiers."""
    args = parse_args()
    root = args.caltech
    sizes = {one.name: len([*one.iterdir()]) for one in sorted((root / 'train').iterdir())}
    names = sorted(sorted(sizes, key=lambda name: -sizes[name])[:CLASSES])
    (train, labels), (test, truth) = (
        load(root / part, names, most) for part, most in zip(('train', 'test'), MOST, strict=True)
    )
    public = [read_image(str(path), 'color') for path in sorted(args.public.iterdir())]
    chance = float(np.bincount(truth).max() / len(truth))

    def probe(pictures, layout: PatchLayout) -> TrainedProbe:
        return train_probe(pictures, labels, small_backbone(layout), epochs=args.epochs)

    whole = PatchLayout((SIDE, SIDE), 16, (SIDE // 16, SIDE // 16))
    told = probe(train, whole)
    plain = told.accuracy(test, truth)
    rows = {}
    for text in tqdm(args.cipher):
        cipher, attack = cipher_of(text), CIPHERS[text]
        rng, layout = np.random.default_rng(1), cipher.plan((SIDE, SIDE))
        encrypted = [cipher.encrypt(img, rng)[0] for img in test]
        fresh = EncryptedAnew(Evidence([encrypted[0]], [layout], cipher, train, labels))
        found = dict(ciphertexts=probe(fresh, layout).accuracy(encrypted, truth))
        if attack:
            seen = attacked(cipher, test, public, attack, 1)
            learnt = attacked(cipher, train, public, attack, 2)
            found['reconstructions'] = probe(learnt, whole).accuracy(seen, truth)
            found['plain_on_reconstructions'] = told.accuracy(seen, truth)
        rows[text] = {
            name: dict(accuracy=value, relative=relative_accuracy(value, plain, chance))
            for name, value in found.items()
        } | dict(attack=attack)
    state = dict(
        classes=names, trained_on=len(train), pictures=len(test), plain=plain, chance=chance
    )
    keep(args.work_dir / 'recognition.json', state, rows)


if __name__ == '__main__':
    main()
