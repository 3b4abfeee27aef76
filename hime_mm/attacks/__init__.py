# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an adversary does; is handed encrypted images and public facts, never the truth."""
