# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is to be done with a data set, and what came of it."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hime_mm.datasets.coco import to_corners
from hime_mm.images import Recipe


class Listing(NamedTuple):
    """A picture in an annotation file.

    Attributes:
        file (int): Number of the file.
        place (int): Number of the image in it.
        image (dict): What is handed over of the image: its id, and its license.
        annotations (list[dict]): What is handed over of its annotations.
    """

    file: int
    place: int
    image: dict
    annotations: list[dict]


class Item(NamedTuple):
    """One picture of a data set.

    Attributes:
        path (str): Its path relative to the source.
        target (str): Path of its encrypted file relative to the output, with
            forward slashes and without extension.
        shape (tuple[int, int], optional): Height and width that the
            annotations say.
        listings (list[Listing], optional): Where annotation files list it.
    """

    path: str
    target: str
    shape: tuple[int, int] | None = None
    listings: list[Listing] | None = None

    @property
    def boxes(self) -> list[list[float]] | None:
        """list[list[float]] | None: Of all its annotations, (x1, y1, x2, y2)."""
        if self.listings is None:
            return None
        return to_corners([ann['bbox'] for one in self.listings for ann in one.annotations])

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, line: str | bytes) -> 'Item':
        """The inverse of :meth:`to_json`."""
        path, target, shape, listings = json.loads(line)
        return cls(
            path,
            target,
            None if shape is None else tuple(shape),
            None if listings is None else [Listing(*one) for one in listings],
        )


@dataclass(frozen=True)
class Job:
    """What a worker has to know; the key is handed over apart from it.

    Attributes:
        src (str): Folder or URL of the source.
        out (str): Folder or URL of the encrypted data set.
        recipe (Recipe): All settings.
        dataset_id (str): Id of the data set; empty until one is drawn.
        options (dict): Settings of the kind of source, as in the manifest.
    """

    src: str
    out: str
    recipe: Recipe
    dataset_id: str = ''
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def round_boxes(self) -> bool:
        """bool: Whether moved boxes are rounded as coarsely as those of the originals are."""
        return bool(self.options.get('round_boxes'))

    def target(self, item: Item, view: int) -> str:
        """Path of an encrypted file, relative to the output."""
        suffix = f'_v{view}' if self.recipe.views > 1 else ''
        return f'{item.target}{suffix}.{self.recipe.fmt}'

    def targets(self, item: Item) -> list[str]:
        """Paths of all encrypted files of a picture."""
        return [self.target(item, view) for view in range(self.recipe.views)]


@dataclass
class Summary:
    """What an encryption did.

    Attributes:
        out (str): The folder of the encrypted data set.
        dataset_id (str): Its id.
        images (int): Pictures of the source.
        files (int): Encrypted files that are there.
        reused (int): Pictures that an earlier run had finished.
        added (int): Pictures that were added to a finished data set.
        skipped (list[tuple[str, str]]): Pictures that are missing in the
            result, by their source path, and why.
        warnings (list[tuple[str, str]]): What a decoder said of which picture,
            by its source path; only where processes of their own decode.
        clipped (dict[str, tuple[int, int]]): Values that each step clipped,
            and of how many.
        noticed (dict[str, int]): Pictures of which something was noticed:
            ``turned`` by their EXIF orientation, ``dark`` since 16 bits are
            hardly used and were read into 8, with colours ``hidden`` under
            alpha 0, the first of several ``frames``.
        telling (int): Boxes of which at most two places are left from which
            the patch of their centre can have come: they are large, or round
            numbers tell it.
        dropped (list[str]): Fields of annotations that were not handed over.
        tiny (int): Objects whose boxes shrank below 1x1 pixel, which
            MMDetection's ``CocoDataset`` leaves out.
        left_out (list[tuple[str, str]]): Files and folders of the source that
            are no part of the result, and why: the first hundred of them.
        num_left_out (int): How many there are.
        seconds (float): Time that it took.
        finished_before (bool): Whether there was nothing to do, since an
            earlier run had finished. What has changed in the source since
            then is not looked at.
    """

    out: str
    dataset_id: str
    images: int
    files: int = 0
    reused: int = 0
    added: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    clipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    noticed: dict[str, int] = field(default_factory=dict)
    telling: int = 0
    dropped: list[str] = field(default_factory=list)
    tiny: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    num_left_out: int = 0
    seconds: float = 0.0
    finished_before: bool = False

    @property
    def complete(self) -> bool:
        """bool: Whether every picture of the source is in the result."""
        return not self.skipped


def add_counts(counts: dict[str, tuple[int, int]], more: dict[str, tuple[int, int]]) -> None:
    """Add pairs of counts to those of the same name."""
    for name, (count, total) in more.items():
        old = counts.get(name, (0, 0))
        counts[name] = (old[0] + count, old[1] + total)
