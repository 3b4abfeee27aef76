# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether an encrypted picture is found among copies of the originals that are not exact.

    python tools/experiments/linkage.py --coco data/coco

An audit hands the adversary the originals themselves. Here they are stored
anew as JPEG, or at half their size, as pictures are that were found
elsewhere. What it finds goes into the work directory, and from there by
leakage.py into the page.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from leakage import SETS, TRIED, cipher_of, keep
from tqdm import tqdm

from hime_mm.attacks.base import Evidence
from hime_mm.attacks.registry import all_attacks
from hime_mm.audit.public import public_pictures
from hime_mm.audit.settings import AuditSettings
from hime_mm.audit.subject import audit_key, encrypt_cases, pictures_in, sample, subject_of
from hime_mm.evaluation.leakage import score_ranking
from hime_mm.images import Recipe

ATTACKS = ('histogram', 'patch-hash', 'texture')
CIPHERS = [
    'shuffle',
    'erode2+shuffle',
    'center+shuffle',
    'center+erode2+shuffle',
    'center+erode4+shuffle',
    'mix2+shuffle',
    'mix4+shuffle',
    'mix2+center+shuffle',
    'noise25+shuffle',
    'drop50+shuffle',
    *TRIED,
    'center+erode2+contrast+equalize+shuffle',
]


def jpeg(img: np.ndarray, quality: int) -> np.ndarray:
    """A picture as JPEG stores it."""
    _, data = cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def small(img: np.ndarray) -> np.ndarray:
    """A picture at half its size, as JPEG stores it."""
    half = cv2.resize(img, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return jpeg(half, 75)


#: How the copies that the adversary has came about.
COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'the original': lambda img: img,
    'JPEG, quality 75': lambda img: jpeg(img, 75),
    'half its size, JPEG': small,
}


def rank_1(evidence: Evidence, places: dict[int, int]) -> float:
    """Share of the originals that the best of the attacks finds first."""
    found = []
    for name in ATTACKS:
        attack = all_attacks()[name]()
        attack.prepare(evidence)
        ranks = [score_ranking(attack.guess(i).scores, place) for i, place in places.items()]
        found.append(float(np.mean([one.rank_1 for one in ranks])))
    return max(found)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/leakage'))
    parser.add_argument('--coco', metavar='FOLDER', required=True)
    parser.add_argument('--cipher', nargs='+', default=CIPHERS)
    return parser.parse_args()


def main() -> None:
    """Try every cipher on every kind of copy."""
    args = parse_args()
    pictures = SETS['coco']
    src, public = (str(Path(args.coco) / place) for _, place in (pictures.place, pictures.public))
    settings = AuditSettings(pictures.number, public=public)
    chosen = sample(pictures_in(src), settings.num_pictures, settings.seed)
    learn = public_pictures(settings, src, 'color').pictures
    rows = {}
    for text in tqdm(args.cipher):
        recipe = Recipe.build(cipher_of(text), preprocess=pictures.preprocess)
        cases, _ = encrypt_cases(src, chosen, recipe, audit_key(settings.seed), {})
        subject = subject_of(recipe.cipher, cases, learn, settings.seed)
        evidence = subject.evidence
        rows[text] = {
            name: rank_1(replace(evidence, gallery=[*map(copy, evidence.gallery)]), subject.places)
            for name, copy in COPIES.items()
        }
    state = dict(pictures=len(chosen), gallery=len(evidence.gallery))
    keep(args.work_dir / 'linkage.json', state, rows)


if __name__ == '__main__':
    main()
