# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log():
    """What MMEngine's logger says, with the level."""
    logger = MMLogger.get_current_instance()
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler = Keep(level=logging.INFO)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
