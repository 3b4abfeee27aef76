# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Fields of a recipe: default, allowed values and the words of a command's
option are written once, at the field."""

from dataclasses import field, fields
from typing import Any, Iterable, Optional, Sequence

from hime_mm.errors import HimeError


def setting(default: Any,
            text: str,
            kind: Any = str,
            choices: Iterable[str] = (),
            low: Optional[float] = None,
            high: Optional[float] = None,
            below: Optional[float] = None,
            metavar: Optional[str] = None,
            flags: Sequence[str] = ()) -> Any:
    """A field of a dataclass that a command can make an option of.

    Args:
        default (Any): Of the field.
        text (str): What the option's help says.
        kind (type | str): Of its value: ``bool``, ``int``, ``float`` or
            ``str``; ``'size'``, WxH; ``'range'``, LOW,HIGH; ``'ints'`` or
            ``'floats'``, with commas between them. Defaults to str.
        choices (Iterable[str]): All allowed values, none for any. Defaults
            to ().
        low (float, optional): Least number. Defaults to None.
        high (float, optional): Largest number. Defaults to None.
        below (float, optional): All numbers are smaller. Defaults to None.
        metavar (str, optional): Stands for the value in the help. Defaults
            to None.
        flags (Sequence[str]): Names of the option; none is the field's.
            Defaults to ().

    Returns:
        dataclasses.Field: The field.
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
            flags=tuple(flags)))


def check_settings(settings: Any) -> None:
    """Refuse values that a field does not allow.

    Args:
        settings: A dataclass with fields made by :func:`setting`.

    Raises:
        HimeError: Names the field, the value and what is allowed.
    """
    for item in fields(settings):
        facts, value = item.metadata, getattr(settings, item.name)
        if not facts or value is None and item.default is None:
            continue
        if facts['choices'] and value not in facts['choices']:
            raise HimeError(f'unknown `{item.name}` {value!r}, choose from '
                            f'{facts["choices"]}')
        bounds = [(word, facts[name]) for word, name in (
            ('at least', 'low'), ('at most', 'high'), ('below', 'below'))
                  if facts[name] is not None]
        if not bounds:
            continue
        fits = (isinstance(value, (int, facts['kind']))
                and not isinstance(value, bool)
                and all(value >= bound if word == 'at least' else value <
                        bound if word == 'below' else value <= bound
                        for word, bound in bounds))
        if not fits:
            what = 'whole number' if facts['kind'] is int else 'number'
            said = ' and '.join(f'{word} {bound}' for word, bound in bounds)
            raise HimeError(f'`{item.name}` must be a {what}, {said}, got '
                            f'{value!r}')
