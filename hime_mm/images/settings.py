# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Fields of a recipe.

Default, allowed values and the words of a command's option are written once, at the field.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import field, fields
from typing import Any

from hime_mm.errors import HimeError

_BOUNDS = {
    'low': ('at least', operator.ge),
    'high': ('at most', operator.le),
    'below': ('below', operator.lt),
}


def setting(
    default: Any,
    text: str,
    kind: Any = str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
    flags: Sequence[str] = (),
) -> Any:
    """A field of a dataclass that a command can make an option of.

    ``text`` is the option's help, ``metavar`` stands for the value there, and
    ``flags`` are its names if not the field's. The kind of the value is
    ``bool``, ``int``, ``float`` or ``str``; ``'size'``, WxH; ``'range'``,
    LOW,HIGH; ``'ints'`` or ``'floats'``, with commas between them. A text may
    have to be one of ``choices``, a number within ``low`` and ``high`` or
    ``below``.
    """
    return field(
        default=default,
        metadata=dict(
            text=text,
            kind=kind,
            choices=tuple(choices),
            low=low,
            high=high,
            below=below,
            metavar=metavar,
            flags=tuple(flags),
        ),
    )


def check_settings(settings: Any) -> None:
    """Refuse values that a field made by :func:`setting` does not allow."""
    for item in fields(settings):
        metadata, value = item.metadata, getattr(settings, item.name)
        if not metadata or value is None and item.default is None:
            continue
        if metadata['choices'] and value not in metadata['choices']:
            raise HimeError(f'unknown `{item.name}` {value!r}, choose from {metadata["choices"]}')
        bounds = [
            (word, holds, metadata[name])
            for name, (word, holds) in _BOUNDS.items()
            if metadata[name] is not None
        ]
        if bounds and not (
            isinstance(value, (int, metadata['kind']))
            and not isinstance(value, bool)
            and all(holds(value, bound) for _, holds, bound in bounds)
        ):
            what = 'whole number' if metadata['kind'] is int else 'number'
            allowed = ' and '.join(f'{word} {bound}' for word, _, bound in bounds)
            raise HimeError(f'`{item.name}` must be a {what}, {allowed}, got {value!r}')
