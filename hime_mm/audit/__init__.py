# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Runs attacks with the truth beside them, measures, writes the report."""
