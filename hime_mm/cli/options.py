# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Options that commands share; those of a recipe are made from its fields."""

import os
from dataclasses import Field, fields
from typing import Any, Callable, Iterator, Optional, Tuple

import click

from hime_mm.images import Recipe
from hime_mm.images.augment import Augment
from hime_mm.images.preprocess import Preprocess

from .keys import key_options, read_key


def available_cpus() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work_options(command: Callable) -> Callable:
    """Options of commands that work through a data set."""
    for option in reversed((
        click.option('-j', '--workers', type=click.IntRange(1), metavar='N',
                     help='Processes.  [default: one per core]'),
        click.option('-q', '--quiet', is_flag=True,
                     help='No progress bar.'))):
        command = option(command)
    return command


class _Size(click.ParamType):
    """WIDTHxHEIGHT, or one number for both."""

    name = 'WxH'

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.lower().split('x')
        if len(parts) > 2 or not all(p.isdigit() and int(p) for p in parts):
            self.fail(f'{value!r} is no size such as 640x480 or 224', param,
                      ctx)
        return int(parts[0]), int(parts[-1])


class _Numbers(click.ParamType):
    """Numbers with commas between them, perhaps a fixed number of them."""

    name = 'numbers'

    def __init__(self, kind: Callable, count: Optional[int] = None) -> None:
        self.kind, self.count = kind, count

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(','))
        except ValueError:
            self.fail(f'{value!r} is no list of numbers such as 480,512',
                      param, ctx)
        if self.count not in (None, len(numbers)):
            self.fail(f'{value!r} is not {self.count} numbers', param, ctx)
        return numbers


def _settings() -> Iterator[Tuple[type, Field]]:
    """All fields that an option can be made of, and whose they are."""
    for owner in (Preprocess, Augment, Recipe):
        for item in fields(owner):
            if item.metadata:
                yield owner, item


def _type(item: Field) -> Any:
    facts, kind = item.metadata, item.metadata['kind']
    if facts['choices']:
        return click.Choice(facts['choices'])
    if kind == 'size':
        return _Size()
    if kind == 'range':
        return _Numbers(float, 2)
    if kind in ('ints', 'floats'):
        return _Numbers(int if kind == 'ints' else float)
    if facts['low'] is None:
        return kind
    if kind is int:
        return click.IntRange(facts['low'], facts['high'])
    below = facts['below']
    return click.FloatRange(facts['low'], facts['high'] or below,
                            max_open=below is not None)


def _option(item: Field) -> Callable:
    facts = item.metadata
    flags = facts['flags'] or ('--' + item.name.replace('_', '-'), )
    if facts['kind'] is bool:
        return click.option(*flags, item.name, is_flag=True,
                            help=facts['text'])
    return click.option(
        *flags, item.name, type=_type(item), default=item.default,
        metavar=facts['metavar'], help=facts['text'],
        show_default=bool(item.default))


def recipe_options(*without: str) -> Callable:
    """Options of a recipe, of its key, and of the work.

    Args:
        *without (str): Fields that this kind of data set has not.

    Returns:
        Callable: A decorator; :func:`recipe_arguments` takes the options.
    """

    def decorate(command: Callable) -> Callable:
        decorators: Tuple[Callable, ...] = (
            click.option('-c', '--cipher', required=True, metavar='CIPHER',
                         help='Steps in order of application, such as '
                         '"center+erode2+shuffle", or a preset: paper-rs, '
                         'paper-mi.'),
            click.option('--patch-size', type=click.IntRange(1), metavar='P',
                         help="Side of a patch in pixels.  [default: the "
                         "preset's, or 16]"),
            key_options,
            click.option('--dataset-id', metavar='ID',
                         help='Public id that goes into the derivation of all '
                         'randomness; never use one twice for different '
                         'pictures.  [default: drawn]'),
            *(_option(item) for _, item in _settings()
              if item.name not in without), work_options)
        for option in reversed(decorators):
            command = option(command)
        return command

    return decorate


def recipe_arguments(options: dict) -> dict:
    """Arguments of :func:`~hime_mm.encryption.run.encrypt_folder` and its kind
    from the options of the command line.

    Args:
        options (dict): Of :func:`recipe_options`; emptied of what is taken.

    Returns:
        dict: Keyword arguments.
    """
    given = {
        owner: {
            item.name: options.pop(item.name)
            for kind, item in _settings()
            if kind is owner and item.name in options
        } for owner in (Preprocess, Augment)
    }
    preprocess = dict(given[Preprocess], augment=given[Augment])
    pad_val = preprocess['pad_val']
    if isinstance(pad_val, tuple) and len(pad_val) == 1:
        preprocess['pad_val'] = pad_val[0]
    key = None
    named = {n: options.pop(n) for n in ('key_file', 'key_env', 'key_fd')}
    # The environment's key is no contradiction to --one-way.
    if not options['one_way'] or any(n is not None for n in named.values()):
        key = read_key(**named, required=False)
    return dict(
        options,
        key=key,
        preprocess=preprocess,
        workers=options.pop('workers') or available_cpus(),
        progress=not options.pop('quiet'))


def show_problems(problems: Any, what: str, most: int = 20) -> None:
    """Print what is wrong with which file, the first of them.

    Args:
        problems (list[tuple[str, str]]): Paths and reasons.
        what (str): Stands before each.
        most (int): How many are shown. Defaults to 20.
    """
    for path, reason in problems[:most]:
        click.echo(f'{what}: {path}: {reason}', err=True)
    if len(problems) > most:
        click.echo(f'{what}: and {len(problems) - most} more', err=True)
