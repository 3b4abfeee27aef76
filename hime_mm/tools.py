# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``python -m hime_mm.tools NAME …``: the scripts of ``tools/``, wherever they were installed.

A wheel has them in ``hime_mm/.mim``, with the configs, where nobody wants to type paths to::

    python -m hime_mm.tools train hime_vit_coco.py --amp
    torchrun --nproc_per_node 8 -m hime_mm.tools train hime_vit_coco.py --launcher pytorch
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from hime_mm.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def resources(name: str) -> Path:
    """The folder ``configs`` or ``tools``: that of the installed package, else of the checkout."""
    installed = PACKAGE / '.mim' / name
    # In an editable install it is a link.
    return (installed if installed.is_dir() else PACKAGE.parent / name).resolve()


def find_tools() -> dict[str, Path]:
    """The scripts, by their names without ``.py``."""
    paths = sorted(resources('tools').rglob('*.py'))
    return {path.stem: path for path in paths if "'__main__'" in path.read_text('utf-8')}


def find_config(name: str) -> str:
    """The path of a config, as ``mim train`` understands it.

    Args:
        name (str): A path. If there is no such file: the end of the path of
            a config of this package, such as ``'hime_vit_coco.py'``.

    Returns:
        str: The path; the name itself if no config is called so.

    Raises:
        ConfigError: If several are.
    """
    if os.path.exists(name):
        return name
    parts = Path(name).parts
    paths = sorted(resources('configs').rglob('*.py'))
    found = [str(path) for path in paths if path.parts[-len(parts) :] == parts]
    if len(found) > 1:
        raise ConfigError(f'{name!r} may be any of {", ".join(found)}: write more of its path')
    return found[0] if found else name


def main(argv: Sequence[str] | None = None) -> None:
    """Run a script as if it was called by its path.

    Args:
        argv (Sequence[str], optional): Its name and arguments. The first of
            them that ends in ``.py`` may be the name of a config of this
            package. Defaults to None: those of the command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    tools = find_tools()
    parser = argparse.ArgumentParser(
        prog='python -m hime_mm.tools',
        usage='%(prog)s [-h] TOOL [arguments of the tool ...]',
        description='Run a script of tools/.',
        epilog=f'Configs that need no path: those below {resources("configs")}',
    )
    parser.add_argument('tool', metavar='TOOL', choices=tools, help=', '.join(tools))
    # The rest is for the script alone, `-h` as well.
    script, args = tools[parser.parse_args(argv[:1] or ['-h']).tool], argv[1:]
    place = next((i for i, arg in enumerate(args) if arg.endswith('.py')), None)
    if place is not None:
        try:
            args[place] = find_config(args[place])
        except ConfigError as error:
            parser.error(str(error))
    sys.argv = [str(script), *args]
    # Where its neighbours are found.
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')


if __name__ == '__main__':
    main()
