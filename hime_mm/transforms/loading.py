# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Take the facts of an encrypted data set into a pipeline."""

import hashlib
from typing import Any

import numpy as np

from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import BoxError, HimeError, ManifestError, PictureError
from hime_mm.images.files import file_sha256
from hime_mm.registry import TRANSFORMS
from hime_mm.run_check import check_current_run

from .base import NamedTransform
from .remote import backend_of, is_remote, load_remote, remote_entry

COORDINATES = ('encrypted', 'original')


def check_coordinates(manifest: Manifest, coordinates: str) -> None:
    """Refuse the original's coordinates where nobody here knows them.

    Raises:
        BoxError: With the reason and what to do instead.
    """
    obstacle = manifest.overview.obstacle
    if coordinates == 'original' and obstacle:
        raise BoxError(
            f"`coordinates='original'` does not go with "
            f'{manifest.place}, cipher '
            f'{str(manifest.cipher)!r}: {obstacle}. Use '
            "`coordinates='encrypted'`"
            + (
                '; the owner maps predictions back with `hime boxes`'
                if manifest.overview.needs_key
                else ''
            )
        )


@TRANSFORMS.register_module()
class LoadEncryptedMeta(NamedTransform):
    """Take what the manifest of an encrypted data set says of an image.

    For folders that ``hime encrypt`` made. It stands right behind
    ``LoadImageFromFile``, before or after ``LoadAnnotations``; no transform
    of hime_mm encrypts in the same pipeline, and nothing resizes, crops or
    recolours. Flips are allowed: they commute with every step but
    ``permute_pixels``.

    The annotation file that was handed over is in pixels of the encrypted
    images, which is what a loss needs, so boxes are never touched. What
    ``coordinates`` decides is where predictions come back:

    - ``'encrypted'``: in the same pixels, for metrics with the annotation
      file that was handed over. Where patches stay in their places, AP, AP50
      and AP75 of COCO are those of the original; small, medium and large are
      not, since their areas are absolute and encrypted images are smaller.
    - ``'original'``: in pixels of the original, for a metric with the
      original annotation file as its ``ann_file``; all metrics are those of
      encrypting in the pipeline. Only for test pipelines, and not for metrics
      that take boxes from the pipeline, which are the encrypted ones. Not
      possible where patches were moved or images were augmented.

    An image that comes without ``img_path``, as arrays do in the inferencers
    of both hosts, is taken for an encrypted one that the manifest does not
    know: predictions come back in its own pixels.

    Required Keys:

    - img (np.ndarray, (H, W) or (H, W, C))
    - img_path (str) (optional)

    Modified Keys:

    - img_shape
    - ori_shape
    - scale_factor (replaced)

    Added Keys:

    - cipher (:obj:`Cipher`)
    - patch_layout (:obj:`PatchLayout`): between the original and the
      encrypted image, without the permutation. Neither for an image without
      ``img_path``.

    Args:
        manifest (str, optional): Path of ``hime.json`` or of its folder. None
            searches upwards from the image. Where images are read from URLs
            it is one, too, above them. Defaults to None.
        coordinates (str): ``'encrypted'`` or ``'original'``, those of the
            predictions. Defaults to 'encrypted'.
        verify (bool): Read each file a second time and compare its SHA-256
            with the manifest's. Defaults to False.
        backend_args (dict, optional): As ``LoadImageFromFile``'s, for what
            is read here. A manifest at an URL is read once per process.
            Defaults to None.

    Raises:
        HimeError: If an option is unknown.
    """

    def __init__(
        self,
        manifest: str | None = None,
        coordinates: str = 'encrypted',
        verify: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        self._check_choice('coordinates', coordinates, COORDINATES)
        self.manifest = None if manifest is None else str(manifest)
        self.coordinates = coordinates
        self.verify = verify
        self.backend_args = None if backend_args is None else dict(backend_args)
        check_current_run()

    def transform(self, results: dict) -> dict:
        """Add the manifest's facts to one sample.

        Raises:
            KeyError: If there is no ``img``.
            ManifestError: If there is no manifest, or the file is not in it.
            HimeError: If the image is not what the manifest says, or is
                encrypted in this pipeline too.
        """
        img = self._image(results, 'right behind `LoadImageFromFile`')
        with self._naming_errors():
            metainfo = self._metainfo(results, img)
        results.update(img=img, img_shape=img.shape[:2], **metainfo)
        return results

    def _metainfo(self, results: dict, img: np.ndarray) -> dict:
        if results.get('patch_layout') is not None:
            raise HimeError(
                'this pipeline has encrypted the image already: leave '
                '`hime_mm.Encrypt` out, or for a plain data set this transform'
            )
        path = results.get('img_path')
        if path is None:
            self._check_bare(img)
            return dict(ori_shape=img.shape[:2], scale_factor=(1.0, 1.0))
        path = str(path)
        try:
            manifest, entry = self._find(path)
        except ManifestError as error:
            raise ManifestError(
                f'{error}. If the owner has added it since, get '
                f'{MANIFEST_NAME} again; an encrypted image from elsewhere '
                'can be given to an inferencer as an array'
            ) from None
        check_coordinates(manifest, self.coordinates)
        self._check_image(path, img, entry)
        if self.verify:
            self._check_hash(path, entry)
        original = self.coordinates == 'original'
        return dict(
            ori_shape=entry.ori_shape if original else entry.shape,
            scale_factor=entry.scale if original else (1.0, 1.0),
            cipher=manifest.cipher,
            patch_layout=manifest.layout(entry),
        )

    def _backend(self, path: str) -> Any:
        """What reads a path, None for the disk."""
        return backend_of(path, self.backend_args) if is_remote(path, self.backend_args) else None

    def _find(self, path: str) -> tuple[Manifest, FileEntry]:
        backend, named = self._backend(path), self.manifest
        if named is not None and is_remote(named, self.backend_args) != (backend is not None):
            raise ManifestError(f'{path} does not lie below the manifest {named}')
        if backend is not None:
            return remote_entry(path, named, backend)
        manifest = load_manifest(named or find_manifest(path))
        return manifest, manifest.entry(path)

    @staticmethod
    def _check_image(path: str, img: np.ndarray, entry: FileEntry) -> None:
        if img.shape[:2] != entry.shape:
            raise PictureError(
                f'{path} came in as {_size(img.shape)}, but its manifest says '
                f'{_size(entry.shape)} (height x width): have nothing in '
                'between that resizes or crops; if nothing does, the file is '
                'not the one that the owner encrypted'
            )
        channels = img.shape[2] if img.ndim == 3 else 1
        # A grayscale file may be loaded in colour, nothing is lost then.
        if channels != entry.channels and (channels, entry.channels) != (3, 1):
            color_type = 'color' if entry.channels == 3 else 'unchanged'
            raise PictureError(
                f'{path} came in with {channels} channels, but its manifest '
                f'says {entry.channels}: load it with '
                f'`LoadImageFromFile(color_type={color_type!r})`'
            )

    def _check_hash(self, path: str, entry: FileEntry) -> None:
        backend = self._backend(path)
        digest = (
            file_sha256(path)
            if backend is None
            else hashlib.sha256(bytes(backend.get(path))).hexdigest()
        )
        if digest != entry.sha256:
            raise PictureError(
                f'{path} is not the file that the owner encrypted, its '
                f'SHA-256 is {digest} instead of {entry.sha256}: get it again'
            )

    def _check_bare(self, img: np.ndarray) -> None:
        if self.manifest is None:
            return
        backend = self._backend(self.manifest)
        manifest = (
            load_manifest(self.manifest) if backend is None else load_remote(self.manifest, backend)
        )
        cipher = manifest.cipher
        side = cipher.encrypted_patch_size
        if img.shape[0] % side or img.shape[1] % side:
            raise PictureError(
                f'the image is {_size(img.shape)} (height x width), but '
                f'{cipher!r} gives multiples of {side}: it has to be '
                'encrypted, at the size the model was trained with'
            )


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[0]}x{shape[1]}'
