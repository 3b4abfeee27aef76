# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set: read, augment, encrypt, write, and be resumable."""

from collections.abc import Sequence
from typing import Any

from hime_mm.ciphers.cipher import CipherLike
from hime_mm.ciphers.reference import KeyLike, resolve
from hime_mm.datasets.stores import open_store
from hime_mm.errors import EncryptionError
from hime_mm.images import Recipe

from .coco import CocoSource
from .door import make_job
from .driver import Way, encrypt_part, encrypt_source, finish_plan
from .engines import EngineLike
from .folder import FolderSource
from .job import Job, Summary
from .source import Source


def encrypt_coco(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    annotations: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    licenses: bool = True,
    segmentation: bool = False,
    round_boxes: bool = False,
    key: KeyLike = None,
    dataset_id: str | None = None,
    workers: int = 0,
    engine: EngineLike = None,
    progress: bool = True,
    strict: bool = False,
    report: str | None = None,
    shard_size: int | None = None,
    retry_failed: bool = False,
    add: bool = False,
    **settings: Any,
) -> Summary:
    """Encrypt a COCO data set into a folder that can be handed over.

    The folder has the same tree: ``annotations/instances_train2017.json`` and
    ``train2017/*.png``, and the manifest ``hime.json`` with a file beside it
    for each shard. The annotations are valid COCO whose sizes and boxes are in
    pixels of the encrypted images. Of images and annotations only the fields
    of COCO's format are kept.

    The pictures are done in shards. Killed at any moment and started again
    with the same arguments, it goes on with those that are not done, and ends
    with the same bytes as without the interruption (one-way: with the shards
    that were done).

    Args:
        src (str): Folder that holds images and annotations, or an URL that
            fsspec knows, such as ``s3://bucket/coco``.
        out (str): Folder or URL to write to: new, empty, or of an unfinished
            run.
        cipher (str | dict | Sequence | Cipher): The cipher or a preset.
        annotations (Sequence[str], optional): Annotation files relative to
            ``src``, or absolute. None takes all
            ``annotations/instances_*.json``, or else those that Roboflow,
            FiftyOne or Label Studio write. Defaults to None.
        images (Sequence[str], optional): For each annotation file the folder
            of its images, relative to ``src``. None takes the folder named
            like the split, as of ``instances_train2017.json`` ``train2017``,
            or else where such tools put pictures: ``images``, ``data``, the
            folder of the annotation file, ``src`` itself. Defaults to None.
        licenses (bool): Hand over the licences. Defaults to True.
        segmentation (bool): Hand over segmentations, outlines of the objects,
            where the cipher leaves pixels in place. Defaults to False.
        round_boxes (bool): Where patches move, round boxes as coarsely as the
            annotations are, or to hundredths: round numbers would tell from
            which rows and columns patches came. An edge moves by at most one
            and a half times what is rounded to, and areas are those of the
            boxes. Defaults to False.
        key (Key | KeyReference, optional): All randomness is derived from it.
            An engine other than processes of this machine needs a
            :class:`~hime_mm.apis.KeyReference`, which its workers resolve: no
            key is sent to them. Defaults to None.
        dataset_id (str, optional): Identifies the data set in the derivation
            of its randomness, and is public. None draws one. Never use one
            twice with the same key for different pictures. Defaults to None.
        workers (int): Number of processes that read and encrypt; a picture
            that ends one of them is left out like others that cannot be read.
            With 0 all is done in this process, which such a picture ends.
            More than none need the caller's ``if __name__ == '__main__':``.
            Defaults to 0.
        engine (Executor | Engine, optional): Does the shards in their place:
            any :class:`concurrent.futures.Executor`, such as Dask's
            ``client.get_executor()``, or
            :class:`~hime_mm.apis.OnRay`. Defaults to None.
        progress (bool): Show a progress bar. Defaults to True.
        strict (bool): Refuse a source of which files would be left out, which
            the summary names. Defaults to False.
        report (str, optional): File outside of ``out`` that gets a row for
            each file of the source, as CSV: ``path``, the encrypted ``file``,
            ``status`` and ``reason``. It holds names of originals, and with
            ``names='ids'`` it is the way from new names back to old ones.
            Defaults to None.
        shard_size (int, optional): Pictures of a shard, which is what is done
            again after a kill, and what a tar holds. None takes 16 to 1000,
            from the number of pictures. Defaults to None.
        retry_failed (bool): Try all pictures again that an unfinished run
            left out, and not only those that have changed since. Defaults to
            False.
        add (bool): Where ``out`` is finished, add what is new in the source;
            no byte of the other pictures is touched. Defaults to False.
        **settings: ``patch_size``, ``preprocess`` and all others of
            :class:`~hime_mm.apis.Recipe`: ``one_way``, ``views``,
            ``names``, ``fmt``, ``compression`` and ``storage``.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, or the output
            folder holds something else.
        CocoError: If an annotation file is not valid.
        InvalidKey: If an unfinished run was started with another key.
        StoreError: If an URL names no place.
        OSError: If the output cannot be written, such as on a full disk.
    """
    way = Way(workers, engine, progress, strict, report, shard_size, retry_failed, add)
    source, job = _coco(
        src,
        out,
        cipher,
        dict(
            annotations=annotations,
            images=images,
            licenses=licenses,
            segmentation=segmentation,
            round_boxes=round_boxes,
            key=key,
            dataset_id=dataset_id,
            **settings,
        ),
    )
    return encrypt_source(source, job, key, way)


def encrypt_folder(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    lists: Sequence[str] = (),
    key: KeyLike = None,
    dataset_id: str | None = None,
    workers: int = 0,
    engine: EngineLike = None,
    progress: bool = True,
    strict: bool = False,
    report: str | None = None,
    shard_size: int | None = None,
    retry_failed: bool = False,
    add: bool = False,
    **settings: Any,
) -> Summary:
    """Encrypt a folder of pictures, such as ImageNet's tree or a flat one.

    Folders keep their names, since they are the classes' names. All of them
    are in the result, whatever is in them, so that the numbers of the classes
    stay.

    Args:
        src (str): Folder that holds the pictures, at any depth, or an URL.
        out (str): As of :func:`encrypt_coco`.
        cipher (str | dict | Sequence | Cipher): The cipher or a preset.
        lists (Sequence[str]): Text files of names and labels, relative to
            ``src``, such as ``meta/val.txt``; they are handed over with the
            names of the encrypted files. Defaults to none.
        key (Key | KeyReference, optional): As of :func:`encrypt_coco`.
            Defaults to None.
        dataset_id (str, optional): As of :func:`encrypt_coco`. Defaults to
            None.
        workers (int): As of :func:`encrypt_coco`. Defaults to 0.
        engine (Executor | Engine, optional): As of :func:`encrypt_coco`.
            Defaults to None.
        progress (bool): Show a progress bar. Defaults to True.
        strict (bool): As of :func:`encrypt_coco`. Defaults to False.
        report (str, optional): As of :func:`encrypt_coco`. Defaults to None.
        shard_size (int, optional): As of :func:`encrypt_coco`. Defaults to
            None.
        retry_failed (bool): As of :func:`encrypt_coco`. Defaults to False.
        add (bool): As of :func:`encrypt_coco`. Defaults to False.
        **settings: As of :func:`encrypt_coco`.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, the output
            folder holds something else, or a list is not as it has to be.
        InvalidKey: If an unfinished run was started with another key.
        StoreError: If an URL names no place.
        OSError: If the output cannot be written, such as on a full disk.
    """
    way = Way(workers, engine, progress, strict, report, shard_size, retry_failed, add)
    source, job = _folder(
        src, out, cipher, dict(lists=lists, key=key, dataset_id=dataset_id, **settings)
    )
    return encrypt_source(source, job, key, way)


def plan_coco(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    key: KeyLike = None,
    progress: bool = True,
    strict: bool = False,
    shard_size: int | None = None,
    add: bool = False,
    **settings: Any,
) -> Summary:
    """Write what :func:`encrypt_coco` would do.

    :func:`encrypt_shards` does it, in parts, and :func:`finish_dataset` merges these.

    Args, Returns and Raises are those of :func:`encrypt_coco`.
    """
    source, job = _coco(src, out, cipher, dict(settings, key=key))
    way = Way(progress=progress, strict=strict, shard_size=shard_size, add=add)
    return encrypt_source(source, job, key, way, plan_only=True)


def plan_folder(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    key: KeyLike = None,
    progress: bool = True,
    strict: bool = False,
    shard_size: int | None = None,
    add: bool = False,
    **settings: Any,
) -> Summary:
    """Write what :func:`encrypt_folder` would do, as :func:`plan_coco` does.

    Args, Returns and Raises are those of :func:`encrypt_folder`.
    """
    source, job = _folder(src, out, cipher, dict(settings, key=key))
    way = Way(progress=progress, strict=strict, shard_size=shard_size, add=add)
    return encrypt_source(source, job, key, way, plan_only=True)


def encrypt_shards(
    out: str,
    *,
    shards: tuple[int, int] = (1, 1),
    key: KeyLike = None,
    workers: int = 0,
    engine: EngineLike = None,
    progress: bool = True,
    retry_failed: bool = False,
) -> Summary:
    """Do the shards of a plan, or a part of them on each of several machines.

    Args:
        out (str): The output that holds the plan.
        shards (tuple[int, int]): The i-th of n parts, counted from 1.
            Defaults to all shards.
        key (Key | KeyReference, optional): That of the plan. Defaults to None.
        workers (int): As of :func:`encrypt_coco`. Defaults to 0.
        engine (Executor | Engine, optional): As of :func:`encrypt_coco`.
            Defaults to None.
        progress (bool): Show a progress bar. Defaults to True.
        retry_failed (bool): As of :func:`encrypt_coco`. Defaults to False.

    Returns:
        Summary: Of these shards.

    Raises:
        EncryptionError: If there is no plan, no such part, or another run is
            at work on one of its shards.
        InvalidKey: If it is another key.
        OSError: If the output cannot be written.
    """
    number, parts = shards
    if not 1 <= number <= parts:
        raise EncryptionError(
            f'there is no part {number}/{parts} of the shards: count from 1/{max(parts, 1)}'
        )
    way = Way(workers, engine, progress, retry_failed=retry_failed)
    return encrypt_part(out, key, (number - 1, parts), way)


def finish_dataset(
    out: str, *, key: KeyLike = None, report: str | None = None, progress: bool = True
) -> Summary:
    """Merge the shards of a plan that are all done.

    Args:
        out (str): The output that holds the plan.
        key (Key | KeyReference, optional): That of the plan. Defaults to None.
        report (str, optional): As of :func:`encrypt_coco`. Defaults to None.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If there is no plan, or a shard is not done.
        InvalidKey: If it is another key.
        OSError: If the output cannot be written.
    """
    return finish_plan(out, key, report, progress)


def _coco(src: str, out: str, cipher: CipherLike, options: dict) -> tuple[Source, Job]:
    kinds = dict(
        annotations=None, images=None, licenses=True, segmentation=False, round_boxes=False
    )
    given = {name: options.pop(name, default) for name, default in kinds.items()}
    job = _job(src, out, cipher, options)
    recipe = job.recipe
    if recipe.preprocess.center_crop is not None:
        raise EncryptionError('`center_crop` is for classification: boxes would be cut off')
    if given['segmentation'] and (recipe.cipher.moves_pixels or recipe.preprocess.augment):
        raise EncryptionError(
            f'segmentations cannot follow the cipher {str(recipe.cipher)!r} '
            'or augmentation: leave them out (`segmentation=False`)'
        )
    return CocoSource(open_store(job.src), recipe.names, **given), job


def _folder(src: str, out: str, cipher: CipherLike, options: dict) -> tuple[Source, Job]:
    lists = options.pop('lists', ())
    job = _job(src, out, cipher, options)
    return FolderSource(open_store(job.src), job.recipe.names, lists), job


def _job(src: str, out: str, cipher: CipherLike, options: dict) -> Job:
    key, dataset_id = options.pop('key'), options.pop('dataset_id', None)
    recipe = Recipe.build(cipher, **options)
    return make_job(str(src), str(out), recipe, resolve(key), dataset_id)
