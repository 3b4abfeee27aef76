# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What machines still read: faces of people, and text, under the ciphers that people ask about.

    python tools/experiments/readers.py run --faces faces --photos photos
    python tools/experiments/readers.py run --set page plates
    python tools/experiments/readers.py figures
    python tools/experiments/leakage.py report

Of faces, files are called PERSON_NUMBER.jpg: the first of each person is known to the adversary,
the second is attacked. Plates are painted. An audit that was interrupted goes on. `figures` puts
what was found into hime_mm/ciphers/figures.json, beside what is there, and the last writes the
tables of docs/leakage.md.
"""

import argparse
import json
import string
from pathlib import Path

import cv2
import numpy as np
from leakage import keep
from leakage_page import FIGURES
from tqdm import tqdm

from hime_mm.audit.panel import STAGES
from hime_mm.audit.run import audit_pictures, folder_name
from hime_mm.audit.settings import AuditSettings
from hime_mm.ciphers import Cipher
from hime_mm.images import Recipe

#: What is tried, and the side of square pictures, where these are sized.
FACES = [
    *((cipher, 224) for cipher in ('shuffle', 'mix2', 'center+shuffle')),
    *((cipher, 224) for cipher in ('center+erode2+shuffle', 'mix2+center+shuffle')),
    *((cipher, 448) for cipher in ('shuffle', 'mix2')),
]
TEXT = [(cipher, None) for cipher, side in FACES if side == 224]
TITLES = {
    'faces': 'faces of 80 people, each known by another picture',
    'page': "scikit-image's page of a book",
    'plates': 'painted number plates',
}
#: Of the attacks those that made the best pictures, and what reads them.
ATTACKS = ('jigsaw', 'mosaic', 'lmmse', 'tv', 'seams')
METRICS = ('face_found', 'face_recognised', 'text_read')
PLATES = 40


def sources(args: argparse.Namespace, name: str) -> dict:
    """Where the pictures of a set are, which this may make, and what else its audit gets."""
    root = args.work_dir / 'pictures' / name
    root.mkdir(parents=True, exist_ok=True)
    if name == 'faces':
        if not args.faces or not args.photos:
            raise SystemExit('name the folders of faces and of photos: --faces, --photos')
        for path in sorted(Path(args.faces).glob('*_[01].jpg')):
            person, number = path.stem.split('_')
            link = root / ('known', 'attacked')[int(number)] / person / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path.resolve())
        return dict(src=root / 'attacked', people=str(root / 'known'), public=str(args.photos))
    if name == 'page':
        from skimage import data

        cv2.imwrite(str(root / 'page.png'), data.page())
    else:
        rng = np.random.default_rng(0)
        for number in range(PLATES):
            cv2.imwrite(str(root / f'{number:02}.png'), plate(rng))
    return dict(src=root)


def plate(rng: np.random.Generator) -> np.ndarray:
    """A number plate on a dull surface, uint8 of shape (128, 384, 3), letters 33 to 39 high."""
    text = ''.join(rng.choice([*string.ascii_uppercase], 2)) + ' '
    text += ''.join(rng.choice([*string.digits], 4)) + ' '
    text += ''.join(rng.choice([*string.ascii_uppercase], 2))
    img = (
        np.full((128, 384, 3), rng.uniform(40, 120, 3), float) + np.linspace(-20, 20, 384)[:, None]
    )
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1, 2)
    scale = min(rng.uniform(32, 64) / height, 330 / width)
    width, height = round(width * scale), round(height * scale)
    x, y = (384 - width) // 2, (128 + height) // 2
    paint = (40, 190, 235) if rng.random() < 0.3 else (235, 235, 235)
    corners = (x - 12, y - height - 14), (x + width + 12, y + 14)
    cv2.rectangle(img, *corners, paint, -1)
    cv2.rectangle(img, *corners, (25, 25, 25), 3)
    thick = max(2, round(3 * scale))
    cv2.putText(img, text, (x, y), cv2.FONT_HERSHEY_DUPLEX, scale, (20, 20, 20), thick, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((192, 64), rng.uniform(-4, 4), 1)
    img = cv2.warpAffine(img, turn, (384, 128), borderMode=cv2.BORDER_REPLICATE)
    noisy = cv2.GaussianBlur(img, (3, 3), 0) + rng.normal(0, 6, img.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def run(args: argparse.Namespace) -> None:
    """Audit what is missing."""
    for name in args.set:
        given = sources(args, name)
        src = given.pop('src')
        reader = 'faces' if name == 'faces' else 'text'
        settings = AuditSettings(80, attacks=(*ATTACKS, reader), progress=False, **given)
        rows = {}
        tried = FACES if name == 'faces' else TEXT
        tried = [one for one in tried if not args.cipher or one[0] in args.cipher]
        for text, side in tqdm(tried, name):
            sizing = dict(resize=(side, side)) if side else {}
            grey = dict(color_type='grayscale') if name == 'faces' else {}
            recipe = Recipe.build(Cipher(text, 16), preprocess={**sizing, **grey})
            out = args.work_dir / name / f'{folder_name(recipe.cipher)}_{side}'
            report = audit_pictures(str(src), str(out), [recipe], settings)
            (read,) = report.subjects[0].readers
            rows[f'{text}@{side}' if side else text] = {
                stage: {
                    metric: dict(
                        mean=round(risk.main.mean, 4),
                        low=risk.main.low and round(risk.main.low, 4),
                        high=risk.main.high and round(risk.main.high, 4),
                        control=round(risk.control.mean, 4),
                        chance=round(risk.baseline.mean, 4),
                        pictures=len(risk.values),
                        counts=risk.counts,
                    )
                    for metric, risk in read.stages[stage].items()
                }
                for stage in STAGES
            }
            keep(args.work_dir / f'{name}.json', dict(title=TITLES[name]), rows)


def figures(args: argparse.Namespace) -> None:
    """Put what was found beside the other figures."""
    state = json.loads(FIGURES.read_text())
    state.setdefault('readers', {})
    for name in TITLES:
        place = args.work_dir / f'{name}.json'
        if not place.is_file():
            continue
        found = json.loads(place.read_text())
        notes = found.pop('made_by')
        commits = {note.pop('commit') for note in notes}
        if any(note != notes[0] for note in notes):
            raise SystemExit(f'{place} holds figures of several environments: make all in one')
        state['readers'][name] = dict(found, environment=notes[0], commits=sorted(commits))
    FIGURES.write_text(json.dumps(state, indent=1) + '\n')


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function in (run, figures):
        command = commands.add_parser(function.__name__)
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs/readers'))
        command.set_defaults(function=function)
        if function is run:
            command.add_argument('--set', nargs='+', choices=TITLES, default=['faces'])
            command.add_argument('--cipher', nargs='+', help='only these')
            command.add_argument('--faces', metavar='FOLDER')
            command.add_argument('--photos', metavar='FOLDER')
    return parser.parse_args()


def main() -> None:
    """Do what was asked for."""
    args = parse_args()
    args.function(args)


if __name__ == '__main__':
    main()
