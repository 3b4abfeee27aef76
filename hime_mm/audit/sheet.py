# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures of which most leaked: one by one, and on one sheet."""

import os
from collections.abc import Callable

import numpy as np

from hime_mm.images.codec import encode_image
from hime_mm.images.files import file_sha256, write_atomic
from hime_mm.visualization import side_by_side, stack_rows

from .report import Measured
from .subject import Subject
from .work import PICTURES

#: Height of a row in pixels.
HEIGHT = 224
#: Folder of a cipher in an audit that holds these, for the page that shows them.
WORST = 'worst'


def write_sheet(
    place: str, subject: Subject, measured: Measured, picture: Callable[[str, int], np.ndarray]
) -> None:
    """Write originals, encrypted pictures and reconstructions of the worst ten.

    Args:
        place (str): The PNG file, which its owner alone can read; none is
            written where no attack makes pictures.
        subject (Subject): The pictures.
        measured (Measured): What leaked of them.
        picture (Callable): Gives what an attack, by its name, made of a
            picture, by its number.
    """
    rows = []
    for index, _, attack, score, _ in measured.worst:
        case = subject.cases[index]
        shown = [(case.name, case.plain)] if case.plain is not None else []
        shown += [('encrypted', case.encrypted), (f'{attack}: {score}', picture(attack, index))]
        captions, images = zip(*shown, strict=True)
        images = [img[..., ::-1] if img.ndim == 3 else img for img in images]
        rows.append(side_by_side(images, [_short(text) for text in captions], HEIGHT))
    if rows:
        data = encode_image(np.ascontiguousarray(stack_rows(rows)[..., ::-1]))
        write_atomic(place, data, private=True)


def write_worst(out: str, subject: Subject, measured: Measured) -> None:
    """Write originals and encrypted pictures of the worst ten, and note all files of each.

    Args:
        out (str): Folder of the audit.
        subject (Subject): The pictures.
        measured (Measured): What leaked of them; gets the ``files``.
    """
    for row in measured.worst:
        case = subject.cases[row.number]
        for stage, img in (('original', case.plain), ('encrypted', case.encrypted)):
            if img is not None:
                place = f'{measured.folder}/{WORST}/{row.number:04}_{stage}.png'
                write_atomic(os.path.join(out, place), encode_image(img), private=True)
                row.files[stage] = dict(file=place)
        made = f'{measured.folder}/{PICTURES}/{row.attack}/{row.number:04}.png'
        row.files['reconstructed'] = dict(file=made)
        for one in row.files.values():
            one['sha256'] = file_sha256(os.path.join(out, one['file']))


def _short(text: str, most: int = 30) -> str:
    """The end of a text, in characters that OpenCV can draw."""
    text = text.encode('ascii', 'replace').decode()
    return text if len(text) <= most else f'...{text[3 - most :]}'
