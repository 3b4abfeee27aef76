# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pages for people to look at: one HTML file each, which needs nothing else and fetches nothing."""

import base64
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any

import cv2
import numpy as np

from hime_mm.errors import HimeError

#: Quality of JPEG pictures in a page: what is looked at, never measured.
_QUALITY = 85


def render(template: str, **values: Any) -> str:
    """Fill a template of ``visualization/templates``.

    All values are escaped. Styles and scripts stand in the page itself, and its policy
    lets a browser run these and nothing else, and load no file.

    Args:
        template (str): Its name, such as ``'report.html.j2'``; it extends
            ``base.html.j2``, and has its own styles and script beside it in
            ``report.css`` and ``report.js``.
        **values: What it asks for; ``style`` and ``script`` are added.

    Raises:
        HimeError: If Jinja2 is not installed.
    """
    return ''.join(stream(template, **values))


def stream(template: str, **values: Any) -> Iterator[str]:
    """The same in parts, so that a page of many pictures never is in the memory as a whole.

    Args:
        template (str): As of :func:`render`.
        **values: What is an iterator is asked for one after the other.

    Raises:
        HimeError: If Jinja2 is not installed.
    """
    kind = template.partition('.')[0]
    style = _file('page.css') + _file(f'{kind}.css')
    script = _file('page.js') + _file(f'{kind}.js')
    policy = '; '.join(
        [
            "default-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            'img-src data:',
            f'style-src {_source(style)}',
            f'script-src {_source(script)}',
        ]
    )
    page = _environment().get_template(template)
    return page.generate(**values, style=style, script=script, policy=policy)


def check_installed() -> None:
    """Refuse where Jinja2 is not installed, before the work that a page is to show.

    Raises:
        HimeError: If it is not.
    """
    _environment()


def embedded(img: np.ndarray, most: int = 448) -> str:
    """A picture as an address that holds it, of the source of an ``<img>``.

    Args:
        img (np.ndarray): uint8 of shape (H, W) or (H, W, C), BGR.
        most (int): It is scaled down to this height or width in pixels at
            most. Defaults to 448.
    """
    scale = most / max(img.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in img.shape[1::-1])
        img = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode()


@lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise HimeError(
            "a page needs Jinja2, which is not installed: pip install 'hime-mm[view]'"
        ) from None
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file(name: str) -> str:
    """A template, or the styles or the script of one; empty where it has none."""
    place = resources.files(__package__) / 'templates' / name
    return place.read_text('utf-8') if place.is_file() else ''


def _source(text: str) -> str:
    """What a policy calls the text of a style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
