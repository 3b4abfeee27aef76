# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Results back to the original: boxes, masks, COCO results, the client."""
