# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""All settings of an encryption as one object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hime_mm.ciphers import Cipher, Key
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.errors import EncryptionError, HimeError

from .codec import FORMATS, check_encoding
from .preprocess import Preprocess
from .settings import check_settings, setting

#: How the pictures of a data set lie there.
STORAGES = ('files', 'tar')


@dataclass(frozen=True)
class Recipe:
    """How pictures become encrypted ones; holds no secret.

    Args:
        cipher (Cipher): The steps.
        preprocess (Preprocess): How pictures are read, sized and augmented
            before.
        views (int): Encrypted files per picture, each with its own
            augmentation and randomness. Defaults to 1.
        names (str): ``'keep'`` keeps file names, ``'ids'`` replaces them by
            image ids, or in a folder by 16 hexadecimal digits that a key
            gives, and without a key are random. Folders keep their names.
            Defaults to 'keep'.
        fmt (str): ``'png'`` or ``'webp'`` (lossless). Defaults to 'png'.
        compression (int, optional): For PNG, 0 (large) to 9 (small). None is
            OpenCV's fast setting. Defaults to None.
        storage (str): ``'files'``, a file for each picture, or ``'tar'``, a
            tar for each shard. Defaults to 'files'.
        one_way (bool): Draw randomness from the operating system and keep
            nothing: nobody can undo it. Defaults to False.

    Raises:
        EncryptionError: If the settings contradict each other.
        HimeError: If one is unknown or out of range.
    """

    cipher: Cipher
    preprocess: Preprocess = field(default_factory=Preprocess)
    views: int = setting(
        1,
        'Encrypted files per picture, each with its own augmentation and randomness.',
        int,
        low=1,
        metavar='K',
    )
    names: str = setting('keep', 'File names leak: replace them by ids?', choices=('keep', 'ids'))
    fmt: str = setting(
        'png',
        'Lossless file format; `tar` and `tar:webp` put the pictures of each shard into a tar.',
        choices=FORMATS,
        flags=('--format',),
    )
    compression: int | None = setting(
        None,
        "PNG, from 0 (large) to 9 (small).  [default: OpenCV's fast setting]",
        int,
        low=0,
        high=9,
        metavar='L',
    )
    one_way: bool = setting(
        False,
        'Draw randomness from the operating system and keep nothing: nobody can undo it.',
        bool,
    )

    storage: str = 'files'

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise HimeError(f'unknown `storage` {self.storage!r}, choose from {STORAGES}')
        check_encoding(self.fmt, self.compression)
        check_settings(self)
        self.cipher.check_fit(self.preprocess.fit)
        color_type = self.preprocess.color_type
        if self.fmt == 'webp' and color_type not in ('color', 'color_ignore_orientation'):
            raise EncryptionError(
                f"'webp' stores three channels of 8 bits, not {color_type!r}: use `fmt='png'`"
            )
        if self.one_way and self.cipher.shared:
            raise EncryptionError(
                f'the cipher {str(self.cipher)!r} has a permutation that all '
                'images share, so it needs `key` in place of `one_way`'
            )
        if self.views > 1 and not self.random:
            raise EncryptionError(
                f'all {self.views} views of a picture would be equal: nothing '
                f'is random in {str(self.cipher)!r} without augmentation'
            )

    @classmethod
    def build(
        cls,
        cipher: CipherLike,
        patch_size: int | None = None,
        preprocess: None | Mapping | Preprocess = None,
        **settings: Any,
    ) -> 'Recipe':
        """Make a recipe from the written forms of its parts.

        Args:
            cipher (str | dict | Sequence | Cipher): The cipher or a preset,
                see :meth:`hime_mm.ciphers.Cipher.build`.
            patch_size (int, optional): Side of a patch in pixels. None is the
                cipher's own, or 16. Defaults to None.
            preprocess (Preprocess | dict, optional): None only fits sizes to
                the patches. Defaults to None.
            **settings: The other fields of a recipe.
        """
        if not isinstance(preprocess, Preprocess):
            preprocess = Preprocess.from_dict(preprocess or {})
        return cls(Cipher.build(cipher, patch_size), preprocess, **settings)

    @property
    def random(self) -> bool:
        """bool: Whether anything is drawn for a picture."""
        return self.cipher.random or self.preprocess.random

    def check(self, key: Key | None) -> None:
        """Refuse a run that lacks its key, or was given one too many.

        Raises:
            EncryptionError: If randomness is needed and there is neither a
                key nor ``one_way``, or if there are both.
        """
        if key is not None and self.one_way:
            raise EncryptionError('give `key` or `one_way`, not both')
        if self.random and key is None and not self.one_way:
            raise EncryptionError(
                f'the cipher {str(self.cipher)!r}, or the augmentation, draws '
                'randomness: give `key` (`hime keygen` makes one), or choose one-way, '
                '`one_way=True`, which keeps nothing that could undo it'
            )

    def to_dict(self) -> dict:
        """What a manifest's head says of the recipe, as plain values."""
        return dict(
            cipher=self.cipher.to_dict(),
            cipher_text=str(self.cipher),
            preprocess=self.preprocess.to_dict(),
            image_format=dict(format=self.fmt, compression=self.compression),
            views=self.views,
            names=self.names,
            storage=self.storage,
        )

    @classmethod
    def from_dict(cls, state: Mapping) -> 'Recipe':
        """The recipe of a manifest's head, with the keys of :meth:`to_dict` and ``mode``."""
        image_format = state['image_format']
        return cls.build(
            state['cipher'],
            preprocess=state['preprocess'],
            views=state['views'],
            names=state['names'],
            fmt=image_format['format'],
            compression=image_format['compression'],
            one_way=state.get('mode') == 'one-way',
            storage=state.get('storage', 'files'),  # version 1 has no other
        )
