# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Ciphers on batches of tensors: a torch form for each step, by its name.

Steps, their order, layouts and randomness are those of
:mod:`hime_mm.ciphers`; here is the same arithmetic for many images at once,
each with a draw of its own, on whatever device they are. The tests hold every
form against its step, bit by bit for 8-bit images.
"""

from . import forms  # noqa: F401
from .base import FORMS, TorchForm, register_torch
from .batch_cipher import BatchCipher

__all__ = ['FORMS', 'BatchCipher', 'TorchForm', 'register_torch']
