# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A group of commands that imports each of them when it is asked for.

So `hime doctor` works where NumPy or OpenCV do not.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from hime_mm.errors import HimeError

from .words import echo, echo_usage, in_options

#: Exit status when something is missing or does not fit; 2 is click's own for
#: wrong usage.
FAILED = 1
#: Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported one by one.

    It shows errors that name a remedy as one line instead of a traceback.

    Args:
        places (dict[str, str]): Where commands are that it has not been given,
            ``module:name``, by name; one may have two words.
    """

    def __init__(self, *args: Any, places: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = places or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.places, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            return super().get_command(ctx, cmd_name)
        place, _, name = self.places[cmd_name].partition(':')
        try:
            return getattr(importlib.import_module(place), name)
        except ImportError as error:
            return _unavailable_command(cmd_name, error)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # A name of two words, such as `audit report`, goes before that of its first word.
        two = ' '.join(args[:2])
        if len(args) > 1 and two in self.places:
            return two, self.get_command(ctx, two), args[2:]
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Any = None, **extra: Any
    ) -> Any:
        given = [str(arg) for arg in (sys.argv[1:] if args is None else args)]
        # A usage error would quote it. Short ones are no keys: no import then.
        parts = [
            p
            for arg in given
            for p in (arg, arg.partition('=')[2])
            if len(p) > 40 or p.startswith('hime-key')
        ]
        if parts:
            from hime_mm.ciphers.keys import looks_like_key

            if any(map(looks_like_key, parts)):
                echo(
                    'hime: a key itself stands on the command line, where '
                    'others can see it: make a new one, and give the name of '
                    'its file, of an environment variable or the number of a '
                    'file descriptor',
                    err=True,
                )
                sys.exit(FAILED)
        try:
            # Its own way of printing errors is not ours.
            sys.exit(super().main(args, **{**extra, 'standalone_mode': False}))
        except click.ClickException as error:
            echo_usage(error)
            sys.exit(error.exit_code)
        except click.Abort:
            echo('hime: interrupted', err=True)
            sys.exit(INTERRUPTED)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (HimeError, OSError) as error:
            # Errors of wrong input; others are bugs and keep their traceback.
            # An OSError with a code prints it; the text alone says enough.
            text = getattr(error, 'strerror', None) or str(error)
            name = getattr(error, 'filename', None)
            text += f': {name}' if name else ''
            command = self.get_command(ctx, ctx.invoked_subcommand or '')
            echo(f'hime: {in_options(text, command)}', err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            echo('hime: interrupted', err=True)
            sys.exit(INTERRUPTED)


#: The extra that a package that only some commands need comes with.
EXTRAS = {'scipy': 'audit', 'skimage': 'audit', 'jinja2': 'view'}


def _unavailable_command(name: str, error: ImportError) -> click.Command:
    """A command that cannot be imported here, so that others can be."""
    text = f'does not work here ({error}): `hime doctor` says more'
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        text = f"needs {error.name}: pip install 'hime-mm[{EXTRAS[error.name]}]'"

    def refuse() -> None:
        raise click.ClickException(f'{name} {text}')

    return click.Command(
        name,
        callback=refuse,
        short_help=text,
        add_help_option=False,
        context_settings=dict(ignore_unknown_options=True, allow_extra_args=True),
    )
