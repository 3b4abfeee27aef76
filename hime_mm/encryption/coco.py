# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures with COCO annotation files to encrypt."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.originals import id_name
from hime_mm.datasets.stores import Store
from hime_mm.errors import CocoError, EncryptionError

from .catalog import packed, unpacked
from .cataloged import Cataloged
from .coco_intake import Intake
from .coco_places import FIRST, check_pictures, find_annotations, find_folder, is_folder
from .job import Item, Listing
from .source import path_inside


class CocoSource(Cataloged):
    """Pictures with COCO annotation files.

    Its arguments are those of :func:`~hime_mm.encryption.run.encrypt_coco`,
    and the ``names`` of its recipe.
    """

    kind = 'coco'
    renames = False  # ids are in the annotation files
    classes: dict[str, list[str]] | None = None

    def __init__(
        self,
        store: Store,
        names: str,
        annotations: Sequence[str] | None,
        images: Sequence[str] | None,
        licenses: bool,
        segmentation: bool,
        round_boxes: bool,
    ) -> None:
        super().__init__(store)
        self.options: dict[str, Any] = dict(licenses=licenses, segmentation=segmentation)
        if round_boxes:
            self.options['round_boxes'] = True
        self._dropped: set[str] = set()
        self.texts: list[dict] = []
        told = hashlib.sha256()
        for file, (path, given) in enumerate(_pairs(store, annotations, images)):
            digest, head = self._read(file, path)
            folder = given or find_folder(store, path, [*islice(self._names(file), FIRST)])
            self._add_items(file, path, folder, names)
            self.texts.append(
                dict(kind='coco', path=path, folder=folder, head=head, ordered=self._ordered(file))
            )
            told.update(f'{digest}\0{path}:{folder}\0'.encode(errors='surrogateescape'))
        self.dropped = sorted(self._dropped)
        self._digest = told.hexdigest()
        if not self.num:
            raise EncryptionError(f'the annotation files of {store.place("")} list no image')
        self._look_around()

    # --- Reading an annotation file ---------------------------------------------------------------

    def _read(self, file: int, path: str) -> tuple[str, dict]:
        """Put an annotation file into the catalog; its SHA-256, and what is handed over as is."""
        place = self.store.place(path)
        try:
            with self.store.open(path) as stream:
                hashed = _Hashed(stream)
                intake = Intake(self.catalog, file, place, self.options['segmentation'])
                coco = intake.read(cast(BinaryIO, hashed))
        except OSError as error:
            raise CocoError(f'cannot read the annotation file {place}: {error.strerror}') from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, CocoError):
                raise
            raise CocoError(
                f'the annotation file {place} is no JSON file, or damaged: {error}'
            ) from None
        self._dropped |= intake.dropped
        return hashed.digest.hexdigest(), coco_format.handed_lists(coco, self.options['licenses'])

    def _images(self, file: int) -> Iterator[tuple[int, Any]]:
        """Images of a file, which may be changed meanwhile."""
        query = 'SELECT place, json FROM images WHERE file = ? AND place > ? ORDER BY place'
        last = -1
        while some := self.catalog.run(f'{query} LIMIT 1000', file, last).fetchall():
            for last, text in some:
                yield last, json.loads(text)

    def _names(self, file: int) -> Iterator[str]:
        """File names of the pictures of a file, with forward slashes."""
        rows = self.catalog.run('SELECT name FROM images WHERE file = ? ORDER BY place', file)
        return (unpacked(name) for (name,) in rows)

    # --- Its pictures -----------------------------------------------------------------------------

    def _add_items(self, file: int, path: str, folder: str, names: str) -> None:
        """Number the pictures of a file; one that was listed before is encrypted once."""
        run = self.catalog.run
        run('CREATE UNIQUE INDEX IF NOT EXISTS item_of ON items (path, target)')
        place, num = self.store.place(path), self.num
        run('BEGIN')
        for i, image in self._images(file):
            name = image['file_name'].replace('\\', '/')
            stem = id_name(image['id']) if names == 'ids' else os.path.splitext(name)[0]
            source, target = (str(PurePosixPath(folder, one)) for one in (name, stem))
            shape = None
            if 'height' in image and 'width' in image:
                shape = (image['height'], image['width'])
            known = self.catalog.first(
                'SELECT n, height, width FROM items WHERE path = ? AND target = ?',
                packed(source),
                packed(target),
            )
            if known is None:
                known = (num, None, None)
                run(
                    'INSERT INTO items VALUES (?, ?, ?, ?, NULL, NULL)',
                    num,
                    packed(source),
                    packed(target),
                    packed(target.lower()),
                )
                num += 1
            if shape is not None and known[1] is None:
                run('UPDATE items SET height = ?, width = ? WHERE n = ?', *shape, known[0])
            elif shape not in (None, known[1:]):
                run('COMMIT')
                raise CocoError(
                    f'{place} gives {name} another size than before: {shape}, not {known[1:]}'
                )
            run('UPDATE images SET item = ? WHERE file = ? AND place = ?', known[0], file, i)
        run('COMMIT')
        run('CREATE INDEX IF NOT EXISTS listed ON images (item, file, place)')

    def _ordered(self, file: int) -> bool:
        """Whether the images of a file come in the order of the items."""
        last = -1
        for (item,) in self.catalog.run(
            'SELECT item FROM images WHERE file = ? ORDER BY place', file
        ):
            if item < last:
                return False
            last = item
        return True

    def items(self) -> Iterator[Item]:
        """Its pictures, in the order in which they are listed first."""
        query = 'SELECT n, path, target, height, width FROM items ORDER BY n'
        for n, path, target, height, width in self.catalog.run(query):
            yield Item(
                unpacked(path),
                unpacked(target),
                None if height is None else (height, width),
                [self._listing(*row) for row in self._listings(n)],
            )

    def _listings(self, item: int) -> list[tuple]:
        return self.catalog.run(
            'SELECT file, place, id, json FROM images WHERE item = ? ORDER BY file, place', item
        ).fetchall()

    def _listing(self, file: int, place: int, image_id: Any, text: str) -> Listing:
        image = json.loads(text)
        rows = self.catalog.run(
            # The planner would walk through the whole file.
            'SELECT json FROM annotations INDEXED BY annotated '
            'WHERE file = ? AND image = ? ORDER BY place',
            file,
            image_id,
        )
        kept = ('id', 'license') if self.options['licenses'] else ('id',)
        return Listing(
            file,
            place,
            {key: image[key] for key in kept if key in image},
            [json.loads(one) for (one,) in rows],
        )

    def _look_around(self) -> None:
        """Find what lies in the image folders and is not listed, and where they really lie."""
        for folder in sorted({text['folder'] for text in self.texts}):
            if is_folder(self.store, folder):  # else `check_pictures` says so
                self.walk(folder, 'no annotation file lists it')
        if self.store.local is not None:
            self._follow_links()
        self.catalog.run('DELETE FROM left_out WHERE path IN (SELECT path FROM items)')
        self.use(text['path'] for text in self.texts)
        for folder, _ in self.catalog.parents('path'):
            self.use([folder])

    def _follow_links(self) -> None:
        """Note where folders of pictures lie that were not walked, since they are hidden."""
        for folder, _ in self.catalog.parents('path'):
            with suppress(ValueError):  # such as a NUL in the name
                real = os.path.realpath(self.store.place(folder))
                if real not in self.real:
                    self.linked.add(real)

    def check_pictures(self) -> None:
        """Refuse annotation files of which no picture is there."""
        folders = {text['path']: text['folder'] for text in self.texts}
        check_pictures(self.store, folders, lambda path: self._names([*folders].index(path)))


class _Hashed:
    """A file of which the SHA-256 is computed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Some bytes of it."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _pairs(
    store: Store, annotations: Sequence[str] | None, images: Sequence[str] | None
) -> list[tuple[str, str | None]]:
    """Annotation files and image folders, relative to the source; None where it is not given."""
    if annotations is None:
        annotations = find_annotations(store)
    paths = [path_inside(store, path) for path in annotations]
    folders: list[str | None] = [None] * len(paths)
    if images is not None:
        folders = [path_inside(store, folder) for folder in images]
    if len(folders) != len(paths):
        raise EncryptionError(
            f'{len(paths)} annotation files, but {len(folders)} image folders: '
            'give one folder for each file with `images=...`'
        )
    pairs = list(zip(paths, folders, strict=True))
    for path, folder in pairs:
        if folder is not None and not is_folder(store, folder):
            raise EncryptionError(
                f'{store.place("")} has no folder {folder} for {path}: '
                'name that of its pictures with `images=...`'
            )
    if len(set(paths)) != len(paths):
        raise EncryptionError('an annotation file is named twice')
    return pairs
