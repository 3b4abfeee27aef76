# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Decrypt, verify and describe an encrypted data set.

Needs NumPy, OpenCV, cryptography and tqdm only.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, List, Optional, Tuple

from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.images import (EXTENSIONS, UnreadableImage,
                                     decode_image, encode_image, file_sha256,
                                     write_atomic)
from hime_mm.datasets.manifest import MANIFEST_NAME, FileEntry, Manifest

from .encrypt import WORK_NAME, EncryptionError
from .parallel import run_tasks


def _read_entry(root: str, entry: FileEntry) -> Any:
    """The pixels of an encrypted file, compared with the manifest.

    Raises:
        UnreadableImage: If the file is missing or not what was written.
    """
    try:
        with open(os.path.join(root, entry.path), 'rb') as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    if len(data) != entry.size:
        raise UnreadableImage(f'it has {len(data)} bytes, {entry.size} were '
                              'written: it is truncated or was changed')
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UnreadableImage('it was changed: its SHA-256 is not the one in '
                              'the manifest')
    img = decode_image(data, 'unchanged')
    channels = 1 if img.ndim == 2 else img.shape[2]
    if img.shape[:2] != entry.shape or channels != entry.channels:
        raise UnreadableImage(
            f'it is {img.shape[0]}x{img.shape[1]} with {channels} channels, '
            f'the manifest says {entry.shape[0]}x{entry.shape[1]} with '
            f'{entry.channels}')
    return img


@dataclass
class Report:
    """What was found in a data set.

    Attributes:
        files (int): Encrypted files that the manifest lists.
        problems (list[tuple[str, str]]): Paths in the data set, and what is
            wrong with them.
        notes (list[str]): What is worth knowing, but no problem.
        authenticated (bool): Whether a key vouches for the manifest.
    """

    files: int = 0
    authenticated: bool = False
    problems: List[Tuple[str, str]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """bool: Whether nothing is wrong."""
        return not self.problems


def _verify_entry(root: str, key: Optional[Key],
                  entry: FileEntry) -> Optional[str]:
    try:
        _read_entry(root, entry)
    except UnreadableImage as error:
        return str(error)
    return None


def verify_dataset(path: str,
                   key: Optional[Key] = None,
                   workers: int = 1,
                   progress: bool = True) -> Report:
    """Compare an encrypted data set with its manifest.

    Every file is read and decoded. With the key, the manifest itself is
    authenticated; without it, only changes by accident are found there.

    Args:
        path (str): The folder.
        key (Key, optional): The owner's key. Defaults to None.
        workers (int): Number of processes. Defaults to 1.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Report: What is wrong.

    Raises:
        ManifestError: If there is no manifest, or it was changed.
        InvalidKey: If the key is another one.
    """
    manifest = Manifest.load(path)
    root = str(manifest.root)
    report = Report(files=len(manifest.files))
    if key is not None and manifest.key_id is not None:
        manifest.check_key(key)
        report.authenticated = True
    elif key is not None:
        # Else whoever takes the key's id out would pass for the owner.
        report.problems.append(
            (MANIFEST_NAME, 'it names no key, so the key that was given '
             'cannot authenticate it: encrypted without a key, or changed'))
    entries = list(manifest.files.values())
    with tqdm(
            total=len(entries), desc='verify', unit='image',
            disable=not progress) as bar:
        for i, problem in run_tasks(_verify_entry, root, None, entries,
                                    workers):
            if problem is not None:
                report.problems.append((entries[i].path, problem))
            bar.update()
    for row in manifest.state.get('skipped', ()):
        report.problems.append(
            (row['path'], f'left out when encrypting: {row["reason"]}'))
    for row in manifest.state.get('annotations', ()):
        problem = _verify_annotations(manifest, row)
        if problem is not None:
            report.problems.append((row['path'], problem))
    _find_strangers(manifest, report)
    report.problems.sort()
    return report


def _verify_annotations(manifest: Manifest, row: dict) -> Optional[str]:
    path = manifest.root / row['path']
    try:
        digest = file_sha256(str(path))
    except OSError as error:
        return error.strerror
    if digest != row['sha256']:
        return ('it was changed: its SHA-256 is not the one in the manifest')
    if row['kind'] != 'coco':
        return None
    coco = coco_format.load_coco(str(path))
    for image in coco['images']:
        name = str(PurePosixPath(row['images_folder'], image['file_name']))
        entry = manifest.files.get(name)
        if entry is None:
            return f'{image["file_name"]} is not in the manifest'
        if (image['height'], image['width']) != entry.shape:
            return f'the size of {image["file_name"]} is not the manifest\'s'
    return None


def _find_strangers(manifest: Manifest, report: Report) -> None:
    """Pictures that the manifest does not list may be plain ones."""
    known = set(manifest.files) | {MANIFEST_NAME}
    known |= {row['path'] for row in manifest.state.get('annotations', ())}
    others = 0
    for folder, folders, names in os.walk(manifest.root):
        if WORK_NAME in folders:
            folders.remove(WORK_NAME)
            report.notes.append(
                f'{WORK_NAME} is there: pictures are missing. Encrypt again '
                'once they are repaired, or delete it before handing over')
        for name in names:
            full = os.path.join(folder, name)
            path = os.path.relpath(full, manifest.root).replace(os.sep, '/')
            if path in known:
                continue
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                report.problems.append(
                    (path, 'a picture that the manifest does not list: it '
                     'may not be encrypted'))
            else:
                others += 1
    if others:
        report.notes.append(f'{others} further files are not part of it')


@dataclass(frozen=True)
class _Decryption:
    manifest: Manifest
    out: str
    partial: bool


def _decrypt_entry(task: _Decryption, key: Optional[Key],
                   entry: FileEntry) -> Optional[str]:
    manifest = task.manifest
    try:
        img = _read_entry(str(manifest.root), entry)
    except UnreadableImage as error:
        return str(error)
    drawn: list = [None] * len(manifest.cipher.steps)
    if key is not None:
        drawn = manifest.draw(entry, key)
    img = manifest.cipher.decrypt(img, drawn, task.partial)
    if manifest.preprocess.get('fit') == 'pad':
        # Without what was filled up below and right.
        crop, cipher = manifest.preprocess.get('center_crop'), manifest.cipher
        if crop is not None:
            shrink = cipher.encrypted_patch_size / cipher.patch_size
            h, w = (round(side * shrink) for side in crop[::-1])
        else:
            h, w = (round(side * scale) for side, scale in zip(
                entry.ori_shape, entry.scale[::-1]))
        img = img[:h, :w]
    path = os.path.splitext(entry.path)[0] + '.png'
    write_atomic(
        os.path.join(task.out, path), encode_image(img), sync=False)
    return None


def decrypt_dataset(path: str,
                    out: str,
                    key: Optional[Key] = None,
                    partial: bool = False,
                    workers: int = 1,
                    progress: bool = True) -> Report:
    """Undo the encryption of a data set, where its cipher allows.

    The pictures come back as PNG in the size at which they were encrypted,
    with its augmentation, if there was one.

    Args:
        path (str): The folder of the data set.
        out (str): Folder to write to, new or empty.
        key (Key, optional): The owner's key. Defaults to None.
        partial (bool): Where a step deletes data, undo those after it.
            Defaults to False.
        workers (int): Number of processes. Defaults to 1.
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
    undone: List[str] = []
    for step in reversed(cipher.steps):
        if not step.invertible:
            break
        undone.append(str(step))
    if not undone or (not cipher.invertible and not partial):
        lost = ', '.join(str(s) for s in cipher.steps if not s.invertible)
        raise EncryptionError(
            f'{path} cannot be decrypted: {lost} of its cipher '
            f'{str(cipher)!r} deletes data' +
            (f'; what comes after it ({", ".join(undone)}) can be undone: ask '
             'for a partial decryption' if undone else ''))
    if key is None:
        manifest_key = manifest.key_id
        raise EncryptionError(
            f'{path} was encrypted one-way: nobody can undo it'
            if manifest_key is None else
            f'{path} needs the key {manifest_key}')
    manifest.check_key(key)
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise EncryptionError(f'{out} is not empty: choose a new folder')
    if os.path.realpath(out).startswith(
            os.path.realpath(manifest.root) + os.sep):
        raise EncryptionError(f'{out} lies in {path}: the plain pictures must '
                              'not be handed over with the encrypted ones')
    report = Report(files=len(manifest.files))
    entries = list(manifest.files.values())
    manifest.files = {}  # no worker needs a copy of them
    with tqdm(
            total=len(entries), desc='decrypt', unit='image',
            disable=not progress) as bar:
        for i, problem in run_tasks(
                _decrypt_entry, _Decryption(manifest, out, partial), key,
                entries, workers):
            if problem is not None:
                report.problems.append((entries[i].path, problem))
            bar.update()
    report.problems.sort()
    return report


def describe_dataset(manifest: Manifest) -> str:
    """What an owner or an engineer wants to know of a data set.

    Args:
        manifest (Manifest): Its manifest.

    Returns:
        str: Some lines for people to read.
    """
    state, cipher = manifest.state, manifest.cipher
    counts = state['counts']
    sizes = {entry.shape for entry in manifest.files.values()}
    heights = sorted(h for h, _ in sizes) or [0]
    widths = sorted(w for _, w in sizes) or [0]
    side = cipher.encrypted_patch_size
    modes = dict(
        keyed=f'with the key {manifest.key_id}',
        keyless='without a key: the cipher draws no randomness'
        if manifest.key_id is None else f'with the key {manifest.key_id}')
    lines = [
        f'data set     {manifest.root}, id {manifest.dataset_id}, '
        f'{state["kind"]}, by hime_mm {state["tool_version"]}',
        f'cipher       {cipher}, patches of {cipher.patch_size} pixels',
        'encrypted    ' + modes.get(
            state['mode'], 'one-way: nothing was kept that could undo it'),
        f'images       {counts["images"]} pictures, {counts["files"]} files '
        f'({state["views"]} per picture), {counts["bytes"] / 1e6:.1f} MB, '
        f'{state["image_format"]["format"]}',
        f'sizes        {heights[0]} to {heights[-1]} high, {widths[0]} to '
        f'{widths[-1]} wide',
        'undo         ' + ('every step, with the key' if cipher.invertible
                           else 'not possible: ' + ', '.join(
                               str(s) for s in cipher.steps
                               if not s.invertible) + ' deletes data'),
    ]
    if counts['skipped']:
        lines.append(f'missing      {counts["skipped"]} pictures could not be '
                     'encrypted')
    for step, (some, total) in state['clipped'].items():
        lines.append(f'clipped      {100 * some / max(total, 1):.3f} % of the '
                     f'values, by {step}')
    for row in state['annotations']:
        objects = ('' if row['kind'] != 'coco' else
                   f', {row["annotations"]} objects')
        lines.append(f'annotations  {row["path"]}: {row["images"]} images'
                     f'{objects}')
    if state['image_format']['format'] == 'webp' and state['kind'] == 'folder':
        lines.append("format       MMPretrain's data sets find these files with "
                     "extensions=('.webp', )")
    lines.append('leaves readable, with that step alone:')
    for step in cipher.steps:
        lines.append(f'  {step}: {step.leaves}')
    lines.append('to train on it: hime_mm.LoadEncryptedMeta after '
                 'LoadImageFromFile, no resizing, cropping or '
                 f'recolouring; a backbone with patch_size={side}' + (
                     ' and no learned positions' if cipher.shuffles else ''))
    return '\n'.join(lines)
