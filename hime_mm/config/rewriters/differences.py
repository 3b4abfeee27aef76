# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a rewriter changed, in a form that people read."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from mmengine.config import Config

from ..plan import Node

#: Of the text of a part that went, in characters.
LONGEST = 80


def config_diff(before: Config, after: Config) -> str:
    """The difference between two configs.

    Args:
        before (:obj:`Config`): One.
        after (:obj:`Config`): The other.

    Returns:
        str: A line for each setting that went (``-``) or came (``+``), with its
        dotted path. Entries of lists have the index that they had, or have.
    """
    old, new = (cfg.to_dict() for cfg in (before, after))
    return '\n'.join(_changes('', old, new))


def _changes(place: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and _kind(old) == _kind(new):
        for key in dict.fromkeys((*old, *new)):
            at = f'{place}.{key}'.lstrip('.')
            if key not in new:
                yield f'- {at} = {_start(_written(old[key]))}'
            elif key not in old:
                yield f'+ {at} = {_written(new[key])}'
            else:
                yield from _changes(at, old[key], new[key])
    elif _listed(old) and _listed(new):
        yield from _list_changes(place, old, new)
    else:
        yield f'- {place} = {_written(old)}'
        yield f'+ {place} = {_written(new)}'


def _start(text: str) -> str:
    """Of what went altogether, as much as it takes to know it."""
    return text if len(text) <= LONGEST else f'{text[:LONGEST]} …'


def _listed(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list)) for one in value)


def _list_changes(place: str, old: Any, new: Any) -> Iterator[str]:
    """Entries are the same where their types are: what changed within them is told there."""
    names = [[_name(one) for one in entries] for entries in (old, new)]
    for change, a, b, c, d in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        if change == 'equal':
            for i, j in zip(range(a, b), range(c, d), strict=True):
                yield from _changes(f'{place}.{j}', old[i], new[j])
        else:
            yield from (f'- {place}.{i} = {_written(old[i])}' for i in range(a, b))
            yield from (f'+ {place}.{j} = {_written(new[j])}' for j in range(c, d))


def _name(value: Any) -> str:
    """By what an entry of a list is found again."""
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(_name, value))}]'
    return _kind(value) or _written(value)


def _kind(value: Any) -> str:
    return Node('', value).name if isinstance(value, dict) else ''


def _written(value: Any) -> str:
    """As a config file would have it, in one line; a class by its name."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_written(one)}" for key, one in value.items())})'
    if isinstance(value, (list, tuple)):
        inner = ', '.join(map(_written, value))
        if isinstance(value, list):
            return f'[{inner}]'
        return f'({inner},)' if len(value) == 1 else f'({inner})'
    if isinstance(value, type) or callable(value):
        return f'{value.__module__}.{value.__qualname__}'
    return repr(value)
