# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""An encrypted data set at rest. Needs neither torch nor mm packages."""
