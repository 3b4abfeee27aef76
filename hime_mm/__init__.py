# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Human-imperceptible, machine-recognizable images for OpenMMLab.

``import hime_mm`` pulls in neither torch nor an OpenMMLab package: an owner
encrypts with :mod:`hime_mm.ciphers` on a machine that has only NumPy and
OpenCV.  The registered transforms, models and hooks are imported by the
registries of :mod:`hime_mm.registry` when a config first names them.
"""

from .version import __version__

__all__ = ['__version__']
