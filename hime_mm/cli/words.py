# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The one door of all that a command prints.

Names of files and what manifests and results hold may come from a stranger, and errors of the
package speak of arguments in Python.
"""

import ast
import io
import re
import shlex
import sys
from typing import Any

import click

from hime_mm.errors import printable

_SETTING = re.compile(r'`([A-Za-z_.]+)(?:=([^`]*))?`')
#: Options that are not called as the arguments are.
_OPTIONS = {'key': 'key_file', 'Key.from_fd': 'key_fd', 'overwrite': 'force'}
#: Names that no option has, as of a step's number, in words.
_WORDS = {'center_crop': 'a centre crop', 'num_splits': 'its number'}
#: Without a value, these are fields of a COCO file.
_FIELDS = ('annotations', 'images', 'licenses', 'segmentation')


def echo(*lines: str, err: bool = False) -> None:
    """Print lines, with all in them that is not to be seen written as an escape."""
    encoding = getattr(sys.stderr if err else sys.stdout, 'encoding', None) or 'utf-8'
    for line in lines:
        text = printable(line).encode(encoding, 'backslashreplace').decode(encoding)
        click.echo(text, err=err)


def in_options(text: str, command: click.Command | None) -> str:
    """An error's settings, which stand in backticks as in Python, as options of a command."""
    options = {} if command is None else {param.name: param for param in command.params}

    def said(found: re.Match) -> str:
        name, value = found.groups()
        option = options.get(_OPTIONS.get(name, name))
        if not isinstance(option, click.Option) or (value is None and name in _FIELDS):
            return found[0] if command is None else _WORDS.get(name, found[0])
        flag = max(option.opts, key=len)
        if value is None and name in _OPTIONS and not option.is_flag:
            value = '...'
        return f'`{" ".join([flag, *_words(option, flag, value)])}`'

    return _SETTING.sub(said, text)


def _words(option: click.Option, flag: str, value: str | None) -> list[str]:
    """What stands behind an option that has this value in Python."""
    if value is None or option.is_flag:
        return []
    if value == '...':
        return [option.metavar or (option.name or '').upper()]
    try:
        parsed: Any = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # a stand-in such as FILE
        return [value]
    if isinstance(parsed, bool) and isinstance(option.type, click.Choice):
        parsed = option.type.choices[not parsed]  # keep or drop
    if not isinstance(parsed, (list, tuple)):
        return [shlex.quote(str(parsed))]
    if option.multiple:
        words = [word for item in parsed for word in (flag, shlex.quote(str(item)))]
        return words[1:]
    return [('x' if option.type.name == 'WxH' else ',').join(map(str, parsed))]


def echo_usage(error: click.ClickException) -> None:
    """Print what click says of wrong usage."""
    buffer, message = io.StringIO(), error.format_message()
    error.show(buffer)
    echo(*buffer.getvalue().replace(message, printable(message)).rstrip().split('\n'), err=True)
