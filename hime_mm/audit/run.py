# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""An audit of plain pictures, or of what was delivered."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.util import find_spec
from itertools import chain
from typing import Any

from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.encryption.door import is_encrypted
from hime_mm.encryption.lock import ALL, locked
from hime_mm.encryption.walk import lies_in
from hime_mm.errors import AuditError
from hime_mm.images import Recipe
from hime_mm.images.files import file_sha256, read_json, write_atomic
from hime_mm.version import __version__

from .command import dataset_command, pictures_command, versions
from .page import write_page
from .panel import chosen_readers
from .public import check_public, public_pictures
from .report import AuditReport, measured
from .session import check_attacks
from .settings import AuditSettings
from .sheet import write_sheet, write_worst
from .subject import (
    AUDIT_ID,
    Oracle,
    Subject,
    audit_key,
    delivered_cases,
    encrypt_cases,
    pictures_in,
    rehearsal,
    sample,
    subject_of,
)
from .work import WORK_NAME, Work
from .written import SHEET, check_kept, write_report


def audit_pictures(
    src: str, out: str, recipes: Sequence[Recipe], settings: AuditSettings | None = None
) -> AuditReport:
    """Measure what ciphers would leave of plain pictures.

    Args:
        src (str): Folder of plain pictures.
        out (str): Folder to write to: new, empty, or of the same audit.
        recipes (Sequence[Recipe]): How they would be encrypted.
        settings (AuditSettings, optional): The rest. Defaults to None, the
            defaults.

    Returns:
        AuditReport: What leaked.

    Raises:
        AuditError: If it cannot be made of what was given, or the budget was
            too little for one picture.
        OSError: If the output cannot be written.
    """
    settings = settings or AuditSettings()
    check_door((src,), out, settings)
    if is_encrypted(LocalStore(src)):
        raise AuditError(
            f'{src} is an encrypted data set, or an unfinished one: name plain pictures, or finish '
            'it and leave out `cipher`'
        )
    if os.path.isdir(os.path.join(src, WORK_NAME)):
        raise AuditError(f'{src} is an audit: name the pictures that it was made of')
    names = pictures_in(src)
    if not recipes:
        raise AuditError('no cipher was named: give at least one')
    chosen = sample(names, settings.num_pictures, settings.seed)
    key = audit_key(settings.seed)

    def subjects() -> Iterator[Subject]:
        for recipe in recipes:
            public = public_pictures(settings, src, recipe.preprocess.color_type)
            cases, failed = encrypt_cases(src, chosen, recipe, key, public.classes)
            yield subject_of(
                recipe.cipher,
                cases,
                public.pictures,
                settings.seed,
                Oracle(recipe.cipher, key, AUDIT_ID),
                public.labels,
                failed=failed,
                pictures=len(names),
            )

    head = dict(
        kind='plain pictures',
        recipes=[recipe.to_dict() for recipe in recipes],
        digest=digest(src, chosen),
    )
    folders = [folder_name(recipe.cipher) for recipe in recipes]
    command = pictures_command(recipes, settings)
    return _audit(out, folders, subjects(), chosen, head, settings, command)


def audit_dataset(
    src: str,
    out: str,
    key: Key | None = None,
    originals: str | None = None,
    settings: AuditSettings | None = None,
) -> AuditReport:
    """Measure what an encrypted data set leaves, with as much truth as there is.

    With the key the layout of each picture is known; with the originals, their
    pixels. Without either, only the attacks' confidence is told of the data
    set, and beside it the same attacks are measured on public pictures under
    its cipher.

    Args:
        src (str): Folder of the data set.
        out (str): Folder to write to: new, empty, or of the same audit.
        key (Key, optional): The owner's key. Defaults to None.
        originals (str, optional): Folder that was encrypted. Defaults to None.
        settings (AuditSettings, optional): The rest. Defaults to None, the
            defaults.

    Returns:
        AuditReport: What leaked.

    Raises:
        AuditError: If it cannot be made of what was given, or the budget was
            too little for one picture.
        InvalidKey: If the key is another one.
        ManifestError: If there is no manifest, or it was changed.
        OSError: If the output cannot be written.
    """
    settings = settings or AuditSettings()
    places = (src,) if originals is None else (src, originals)
    check_door(places, out, settings)
    manifest = Manifest.load(src)
    if key is not None:
        manifest.check_key(key)
    names = [*manifest.files]
    if not names:
        raise AuditError(f'{src} holds no pictures')
    chosen = sample(names, settings.num_pictures, settings.seed)
    cipher, seed = manifest.cipher, settings.seed
    folders = [folder_name(cipher)]
    if key is None and originals is None:
        folders.append(f'{folders[0]}_rehearsal')

    def subjects() -> Iterator[Subject]:
        public = public_pictures(settings, originals or src, manifest.recipe.preprocess.color_type)
        cases, failed = delivered_cases(manifest, chosen, key, originals, public.classes)
        oracle = None if key is None else Oracle(cipher, key, manifest.dataset_id)
        yield subject_of(
            cipher,
            cases,
            public.pictures,
            seed,
            oracle,
            public.labels,
            failed=failed,
            pictures=len(names),
        )
        if len(folders) > 1:
            stand_ins, learn = (
                rehearsal(cases, public.pictures, cipher, seed) if cases else ([], [])
            )
            yield subject_of(
                cipher, stand_ins, learn, seed, pictures=len(stand_ins), rehearsal=True
            )

    head = dict(
        kind='encrypted data set',
        dataset_id=manifest.dataset_id,
        data_checksum=manifest.state['checksum'],
        key=key is not None,
        originals=None if originals is None else digest(originals, pictures_in(originals)),
        originals_checked=originals is not None and (key is not None or not cipher.random),
    )
    command = dataset_command(key is not None, originals is not None, settings)
    return _audit(out, folders, subjects(), chosen, head, settings, command)


def digest(folder: str, names: Sequence[str]) -> str:
    """SHA-256 of the names and sizes of files, and of when they were written."""
    told = hashlib.sha256()
    for name in sorted(names):
        what = [name]
        with suppress(OSError):  # links may lead nowhere
            stat = os.stat(os.path.join(folder, name))
            what += [str(stat.st_size), str(stat.st_mtime_ns)]
        told.update('\0'.join([*what, '']).encode(errors='surrogateescape'))
    return told.hexdigest()


def check_door(places: Sequence[str], out: str, settings: AuditSettings) -> None:
    """Refuse what an audit cannot begin with.

    Args:
        places (Sequence[str]): Folders of pictures: the source, the originals.
        out (str): Folder to write to.
        settings (AuditSettings): How it is to be made.

    Raises:
        AuditError: If a package is missing, an attack is unknown, the public
            pictures are those of the owner, or the output does not do.
    """
    if lacking := [name for name in ('scipy', 'skimage', 'jinja2') if find_spec(name) is None]:
        raise AuditError(
            f"an audit needs {', '.join(lacking)}: install it with pip install 'hime-mm[audit]'"
        )
    check_attacks(settings.attacks)
    others: list[str] = []
    for name in ('public', 'people'):
        if (theirs := getattr(settings, name)) is not None:
            check_public(places, theirs, name)
            others.append(theirs)
    places = (*places, *others)
    for place in places:
        check_out(place, out)


def _audit(
    out: str,
    folders: Sequence[str],
    subjects: Iterator[Subject],
    names: Sequence[str],
    head: dict[str, Any],
    settings: AuditSettings,
    command: str,
) -> AuditReport:
    readers = chosen_readers(settings)
    learnt = {
        what: None if place is None else digest(place, pictures_in(place))
        for what, place in (('public', settings.public), ('people', settings.people))
    }
    models = {os.path.basename(path): file_sha256(path) for path in settings.onnx}
    what = dict(version=__version__, settings=settings.what, **learnt, onnx=models)
    head = dict(head, **what, names=list(names))
    # Of no weight for whether an audit may go on: another version may, and it is said.
    report = AuditReport(dict(head, names=len(names), command=command, versions=versions()))
    ends = None if settings.budget is None else time.monotonic() + settings.budget
    if len(set(folders)) < len(folders):
        raise AuditError('a cipher is named twice: name each once')
    # What is wrong with what was given shows before anything is written.
    subjects = chain([next(subjects)], subjects)
    with locked(LocalStore(out), ALL, WORK_NAME):
        report.head['started'] = _check_same(out, head)
        for number, folder in enumerate(folders):
            # Each cipher gets its share of the time that is left.
            now = time.monotonic()
            until = None if ends is None else now + (ends - now) / (len(folders) - number)
            subject = next(subjects)
            work = Work(out, folder, subject, settings, readers)
            work.go_on(until)
            report.subjects.append(measured(subject, work.about, work.results(), folder))
            one = report.subjects[-1]
            write_sheet(os.path.join(out, folder, SHEET), subject, one, work.picture)
            write_worst(out, subject, one)
            write_report(out, report)
            write_page(out)
    if not any(one.done for one in report.subjects):
        raise AuditError(
            f'{settings.budget:g} seconds were too little for one picture: give more as `budget`, '
            'or fewer attacks as `attacks`'
            if settings.budget is not None
            else 'no picture could be taken: ' + report.first_failure
        )
    return report


def check_out(src: str, out: str) -> None:
    """Refuse an output that would be handed over, or holds something else.

    Raises:
        AuditError: If it lies in the source or in an encrypted data set, or
            holds something else.
    """
    real, real_out = os.path.realpath(src), os.path.realpath(out)
    if lies_in(real, real_out) or lies_in(real_out, real):
        raise AuditError(
            f'{out} and {src} lie in each other: an audit holds plain pictures, which must not be '
            'handed over'
        )
    check_kept(out)
    if os.path.isdir(out) and os.listdir(out) and not os.path.isdir(os.path.join(out, WORK_NAME)):
        raise AuditError(f'{out} holds something else: choose a new folder')


def _check_same(out: str, head: dict[str, Any]) -> str:
    """Refuse an output of another audit, or note which one it is of; gives when it was begun."""
    place = os.path.join(out, WORK_NAME, 'audit.json')
    # As JSON has it, where tuples are lists.
    new = json.loads(json.dumps(head))
    if not os.path.exists(place):
        write_atomic(place, json.dumps(new))
    elif read_json(place, 'notes', AuditError) != new:
        raise AuditError(
            f'{out} holds another audit, of other pictures or with other settings: choose a new '
            'folder'
        )
    return datetime.fromtimestamp(os.path.getmtime(place), timezone.utc).isoformat('T', 'seconds')


def folder_name(cipher: Cipher) -> str:
    """The folder of a cipher in an audit, such as ``center+erode2+shuffle_p16``."""
    return f'{cipher}_p{cipher.patch_size}'.replace(':', '-')
