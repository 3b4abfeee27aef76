# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from .checkpoints import (COCO_CATEGORY_IDS, FORMATS, NATIVE,
                          ConversionError, ConversionReport, Entry, SourceInfo,
                          convert_state_dict, detect_format,
                          embeds_mixed, find_grid, load_foreign, translate,
                          unwrap)

__all__ = [
    'COCO_CATEGORY_IDS', 'FORMATS', 'NATIVE', 'ConversionError',
    'ConversionReport', 'Entry', 'SourceInfo', 'convert_state_dict',
    'detect_format', 'embeds_mixed', 'find_grid', 'load_foreign', 'translate',
    'unwrap'
]
