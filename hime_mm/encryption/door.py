# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a run refuses before it begins."""

import os

from hime_mm.ciphers import Key
from hime_mm.ciphers.keys import looks_like_key
from hime_mm.datasets.writing import FORMAT_NAME, MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images import Recipe

from .job import Job
from .journal import WORK_NAME
from .source import Source, check_targets
from .walk import lies_in


def make_job(src: str, out: str, recipe: Recipe, key: Key | None, dataset_id: str | None) -> Job:
    """What is asked for, where nothing speaks against it.

    Raises:
        HimeError: If something does.
    """
    recipe.check(key)
    if dataset_id is not None and looks_like_key(dataset_id):
        raise InvalidKey(
            'a key was given as the id of the data set, which '
            'is handed over: make a new key if others may have '
            'seen this one'
        )
    try:
        (dataset_id or '').encode()
    except UnicodeEncodeError:
        raise EncryptionError(
            'the id of the data set is not UTF-8: choose another one as `dataset_id`'
        ) from None
    if not os.path.isdir(src):
        raise EncryptionError(f'there is no folder {src}')
    real, real_out = os.path.realpath(src), os.path.realpath(out)
    if lies_in(real, real_out) or lies_in(real_out, real):
        raise EncryptionError(
            f'{out} and {src} lie in each other: the plain pictures must not '
            'be handed over with the encrypted ones'
        )
    return Job(src, out, recipe, dataset_id or '')


def check_source(source: Source, job: Job, strict: bool) -> None:
    """Refuse a source that cannot be encrypted into the output.

    Args:
        source (Source): The source.
        job (Job): The run.
        strict (bool): Whether nothing may be left out.

    Raises:
        EncryptionError: If it is encrypted already, none of its pictures is
            there, two of its files would become one, or the output lies among
            its pictures.
    """
    if strict and source.left_out:
        (path, reason), num = source.left_out[0], len(source.left_out)
        raise EncryptionError(
            f'{num} files or folders would be left out, first {path}: {reason}. Move them '
            'elsewhere, or do without `strict=True`'
        )
    _check_places(job.out, source)
    # What an earlier run has finished stays, even if the plain pictures are gone.
    if not any(os.path.exists(os.path.join(job.out, n)) for n in (WORK_NAME, MANIFEST_NAME)):
        source.check_pictures(job.src)
    check_targets(job, source)


def _check_places(out: str, source: Source) -> None:
    """Refuse pictures that are encrypted already, and an output among them."""
    real = os.path.realpath(out)
    asked: set[str] = set()
    for folder in sorted(source.real | source.linked):
        if lies_in(folder, real) or (folder in source.real and lies_in(real, folder)):
            raise EncryptionError(
                f'{out} and {folder}, which pictures of the source lie in, lie in each other: the '
                'plain pictures must not be handed over with the encrypted ones'
            )
        while folder not in asked:
            asked.add(folder)
            if is_encrypted(folder):
                raise EncryptionError(
                    f'{folder} is an encrypted data set: give the folder of the plain pictures'
                )
            folder = os.path.dirname(folder)


def is_encrypted(folder: str) -> bool:
    """Whether a folder is an encrypted data set, perhaps an unfinished one."""
    if os.path.isdir(os.path.join(folder, WORK_NAME)):
        return True
    path = os.path.join(folder, MANIFEST_NAME)
    if not os.path.isfile(path):
        return False
    try:
        with open(path, 'rb') as file:
            return FORMAT_NAME.encode() in file.read()
    except OSError:
        return False
