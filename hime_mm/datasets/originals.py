# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which original each file of a data set was made of, in the folder that was encrypted."""

import hmac
import os
import posixpath
import re
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from hime_mm.ciphers import Key
from hime_mm.errors import HimeError, ManifestError, PictureError
from hime_mm.images.codec import EXTENSIONS, read_bytes
from hime_mm.images.reading import read_picture

from .coco import load_coco
from .manifest import Manifest
from .writing import MANIFEST_NAME

_DIGITS = 16


def is_picture(path: str) -> bool:
    """Whether a file is a picture, by its extension."""
    return os.path.splitext(path)[1].lower() in EXTENSIONS


def name_secret(key: Key | None, dataset_id: str, kept: str | None = None) -> bytes | None:
    """What the names of a data set are made with.

    Args:
        key (Key, optional): The owner's key; they are derived from it where there is one.
        dataset_id (str): The data set's id.
        kept (str, optional): What :func:`~hime_mm.encryption.names.draw_secret` gave for this
            run. Defaults to None.

    Returns:
        bytes | None: None where names were random and it was not kept.
    """
    if key is not None:
        return key.derive('name', dataset_id)
    return None if kept is None else bytes.fromhex(kept)


def new_name(path: str, secret: bytes) -> str:
    """Path of the encrypted file of a picture, without extension, where ids replace names.

    It is the authentication code of the path under the secret, cut short, in the same folder:
    ``docs/format.md`` specifies it.
    """
    # Names of files need not be UTF-8.
    name = hmac.digest(secret, path.encode(errors='surrogateescape'), 'sha256').hex()[:_DIGITS]
    return posixpath.join(posixpath.dirname(path), name)


class Originals:
    """The pictures that a data set was made of.

    Args:
        folder (str): The folder that was encrypted.
        manifest (Manifest): Of the data set.
        key (Key, optional): The owner's key, which names of ids are derived
            from where these are not in annotation files. Defaults to None.

    Raises:
        HimeError: If these are no originals, or the names cannot be told.
    """

    def __init__(self, folder: str, manifest: Manifest, key: Key | None = None) -> None:
        self.folder, self._manifest = folder, manifest
        self._listed: dict[str, str] | None = None
        self._secret: bytes | None = None
        self._names = lru_cache(maxsize=None)(self._in_folder)
        if not os.path.isdir(folder):
            raise HimeError(f'{folder} is no folder: give the one that was encrypted')
        if os.path.exists(os.path.join(folder, MANIFEST_NAME)):
            raise ManifestError(
                f'{folder} is an encrypted data set itself: give the folder that was encrypted'
            )
        if manifest.recipe.names == 'ids':
            if manifest.state.get('kind') == 'coco':
                self._listed = self._by_id()
            else:
                self._secret = name_secret(key, manifest.dataset_id)
                if self._secret is None:
                    raise ManifestError(
                        f'{manifest.root} has ids in the place of names: '
                        + (
                            f'give the key {manifest.key_id}, which tells them, as `key`'
                            if manifest.key_id is not None
                            else 'without a key nothing was kept that tells them'
                        )
                    )

    def path(self, name: str) -> str | None:
        """Path of the original of an encrypted file, relative to the folder; None for none.

        Args:
            name (str): The file's path in the data set.
        """
        target = os.path.splitext(name)[0]
        if self._manifest.recipe.views > 1:
            target = re.sub(r'_v\d+$', '', target)
        if self._listed is not None:
            return self._listed.get(target)
        return self._names(posixpath.dirname(target)).get(target)

    def read(self, name: str) -> np.ndarray:
        """The original of an encrypted file, as it was read to be encrypted, before any sizing.

        Args:
            name (str): The file's path in the data set.

        Returns:
            np.ndarray: Shape (H, W) or (H, W, C), BGR, uint8 or uint16.

        Raises:
            PictureError: If it is missing or cannot be read.
        """
        path = self.path(name)
        if path is None:
            raise PictureError(
                f'no picture of that name is in {self.folder}: give the folder that was encrypted'
            )
        data = read_bytes(os.path.join(self.folder, path))
        return read_picture(data, self._manifest.recipe.preprocess).img

    def _in_folder(self, inside: str) -> dict[str, str]:
        """Pictures of a folder by the path of their encrypted files, without extension."""
        try:
            names = sorted(os.listdir(os.path.join(self.folder, inside)))
        except (OSError, ValueError):  # such as a NUL in the name
            return {}
        paths = [posixpath.join(inside, name) for name in names if is_picture(name)]
        if self._secret is not None:
            return {new_name(path, self._secret): path for path in paths}
        return {os.path.splitext(path)[0]: path for path in paths}

    def _by_id(self) -> dict[str, str]:
        found = {}
        for row in self._manifest.annotations:
            coco = self.annotations(row['path'])
            if coco is None:
                raise ManifestError(
                    f'{self._manifest.root} has image ids in the place of names, and '
                    f'{self.folder} has no file {row["path"]} that tells them: '
                    'give the folder that was encrypted'
                )
            for image in coco['images']:
                target = PurePosixPath(row['images_folder'], id_name(image['id']))
                name = image['file_name'].replace('\\', '/')
                found[str(target)] = str(PurePosixPath(row['images_folder'], name))
        return found

    def annotations(self, path: str) -> dict | None:
        """What one of the data set's annotation files was made of, if it is there.

        Args:
            path (str): Its path in the data set.

        Raises:
            CocoError: If it is no valid one.
        """
        file = os.path.join(self.folder, path)
        return load_coco(file) if os.path.isfile(file) else None


def id_name(image_id: int) -> str:
    """Name of the encrypted file of a picture in a COCO data set, where ids replace names."""
    return f'{image_id:012d}'
