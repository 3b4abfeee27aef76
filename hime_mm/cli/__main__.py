# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``python -m hime_mm.cli`` is ``hime``."""

from . import main

main()
