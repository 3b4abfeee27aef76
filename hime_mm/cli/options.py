# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Options that commands share; those of a recipe are made from its fields."""

import os
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from functools import wraps
from typing import Any

import click

from hime_mm.ciphers import PRESETS
from hime_mm.ciphers.steps import STEPS
from hime_mm.images import Recipe
from hime_mm.images.augment import Augment
from hime_mm.images.preprocess import Preprocess

from .keys import key_options
from .words import echo, in_options


def work_options(command: Callable) -> Callable:
    """Options of commands that work through a data set.

    The command gets the number of ``workers``, and whether to show the ``progress``.
    """

    @click.option(
        '-j',
        '--workers',
        type=click.IntRange(1),
        metavar='N',
        help='Processes.  [default: one per core]',
    )
    @click.option('-q', '--quiet', is_flag=True, help='No progress bar.')
    @wraps(command)
    def with_work(workers: int | None, quiet: bool, **options: Any) -> Any:
        return command(workers=workers or _available_cpus(), progress=not quiet, **options)

    return with_work


class _RayAddress(click.ParamType):
    """``auto``, ``local``, or where a cluster is."""

    name = 'address'

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        host, _, port = value.rpartition(':')
        if value not in ('auto', 'local') and not (host and port.isdecimal()):
            self.fail(f'{value!r} is not auto, local or HOST:PORT', param, ctx)
        return value


def engine_options(command: Callable) -> Callable:
    """Those of :func:`work_options`, and who works in place of processes of this machine.

    The command gets the ``engine``, too: None for processes. Where there is
    one, it wants to know where the key is and not the key,
    see :meth:`~hime_mm.cli.keys.KeyPlace.given`.
    """

    @click.option(
        '--ray',
        type=_RayAddress(),
        metavar='ADDRESS',
        help='Have Ray do the shards: HOST:PORT of a cluster, "auto" for the one that this '
        'machine is part of, "local" to start one here. Its workers find the key by themselves: '
        'in the file of --key or the variable of --key-env, which each of them has.',
    )
    @work_options
    @wraps(command)
    def with_engine(ray: str | None, **options: Any) -> Any:
        engine = None
        if ray is not None:
            if _is_given('workers'):
                raise click.UsageError(
                    '-j is the number of processes of this machine, and --ray has its own workers: '
                    'give one of them'
                )
            from hime_mm.encryption.engines import OnRay

            engine = OnRay(ray)
        return command(engine=engine, **options)

    return with_engine


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


class Place(click.Path):
    """A folder or file, or an URL."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if '://' in os.fspath(value) else super().convert(value, param, ctx)


def results_options(command: Callable) -> Callable:
    """Options of commands that map results: ``data``, ``annotations`` and ``nms``."""
    for option in (
        click.option(
            '--nms',
            type=click.FloatRange(0, 1),
            metavar='IOU',
            help='Of two boxes of one class that overlap more than this, '
            'leave out the one with the lower score; 1 keeps all.  '
            '[default: 0.5 where patches were moved, else 1]',
        ),
        click.option(
            '--annotations',
            metavar='FILE',
            help='Annotation file that the results were made with.  '
            '[default: all those of the data set]',
        ),
        click.option(
            '--data',
            required=True,
            metavar='FOLDER',
            type=Place(exists=True),
            help='The encrypted data set that the results are of, or its URL.',
        ),
    ):
        command = option(command)
    return command


def _available_cpus() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Size(click.ParamType):
    """WIDTHxHEIGHT, or one number for both."""

    name = 'WxH'

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.lower().split('x')
        if len(parts) > 2 or not all(p.isdecimal() and int(p) for p in parts):
            self.fail(f'{value!r} is no size such as 640x480 or 224', param, ctx)
        return int(parts[0]), int(parts[-1])


class _Numbers(click.ParamType):
    """Numbers with commas between them, perhaps a fixed number of them."""

    name = 'numbers'

    def __init__(self, kind: Callable, count: int | None = None) -> None:
        self.kind, self.count = kind, count

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(','))
        except ValueError:
            self.fail(f'{value!r} is no list of numbers such as 480,512', param, ctx)
        if self.count not in (None, len(numbers)):
            self.fail(f'{value!r} is not {self.count} numbers', param, ctx)
        return numbers


def _settings() -> Iterator[tuple[type, Field]]:
    """All fields that an option can be made of, and whose they are."""
    for owner in (Preprocess, Augment, Recipe):
        for item in fields(owner):
            if item.metadata:
                yield owner, item


#: Formats of which the pictures of a shard lie in a tar.
_TARS = {'tar': 'png', 'tar:webp': 'webp'}
_TYPES = dict(size=_Size(), range=_Numbers(float, 2), ints=_Numbers(int), floats=_Numbers(float))


def _type(item: Field) -> Any:
    metadata, kind = item.metadata, item.metadata['kind']
    low, high, below = (metadata[name] for name in ('low', 'high', 'below'))
    if item.name == 'fmt':
        return click.Choice((*metadata['choices'], *_TARS))
    if metadata['choices']:
        return click.Choice(metadata['choices'])
    if low is None:
        return _TYPES.get(kind, kind)
    if kind is int:
        return click.IntRange(low, high)
    return click.FloatRange(low, high or below, max_open=below is not None)


def _option(item: Field) -> Callable:
    metadata = item.metadata
    flags = metadata['flags'] or ('--' + item.name.replace('_', '-'),)
    if metadata['kind'] is bool:
        return click.option(*flags, item.name, is_flag=True, help=metadata['text'])
    return click.option(
        *flags,
        item.name,
        type=_type(item),
        default=item.default,
        metavar=metadata['metavar'],
        help=metadata['text'],
        show_default=bool(item.default),
    )


_patch_size = click.option(
    '--patch-size',
    type=click.IntRange(1),
    metavar='P',
    help="Side of a patch in pixels.  [default: the preset's, or 16]",
)


def steps_text() -> str:
    """All steps of a cipher, and the presets, as the end of a command's help."""
    lines = ['\b', 'Steps, with the number that each has unless it gets another:']
    for kind in STEPS.values():
        text = str(kind())
        forms = [text, *(f'{text}:{form}' for form in kind.forms[1:])]
        lines.append(f'  {" ".join(forms):21}  {str(kind.__doc__).splitlines()[0]}')
    lines += ['', '\b', 'Presets:']
    for name, preset in PRESETS.items():
        lines.append(f'  {name:21}  {preset.steps}, patches of {preset.patch_size} pixels')
    return '\n'.join(lines)


def recipe_options(*without: str) -> Callable:
    """Options of a recipe and of its key, without some fields.

    The command gets them, and all of its own, as arguments of
    :func:`~hime_mm.encryption.run.encrypt_folder` and its kind.
    """

    def decorate(command: Callable) -> Callable:

        @wraps(command)
        def with_recipe(**options: Any) -> Any:
            return command(**_arguments(options))

        decorators: tuple[Callable, ...] = (
            click.option(
                '-c',
                '--cipher',
                required=True,
                metavar='CIPHER',
                help='Steps in order of application, such as "center+erode2+shuffle", or a '
                f'preset: {", ".join(PRESETS)}. The steps are listed below.',
            ),
            _patch_size,
            key_options,
            click.option(
                '--dataset-id',
                metavar='ID',
                help='Public id that goes into the derivation of all '
                'randomness; never use one twice for different '
                'pictures.  [default: drawn]',
            ),
            *(_option(item) for _, item in _settings() if item.name not in without),
        )
        for decorator in reversed(decorators):
            with_recipe = decorator(with_recipe)
        return with_recipe

    return decorate


def sizing_options(command: Callable) -> Callable:
    """Options of patches, and of how pictures are read, sized and augmented before encryption.

    The command gets them as ``recipe``, arguments of :meth:`~hime_mm.images.Recipe.build`.
    """

    @wraps(command)
    def with_recipe(patch_size: int | None, **options: Any) -> Any:
        recipe = dict(_settled(options), patch_size=patch_size)
        return command(recipe=recipe, **options)

    owners = [item for owner, item in _settings() if owner is not Recipe]
    for decorator in (*map(_option, reversed(owners)), _patch_size):
        with_recipe = decorator(with_recipe)
    return with_recipe


def _arguments(options: dict) -> dict:
    recipe = _settled(options)
    # The environment's key is no contradiction to --one-way.
    place, key = options.pop('key'), None
    if place.named or not recipe['one_way']:
        # That of `engine_options`, where the command has it.
        key = place.given(elsewhere=options.get('ray') is not None)
    return dict(options, **recipe, key=key)


def _settled(options: dict) -> dict:
    """The fields of a recipe that are among the options, which lose them."""
    given: dict[type, dict] = {Preprocess: {}, Augment: {}, Recipe: {}}
    for owner, item in _settings():
        if item.name in options:
            given[owner][item.name] = options.pop(item.name)
    recipe, preprocess = given[Recipe], given[Preprocess]
    if recipe.get('fmt') in _TARS:
        recipe.update(fmt=_TARS[recipe['fmt']], storage='tar')
    if preprocess['pad_val'] and len(preprocess['pad_val']) == 1:
        (preprocess['pad_val'],) = preprocess['pad_val']
    return dict(recipe, preprocess=dict(preprocess, augment=given[Augment]))


def show_problems(
    problems: Any, what: str, remedy: str = '', num: int | None = None, max_lines: int = 20
) -> None:
    """Print what is wrong with which file, of the first of them, and what to do for the others."""
    command = click.get_current_context().command
    for path, reason in problems[:max_lines]:
        echo(f'{what}: {path}: {in_options(reason, command)}', err=True)
    num = len(problems) if num is None else num
    if num > max_lines:
        more = f': {remedy}' if remedy else ''
        echo(f'{what}: and {num - max_lines} more{more}', err=True)
