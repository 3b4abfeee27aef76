# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is to be done with a data set, and what came of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from hime_mm.images import Recipe


class Item(NamedTuple):
    """One picture of a data set.

    Attributes:
        path (str): Its path relative to the source folder.
        target (str): Path of its encrypted file relative to the output, with
            forward slashes and without extension.
        boxes (list, optional): Of its annotations, (x1, y1, x2, y2).
        shape (tuple[int, int], optional): Height and width that the
            annotations say.
    """

    path: str
    target: str
    boxes: list[list[float]] | None = None
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class Job:
    """What a worker has to know; the key is handed over apart from it.

    Attributes:
        src (str): Folder of the source.
        out (str): Folder of the encrypted data set.
        recipe (Recipe): All settings.
        dataset_id (str): Id of the data set; empty until one is drawn.
        round_boxes (bool): Whether moved boxes are rounded as coarsely as
            those of the originals are.
    """

    src: str
    out: str
    recipe: Recipe
    dataset_id: str = ''
    round_boxes: bool = False

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
            are no part of the result, and why.
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
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    clipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    noticed: dict[str, int] = field(default_factory=dict)
    telling: int = 0
    dropped: list[str] = field(default_factory=list)
    tiny: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
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
