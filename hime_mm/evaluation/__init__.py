# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO in coordinates of the originals, and what attacks got."""
