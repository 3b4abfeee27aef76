# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What every cipher leaves, by the attacks of the audit, and the figures that we quote.

    python tools/experiments/leakage.py run --coco data/coco --set coco
    python tools/experiments/leakage.py figures
    python tools/experiments/leakage.py report

The first audits every cipher on a set of pictures, skipping what is there already;
an audit that was interrupted goes on. The adversary learns from COCO's train2017 pictures,
or from --photos for grey ones. The second writes hime_mm/ciphers/figures.json,
which `hime info` and the pages quote, of these audits and of what linkage.py and
recognition.py left in the same work directory. The third writes the tables and
the picture of docs/leakage.md.
"""

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakage_page import FIGURES, METRICS, report
from runs import ROOT, environment
from tqdm import tqdm

from hime_mm.audit.run import audit_pictures, folder_name
from hime_mm.audit.settings import AuditSettings
from hime_mm.ciphers import Cipher
from hime_mm.images import Recipe


@dataclass(frozen=True)
class Pictures:
    """A set of pictures.

    Attributes:
        title (str): What tables call it.
        place (tuple[str, str]): The option that says where it is, and the folder there.
        public (tuple[str, str]): Likewise, what the adversary learns from.
        number (int): How many pictures are attacked.
        preprocess (dict): How they are read and sized.
        few (bool): Whether only the ciphers of `FEW` are tried.
    """

    title: str
    place: tuple[str, str]
    public: tuple[str, str]
    number: int
    preprocess: dict[str, Any]
    few: bool = False


_SQUARE = dict(resize=(224, 224), interpolation='area')
_LARGE = dict(resize=(640, 480), keep_ratio=True, interpolation='area')
_COCO = ('coco', 'train2017')
SETS = {
    'coco': Pictures('COCO val2017, 224x224', ('coco', 'val2017'), _COCO, 40, _SQUARE),
    'photos': Pictures('photos, 224x224', ('photos', ''), _COCO, 40, _SQUARE, True),
    'faces': Pictures(
        'grey faces, 224x224', ('faces', ''), ('photos', ''), 40, dict(color_type='grayscale'), True
    ),
    'large': Pictures('COCO val2017, up to 640x480', ('coco', 'val2017'), _COCO, 10, _LARGE, True),
    'chess': Pictures('chess, up to 640x480', ('chess', 'val'), _COCO, 10, _LARGE, True),
}
FEW = [
    'shuffle',
    'erode2+shuffle',
    'center+shuffle',
    'center+erode2+shuffle',
    'mix2+shuffle',
    'mix2+center+shuffle',
    'noise25+shuffle',
    'mix2',
    'center',
    'mix2+center',
    'center+erode2',
]
CIPHERS = [
    *FEW,
    *(f'erode{k}+shuffle' for k in (1, 3, 4)),
    *(f'center+erode{k}+shuffle' for k in (1, 3, 4)),
    *(f'drop{share}+shuffle' for share in (25, 50)),
    'center+erode2+drop25+shuffle',
    'center+erode2+drop50+shuffle',
    'mix4+shuffle',
    'mix8+shuffle',
    'mix4+center+shuffle',
    'erode2+mix2+shuffle',
    'center+erode2+noise10+shuffle',
    'noise10+shuffle',
    'mix4',
    'mix8',
    'erode2',
    'drop50',
    'noise25',
    'orient+shuffle',
    'negate+permute_channels+shuffle',
    'permute_pixels+shuffle',
    *(f'{cipher}/32' for cipher in ('shuffle', 'erode2+shuffle', 'erode4+shuffle')),
    *(f'{cipher}/32' for cipher in ('center+shuffle', 'center+erode2+shuffle', 'mix2+shuffle')),
    'center+erode4+shuffle/32',
    'mix2/32',
    'mix4/32',
    'mix8/32',
]
#: Deletions that are no steps, tried on the hardened cipher and alone.
TRIED = [
    f'{before}{name}+shuffle'
    for name in ('quantize16', 'quantize4', 'lowpass2', 'contrast', 'equalize')
    for before in ('', 'center+erode2+')
]


def cipher_of(text: str) -> Cipher:
    """A cipher as this file writes it: with the patch size where that is not 16."""
    import deletions  # noqa: F401  (registers the steps that are tried, here only)

    steps, _, size = text.partition('/')
    return Cipher(steps, int(size or 16))


def run(args: argparse.Namespace) -> None:
    """Audit what is missing."""
    for name in args.set:
        pictures = SETS[name]
        src, public = (
            Path(getattr(args, option) or missing(option), folder)
            for option, folder in (pictures.place, pictures.public)
        )
        ciphers = args.cipher or (FEW if pictures.few else [*CIPHERS, *TRIED])
        for text in tqdm(ciphers, name):
            recipe = Recipe.build(cipher_of(text), preprocess=pictures.preprocess)
            out = args.work_dir / name / folder_name(recipe.cipher)
            settings = AuditSettings(
                pictures.number, public=str(public), workers=args.workers, progress=False
            )
            noted = out.with_name(f'{out.name}.json')
            if not (out / 'audit.json').exists():
                out.parent.mkdir(parents=True, exist_ok=True)
                noted.write_text(json.dumps(made_by(), indent=1))
            audit_pictures(str(src), str(out), [recipe], settings)


def made_by() -> dict:
    """What figures depend on: versions, and the last commit that changed what measures."""
    paths = [f'hime_mm/{room}' for room in ('attacks', 'audit', 'evaluation')]

    def git(*words: str) -> str:
        done = subprocess.run(['git', *words, '--', *paths], cwd=ROOT, capture_output=True)
        return done.stdout.decode().strip()

    changed = '-dirty' if git('status', '--porcelain') else ''
    commit = git('log', '-1', '--format=%h') + changed
    return {**environment('scipy', 'skimage', 'cv2'), 'commit': commit}


def keep(place: Path, state: dict, rows: dict) -> None:
    """Write the rows of another experiment, beside those that are there."""
    old = json.loads(place.read_text()) if place.is_file() else dict(rows={}, made_by=[])
    rows, made = {**old['rows'], **rows}, [*old['made_by'], made_by()]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({**state, 'rows': rows, 'made_by': made}, indent=1))


def missing(option: str) -> str:
    """Refuse to go on without a folder."""
    raise SystemExit(f'name the folder of these pictures: --{option}')


def found(work_dir: Path, name: str, text: str) -> dict[str, dict] | None:
    """Of each metric the strongest attack that has ciphertexts only; None if not measured."""
    place = work_dir / name / folder_name(cipher_of(text)) / 'audit.json'
    if not place.is_file():
        return None
    (cipher,) = json.loads(place.read_text())['ciphers']
    best: dict[str, dict] = {}
    ranks: dict[str, tuple[bool, float]] = {}
    for attack, said in cipher['attacks'].items():
        # Pairs and oracles are of use where draws are shared, and in no table.
        if said['setting'] != 'ciphertext-only':
            continue
        for metric, risk in said['metrics'].items():
            mean = risk['main']['mean']
            if mean is None:
                continue
            # What another picture gets as well is no leak, nor what a random guess gets.
            rank = (risk['counts'] is True and mean > risk['baseline']['mean'], mean)
            if rank > ranks.get(metric, (False, -1)):
                ranks[metric] = rank
                best[metric] = dict(
                    mean=mean,
                    low=risk['main']['low'],
                    high=risk['main']['high'],
                    control=risk['control']['mean'],
                    chance=risk['baseline']['mean'],
                    pictures=risk['pictures'],
                    attack=attack,
                    counts=rank[0],
                )
    return best


def figures(args: argparse.Namespace) -> None:
    """Write the figures that are quoted."""
    state: dict[str, Any] = dict(
        about='What attacks got of encrypted pictures, means over them; lower bounds.',
        made_by='python tools/experiments/leakage.py figures',
        environment={},
        commits=[],
        sets={},
    )
    notes = [json.loads(note.read_text()) for note in sorted(args.work_dir.glob('*/*_p*.json'))]
    for name, pictures in SETS.items():
        rows = {}
        for text in FEW if pictures.few else [*CIPHERS, *TRIED]:
            best = found(args.work_dir, name, text)
            if best is not None:
                rows[text] = {
                    metric: {
                        key: round(value, 4) if isinstance(value, float) else value
                        for key, value in best[metric].items()
                    }
                    for metric in (*METRICS, 'pixel_order')
                    if metric in best
                }
        if rows:
            state['sets'][name] = dict(title=pictures.title, ciphers=rows)
    for name in ('linkage', 'recognition'):
        place = args.work_dir / f'{name}.json'
        if place.is_file():
            state[name] = json.loads(place.read_text())
            notes += state[name].pop('made_by')
    state['commits'] = sorted({note.pop('commit') for note in notes})
    state['environment'], *others = notes
    if any(note != state['environment'] for note in others):
        raise SystemExit(f'{args.work_dir} holds figures of several environments: make all in one')
    # Those of readers.py have a work directory of their own.
    kept = json.loads(FIGURES.read_text()).get('readers') if FIGURES.is_file() else None
    state |= dict(readers=kept) if kept else {}
    FIGURES.write_text(json.dumps(state, indent=1) + '\n')


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function in (('run', run), ('figures', figures), ('report', report)):
        command = commands.add_parser(name)
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs/leakage'))
        command.set_defaults(function=function)
        if name == 'run':
            command.add_argument('--set', nargs='+', choices=SETS, default=['coco'])
            command.add_argument('--cipher', nargs='+', help='only these')
            command.add_argument('--workers', type=int, default=0)
            for option in ('coco', 'photos', 'faces', 'chess'):
                command.add_argument(f'--{option}', metavar='FOLDER')
    return parser.parse_args()


def main() -> None:
    """Do what was asked for."""
    args = parse_args()
    args.function(args)


if __name__ == '__main__':
    main()
