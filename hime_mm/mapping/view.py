# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Mapped boxes on the owner's originals: one page that holds plain pictures."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.coco import is_number
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import Originals
from hime_mm.errors import BoxError, HimeError, PictureError, printable
from hime_mm.images.files import atomic_file
from hime_mm.version import __version__
from hime_mm.visualization import page

from .image_ids import annotation_rows, category_names

#: Boxes of a picture in the page at most, as COCO counts: those with the best scores.
_MOST_BOXES = 100
#: Sides of pictures in a page, in pixels: larger ones are scaled down, smaller ones up.
_LARGEST, _SMALLEST = 640, 500
#: Colours that classes take turns with.
_COLOURS = 8
#: Characters of a label at most, and how wide one of them is, in pixels of the screen.
_MOST_CHARACTERS, _CHARACTER = 20, 7
#: How high a label is there.
_LINE = 18


@dataclass(frozen=True)
class BoxView:
    """A page with boxes on the originals, for their owner's eyes.

    It is one HTML file that fetches nothing, and holds plain pictures: only its owner may read the
    file, and it is refused inside of the data set.

    Args:
        out (str): The file to write.
        originals (str): The folder that was encrypted.
        pictures (int): It shows so many at most, in the order of the
            annotations. Defaults to 100.
        score (float): Boxes with a lower score are hidden until the reader
            asks for them. Defaults to 0.3.
    """

    out: str
    originals: str
    pictures: int = 100
    score: float = 0.3


def find_originals(view: BoxView, manifest: Manifest, key: Key | None) -> Originals:
    """The originals of a data set; refuses what no page can be made of, before any work.

    Raises:
        BoxError: If a setting makes no sense, or none of the originals is there.
        HimeError: If the originals cannot be told, or Jinja2 is missing.
    """
    page.check_installed()
    if view.pictures < 1:
        raise BoxError(f'a page shows one picture or more, not {view.pictures}')
    if not is_number(view.score):
        raise BoxError(f'the score below which boxes are hidden is a number, not {view.score}')
    originals = Originals(view.originals, manifest, key)
    folder = os.path.join(os.path.realpath(view.originals), '')
    if os.path.realpath(view.out).startswith(folder):
        raise BoxError(
            f'{view.out} lies among the originals, {view.originals}, of which none is replaced: '
            'choose another folder'
        )
    if not any(originals.path(name) for name in manifest.files):
        raise BoxError(
            f'none of the {len(manifest.files)} originals of {manifest.root}, such as that of '
            f'{next(iter(manifest.files), "no picture")}, is in {view.originals}: give the '
            'folder that was encrypted'
        )
    return originals


def write_view(
    view: BoxView,
    results: Sequence[dict],
    images: Mapping[int, Any],
    manifest: Manifest,
    originals: Originals,
    annotations: str | None,
    source: str,
    progress: bool,
) -> None:
    """Write the page of mapped results.

    It shows pictures with results; where one annotation file was named, all of that.

    Args:
        view (BoxView): What is asked for.
        results (Sequence[dict]): As :func:`~hime_mm.mapping.results.map_results` gives them.
        images (Mapping): From :func:`~hime_mm.mapping.image_ids.image_entries`.
        manifest (Manifest): Of the data set.
        originals (Originals): Of the data set.
        annotations (str, optional): The annotation file that was named.
        source (str): Where the results were read.
        progress (bool): Show a progress bar.
    """
    groups: dict[int, list[dict]] = {}
    for row in results:
        groups.setdefault(row['image_id'], []).append(row)
    ids = [
        image_id
        for image_id, entry in images.items()
        if isinstance(entry, FileEntry) and (image_id in groups or annotations is not None)
    ]
    shown = ids[: view.pictures]
    groups = {i: sorted(groups.get(i, []), key=lambda row: -row['score']) for i in shown}
    rows = [row for group in groups.values() for row in group[:_MOST_BOXES]]
    classes = _Classes(rows, category_names(manifest, annotations))
    truth = _annotated(manifest, originals, annotations, {*shown})

    def figures() -> Iterator[dict]:
        for number, image_id in enumerate(tqdm(shown, 'view', unit='img', disable=not progress), 1):
            entry = images[image_id]
            figure = _Figure(entry, originals, groups[image_id], classes, view.score)
            yield dict(figure.values(truth.get(image_id, [])), number=number)

    scores = [row['score'] for row in rows]
    text = page.stream(
        'view.html.j2',
        figures=figures(),
        data=printable(os.path.basename(os.path.abspath(manifest.root))),
        cipher=str(manifest.cipher),
        dataset_id=printable(manifest.dataset_id),
        source=printable(os.path.basename(source)),
        version=__version__,
        total=len(ids),
        shown=len(shown),
        boxes=len(rows),
        above=sum(score >= view.score for score in scores),
        score=view.score,
        low=min([0, view.score, *scores]),
        high=max([1, view.score, *scores]),
        classes=classes.shown,
        annotated=bool(truth),
    )
    with atomic_file(view.out, private=True) as file:
        for part in text:
            file.write(part.encode())


class _Classes:
    """Classes of boxes, by the name that each has, and how many boxes."""

    def __init__(self, rows: Sequence[dict], names: Mapping[int, str]) -> None:
        self._names = names
        counts = Counter(row['category_id'] for row in rows)
        order = [i for i in names if i in counts] + [i for i in counts if i not in names]
        self._numbers = {category: number for number, category in enumerate(order)}
        self.shown = [
            dict(number=number, colour=number % _COLOURS, name=self.name(i), count=counts[i])
            for i, number in self._numbers.items()
        ]

    def name(self, category: int) -> str:
        return printable(self._names.get(category, f'class {category}'))

    def number(self, category: int) -> int:
        return self._numbers[category]


class _Figure:
    """One picture, or why there is none, and what is drawn on it."""

    def __init__(
        self,
        entry: FileEntry,
        originals: Originals,
        rows: Sequence[dict],
        classes: _Classes,
        score: float,
    ) -> None:
        self.height, self.width = entry.ori_shape
        self._entry, self._originals, self._classes = entry, originals, classes
        self._rows, self._left, self._score = rows[:_MOST_BOXES], rows[_MOST_BOXES:], score

    def values(self, truth: Sequence[tuple[str, tuple[float, ...]]]) -> dict:
        """What the template asks for."""
        fault, picture = '', ''
        try:
            picture = page.embedded(self._picture(), _LARGEST)
        except HimeError as error:
            fault = printable(str(error))
        name = self._originals.path(self._entry.path) or self._entry.path
        counts = Counter(label for label, _ in truth)
        return dict(
            name=printable(name),
            width=self.width,
            height=self.height,
            fault=fault,
            picture=picture,
            boxes=[self._box(row) for row in self._rows],
            above=sum(row['score'] >= self._score for row in self._rows),
            left=len(self._left),
            truth=[box for _, box in truth],
            annotated=', '.join(f'{count}\u00a0×\u00a0{label}' for label, count in counts.items()),
        )

    def _picture(self) -> np.ndarray:
        img = viewable(self._originals.read(self._entry.path))
        if img.shape[:2] != self._entry.ori_shape:
            h, w = img.shape[:2]
            raise PictureError(
                f'it has {w}x{h} pixels, and {self.width}x{self.height} were encrypted: '
                'give the folder that was encrypted'
            )
        # As wide as labels need it, and pixels stay to be seen.
        scale = -(-_SMALLEST // max(img.shape[:2]))
        return img.repeat(scale, 0).repeat(scale, 1)

    def _box(self, row: dict) -> dict:
        x, y, w, h = row['bbox']
        name, number = (
            self._classes.name(row['category_id']),
            self._classes.number(row['category_id']),
        )
        return dict(
            box=row['bbox'],
            name=name,
            number=number,
            colour=number % _COLOURS,
            score=row['score'],
            low=row['score'] < self._score,
            label=self._label(f'{row["score"]:.2f}', name, (x, y, x + w, y + h)),
        )

    def _label(self, score: str, name: str, corners: tuple[float, ...]) -> dict | None:
        """A label that stays inside of the picture, at a corner of its box; None without room.

        Its place is a share of the picture, its size in pixels of the screen.
        """
        ratio = self.width / max(1, self.height)
        # A tall picture is shown 500 pixels high or more, another 300 wide; half of it is free.
        most = int(min(_MOST_CHARACTERS, 250 * ratio / _CHARACTER))
        if most < len(score) or ratio > 8:
            return None
        text = f'{_cut(name, most - len(score) - 1)} {score}'.strip()
        x1, y1, x2, _ = corners
        right = x1 > self.width / 2
        # Above its box where there is room, so that small objects stay to be seen.
        above = y1 * min(500, 300 / ratio) > _LINE * self.height
        return dict(
            text=text,
            width=_columns(text) * _CHARACTER,
            x=_percent(x2 if right else x1, self.width),
            y=_percent(y1, self.height),
            left=-_columns(text) * _CHARACTER - 6 if right else 0,
            up=-_LINE if above else 0,
        )


def _percent(value: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100 * value / max(1, whole))), 3)


def _columns(text: str) -> int:
    """How many characters of a fixed width a text is as wide as."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in 'WF')
        for c in text
    )


def _cut(text: str, most: int) -> str:
    """A text of so many columns at most, with an ellipsis where it is cut."""
    if _columns(text) <= most:
        return text
    while text and _columns(text) >= most:
        text = text[:-1]
    return f'{text}…' if text else ''


def viewable(img: np.ndarray) -> np.ndarray:
    """A picture as a screen shows it, uint8, grey or BGR.

    Of 16 bits, those that are used are shown; alpha is left out.
    """
    if img.dtype == np.uint16:
        img = (img >> max(0, int(img.max()).bit_length() - 8)).astype(np.uint8)
    if img.ndim == 3 and img.shape[2] != 3:
        img = img[..., :3] if img.shape[2] > 3 else img[..., 0]
    return img


def _annotated(
    manifest: Manifest, originals: Originals, annotations: str | None, ids: set[int]
) -> dict[int, list[tuple[str, tuple[float, ...]]]]:
    """Classes and boxes that the owner's annotations give to images, where they are there."""
    found: dict[int, dict] = {}
    for row in annotation_rows(manifest, annotations):
        # A file from elsewhere is in pixels of the encrypted images.
        coco = originals.annotations(row['path']) if 'images_folder' in row else None
        if coco is None:
            continue
        names = {c['id']: c.get('name', c['id']) for c in coco['categories']}
        for ann in coco['annotations']:
            if ann['image_id'] in ids:
                # Once, where several files list it.
                label = printable(str(names[ann['category_id']]))
                found.setdefault(ann['image_id'], {})[label, tuple(ann['bbox'])] = None
    return {image_id: [*boxes] for image_id, boxes in found.items()}
