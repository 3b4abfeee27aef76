# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where a data set lies: a folder of this machine, or whatever fsspec knows."""

from .base import Entry, Store
from .local import LocalStore
from .opening import open_store
from .remote import FsspecStore

__all__ = ['Entry', 'FsspecStore', 'LocalStore', 'Store', 'open_store']
