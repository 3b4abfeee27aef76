# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The client's side of inference.

Encrypt a picture, have any model of MMDetection or MMPretrain look at it, and map back what it
found.
"""

import os
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from hime_mm.ciphers import Cipher, Key, PatchLayout
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.ciphers.layout import reduce_secret
from hime_mm.datasets.manifest import Manifest, find_manifest
from hime_mm.errors import ClientError, ManifestError
from hime_mm.images import Recipe, seal
from hime_mm.images.codec import encode_image
from hime_mm.images.files import write_atomic
from hime_mm.images.preprocess import Preprocess

from .models import run_model, unwrapped
from .pictures import describe_picture, load_picture
from .restore import Mapper

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = 'str | os.PathLike | bytes | BinaryIO | Image | np.ndarray'


@dataclass(frozen=True, eq=False, repr=False)
class EncryptedPicture:
    """A picture that may be handed over, and what maps results back.

    Attributes:
        img (np.ndarray): The encrypted picture; hand this over, by
            :meth:`save` or as it is.
        layout (PatchLayout): Between the original and the encrypted picture,
            with the permutation of patches that were moved: keep it, and this
            object with it. A pickle of this object has it, too.
        in_place (bool): Whether all pixels stayed where they were, so that
            masks can be mapped back too.
    """

    img: np.ndarray
    layout: PatchLayout
    in_place: bool = True

    @property
    def cropped(self) -> bool:
        """bool: Whether only the middle of the original is in it."""
        return self.layout.cropped

    @property
    def public(self) -> PatchLayout:
        """PatchLayout: The layout without what undoes it."""
        return self.layout.public()

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Write the encrypted picture as PNG, without loss or metadata.

        Raises:
            ClientError: If the name does not end with ``.png``.
            OSError: If the file is there, without ``overwrite``, or cannot be
                written.
        """
        path = os.fspath(path)
        if not path.lower().endswith('.png'):
            raise ClientError(
                f'{path} does not end with .png: an encrypted picture is stored without loss'
            )
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError(
                f'{path} is there already: choose another file, or give `overwrite=True`'
            )
        write_atomic(path, encode_image(self.img))

    def __reduce__(self) -> tuple:
        # A layout alone is pickled without the permutation.
        return _unpickle, (self.img, reduce_secret(self.layout), self.in_place)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(img={describe_picture(self.img)}, '
            f'ori_shape={tuple(self.layout.ori_shape)})'
        )


def _unpickle(img: np.ndarray, layout: tuple, in_place: bool) -> EncryptedPicture:
    make, args = layout
    return EncryptedPicture(img, make(*args), in_place)


class Client:
    """Encrypts pictures for inference and maps results back.

    Every picture gets randomness of its own from the operating system, also
    the same picture a second time; only what a cipher draws once per data set
    (``permute_pixels``) comes from the data set's key.

    Args:
        cipher (str | dict | Sequence | Cipher): The cipher or preset that the
            model was trained with.
        preprocess (Preprocess | dict, optional): How pictures are read and
            sized before, as the model's training pictures were; augmentation
            is left out. None reads files in colour, takes arrays as they are,
            and only fits their sides to the patches. Defaults to None.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        key (Key, optional): The key of the data set that the model was
            trained on, for ciphers that need it. Defaults to None.
        dataset_id (str, optional): The id of that data set. Defaults to None.

    Raises:
        ClientError: If the cipher needs a key and an id.

    Examples:
        >>> import numpy as np
        >>> from hime_mm.apis import Client
        >>> client = Client('mix2+shuffle')
        >>> encrypted = client.encrypt(np.zeros((64, 96, 3), np.uint8))
        >>> encrypted
        EncryptedPicture(img=32x48x3 uint8, ori_shape=(64, 96))
        >>> client.restore(np.array([[8., 8, 16, 16]]), encrypted).shape
        (1, 4)
    """

    def __init__(
        self,
        cipher: CipherLike,
        preprocess: None | dict | Preprocess = None,
        patch_size: int | None = None,
        key: Key | None = None,
        dataset_id: str | None = None,
    ) -> None:
        # Arrays that the owner gives without more are as they have to be.
        self._convert = preprocess is not None
        recipe = Recipe.build(cipher, patch_size, preprocess)
        self.recipe = replace(recipe, preprocess=recipe.preprocess.fixed())
        shared = self.cipher.shared
        if shared and (key is None or dataset_id is None):
            raise ClientError(
                f'{", ".join(map(str, shared))} is the same for all pictures '
                'of a data set: give its key and `dataset_id`, or use '
                '`Client.from_manifest(path, key=...)`'
            )
        self._key = key if shared else None
        self._dataset_id = dataset_id or ''

    @classmethod
    def from_manifest(cls, path: str | os.PathLike, key: Key | None = None) -> 'Client':
        """A client for models that were trained on an encrypted data set.

        Pictures are read, sized and encrypted as those of the data set were,
        without their augmentation.

        Args:
            path (str | PathLike): Its manifest ``hime.json``, or its folder.
            key (Key, optional): The owner's key. Only a cipher that draws
                something once per data set needs it. Defaults to None.

        Raises:
            ManifestError: If there is no manifest, or it was changed.
            InvalidKey: If the key is another one.
        """
        manifest = Manifest.load(path)
        if key is not None:
            manifest.check_key(key)
        return cls(
            manifest.cipher, manifest.recipe.preprocess, key=key, dataset_id=manifest.dataset_id
        )

    @property
    def cipher(self) -> Cipher:
        """Cipher: What pictures are encrypted with."""
        return self.recipe.cipher

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({str(self.cipher)!r}, '
            f'patch_size={self.cipher.patch_size}, '
            f'preprocess={self.recipe.preprocess.to_dict()})'
        )

    def encrypt(self, picture: Picture) -> EncryptedPicture:
        """Encrypt one picture.

        Args:
            picture (str | PathLike | bytes | BinaryIO | PIL.Image | np.ndarray):
                A file name, the content of a file, a file that is open in
                binary mode and is read to its end, a picture of PIL, or an
                array of shape (H, W, C) in BGR or (H, W), uint8 or uint16.
                A PIL picture is taken as if it were read from a PNG file:
                by the color type, which may turn it as its EXIF orientation
                says. Of an animation it is the frame that it shows.

        Returns:
            EncryptedPicture: Its pixels, and what maps results back.

        Raises:
            ClientError: If it is encrypted already, as far as can be told:
                of files that are named, whether they lie in an encrypted
                data set. Or if its pixels need more than 16 bits.
            TypeError: If it is none of these.
            PictureError: If it is empty or cannot be read, or its size does
                not fit the cipher.
        """
        # A new name for each picture: what is drawn for it alone is new, what
        # is drawn for the data set is the data set's.
        rng = (
            None
            if self._key is None
            else self._key.image_rng(self._dataset_id, f'client/{secrets.token_hex(16)}')
        )
        sealed = seal(self._read(picture), self.recipe, rng)
        return EncryptedPicture(sealed.img, sealed.layout, in_place=not self.cipher.moves_pixels)

    def _read(self, picture: Picture) -> np.ndarray:
        if isinstance(picture, EncryptedPicture):
            raise ClientError(
                'this picture is encrypted already: give it to `predict`, or encrypt the original'
            )
        if isinstance(picture, (str, os.PathLike)):
            _check_plain(os.fspath(picture))
        return load_picture(picture, self.recipe.preprocess, self._convert)

    def predict(
        self,
        picture: 'Picture | EncryptedPicture',
        model: Any,
        nms: float | None = None,
        clip: bool = True,
        color_type: str = 'color',
        metainfo: dict | None = None,
    ) -> Any:
        """Have a model look at the encrypted picture, and map the result back.

        The model gets the encrypted picture and nothing else. Its own
        pipeline is not used, so nothing is resized or encrypted twice; its
        data preprocessor is.

        Where patches are moved, the model's own non-maximum suppression
        compares boxes that are not where they belong, and may remove some
        that only meet by chance: a high IoU in its ``test_cfg`` leaves that
        to this method. A head that cuts boxes to the picture, as most of
        MMDetection's do, spoils those that stick out of it there and lie
        inside of the original.

        Args:
            picture (Picture | EncryptedPicture): A picture to encrypt, in
                any form that :meth:`encrypt` takes, or one that it gave.
            model: MMDetection's ``DetInferencer``, MMPretrain's
                ``ImageClassificationInferencer``, or a model as
                ``init_detector``, ``get_model`` or ``MODELS.build`` make it.
                A model that is built from a config alone has to have its
                ``data_preprocessor`` set.
            nms (float, optional): IoU of the non-maximum suppression in the
                original picture; 1 keeps all boxes. None is 0.5 where patches
                were moved, else 1. Defaults to None.
            clip (bool): Cut boxes to the picture. Defaults to True.
            color_type (str): As the ``LoadImageFromFile`` of the model's
                training has it. Defaults to 'color', three channels of 8
                bits.
            metainfo (dict, optional): Further meta information of the data
                sample, such as the ``text`` that some detectors ask for.
                Defaults to None.

        Returns:
            DetDataSample | DataSample: A detector's, in pixels of the
            original picture, or a classifier's as it is.

        Raises:
            TypeError: If ``model`` cannot be called.
            ClientError: If it is a model of several views, or its result
                cannot be mapped back.
        """
        model = unwrapped(model)
        encrypted = picture if isinstance(picture, EncryptedPicture) else self.encrypt(picture)
        mapper = Mapper(encrypted.layout, encrypted.in_place, nms, clip)
        return mapper(run_model(model, encrypted.img, color_type, metainfo or {}))

    def restore(
        self,
        predictions: Any,
        encrypted: EncryptedPicture,
        nms: float | None = None,
        clip: bool = True,
    ) -> Any:
        """Map results from elsewhere to the original picture.

        They have to be in pixels of the encrypted picture, as a model gives
        them whose pipeline does not resize.

        Args:
            predictions: A ``DetDataSample``; ``DetInferencer``'s dict with
                the key ``predictions``, or one of these predictions, with the
                keys ``bboxes``, ``scores`` and ``labels``; or an array or
                tensor of shape (n, 4) or more, (x1, y1, x2, y2, ...). What
                has no boxes, such as the result of a classifier, is given
                back as it is.
            encrypted (EncryptedPicture): What the model looked at.
            nms (float, optional): As in :meth:`predict`; not for bare arrays.
                Defaults to None.
            clip (bool): Cut boxes to the picture. Defaults to True.

        Returns:
            The same kind of result, new, in pixels of the original picture.
            Of what else a detector says, only what is no geometry is kept,
            with a warning.

        Raises:
            ClientError: If the results are not in pixels of the encrypted
                picture, or have a form that is not known.
        """
        if not isinstance(encrypted, EncryptedPicture):
            raise TypeError(
                f'`encrypted` is what `Client.encrypt` gave, got {type(encrypted).__name__}'
            )
        return Mapper(encrypted.layout, encrypted.in_place, nms, clip)(predictions)


def _check_plain(path: str) -> None:
    """Refuse a file of an encrypted data set: it would be encrypted twice."""
    try:
        manifest = find_manifest(path)
    except ManifestError:
        return
    raise ClientError(
        f'{path} lies in an encrypted data set ({manifest}), so '
        'it is encrypted already. If not, give it as an array'
    )
