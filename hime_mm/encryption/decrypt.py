# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Undo the encryption of a data set, where its cipher allows."""

import os
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple

from hime_mm.ciphers import Key
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import Store, open_store
from hime_mm.errors import EncryptionError, UnreadableImage
from hime_mm.images.codec import encode_image
from hime_mm.images.files import remove_leftovers

from .verify import Report, find_problems, read_entry


class _Decryption(NamedTuple):
    manifest: Manifest
    out: str
    partial: bool


def _decrypt_entry(task: _Decryption, key: Key | None, entry: FileEntry) -> str | None:
    manifest = task.manifest
    try:
        img = read_entry(manifest, entry)
    except UnreadableImage as error:
        return str(error)
    assert key is not None  # `decrypt_dataset` has seen to it
    img = manifest.cipher.decrypt(img, manifest.draw(entry, key), task.partial)
    if manifest.preprocess.get('fit') == 'pad':
        # Without what was filled up below and right.
        crop, cipher = manifest.preprocess.get('center_crop'), manifest.cipher
        if crop is not None:
            shrink = cipher.encrypted_patch_size / cipher.patch_size
            h, w = (round(side * shrink) for side in crop[::-1])
        else:
            h, w = (
                round(side * scale)
                for side, scale in zip(entry.ori_shape, entry.scale[::-1], strict=True)
            )
        img = img[:h, :w]
    path = os.path.splitext(entry.path)[0] + '.png'
    open_store(task.out).write(path, encode_image(img), sync=False)
    return None


def decrypt_dataset(
    path: str,
    out: str,
    key: Key | None = None,
    partial: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Undo the encryption of a data set, where its cipher allows.

    The pictures come back as PNG in the size at which they were encrypted,
    with its augmentation, if there was one.

    Args:
        path (str): The folder of the data set, or its URL.
        out (str): Folder to write to, new or empty, or its URL.
        key (Key, optional): The owner's key. Defaults to None.
        partial (bool): Where a step deletes data, undo those after it.
            Defaults to False.
        workers (int): Number of processes, as of
            :func:`~hime_mm.apis.encrypt_coco`. Defaults to 0.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Report: Files that could not be decrypted are its problems.

    Raises:
        EncryptionError: If the cipher cannot be undone, or ``out`` is not
            empty.
        InvalidKey: If the key is missing or another one.
        ManifestError: If there is no manifest, or it was changed.
    """
    manifest = Manifest.load(path)
    cipher = manifest.cipher
    invertible = [str(step) for step in takewhile(attrgetter('invertible'), reversed(cipher.steps))]
    if not invertible or (not cipher.invertible and not partial):
        irreversible = ', '.join(str(s) for s in cipher.steps if not s.invertible)
        raise EncryptionError(
            f'{path} cannot be decrypted: {irreversible} of its cipher '
            f'{str(cipher)!r} deletes data'
            + (
                f'; what comes after it ({", ".join(invertible)}) can be undone '
                'by a partial decryption, `partial=True`'
                if invertible
                else ''
            )
        )
    if key is None:
        raise EncryptionError(
            f'{path} was encrypted one-way: nobody can undo it'
            if manifest.key_id is None
            else f'{path} needs the key {manifest.key_id}: give it as `key`'
        )
    manifest.check_key(key)
    store = open_store(out)
    if _is_taken(store):
        raise EncryptionError(f'{out} is not empty: choose a new folder')
    if manifest.holds(out):
        raise EncryptionError(
            f'{out} lies in {path}: the plain pictures must '
            'not be handed over with the encrypted ones'
        )
    problems = find_problems(
        _decrypt_entry,
        _Decryption(manifest.without_files(), out, partial),
        key,
        manifest.entries(),
        manifest.num_files,
        workers,
        'decrypt' if progress else None,
    )
    report = Report(files=manifest.num_files, problems=sorted(problems))
    if store.local is not None:
        remove_leftovers(store.local)  # of a worker that died
    return report


def _is_taken(store: Store) -> bool:
    """Whether something is there, which may be no folder."""
    try:
        return any(True for _ in store.list())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True
