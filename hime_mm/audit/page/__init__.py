# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The report of an audit as a page for people to read, made of its summary and picture files."""

from .document import report_page, write_page

__all__ = ['report_page', 'write_page']
