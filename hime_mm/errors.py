# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a user can do wrong: every such error derives from :class:`HimeError`.

Commands and workers turn these and ``OSError`` into one line; everything else
is a bug and keeps its traceback. Each message names the thing, the value and
the remedy, and never a key or a permutation.
"""


class HimeError(ValueError):
    """Something that whoever called can mend."""


class CipherError(HimeError):
    """A cipher that makes no sense, or does not go with its use."""


class InvalidKey(HimeError):
    """A key that is missing, malformed, readable by others or wrong.

    Its message never holds any part of the key.
    """


class PictureError(HimeError):
    """One picture that cannot be read, sized, encrypted or written.

    The reason lies in that picture: the others of a run go on without it.
    """


class UnreadableImage(PictureError):
    """A picture that cannot be decoded, or only in part."""


class ManifestError(HimeError):
    """A manifest that is missing, damaged or of another version."""


class CocoError(HimeError):
    """An annotation file that is not what COCO's format asks for."""


class ListError(HimeError):
    """A list of pictures that cannot be followed."""


class EncryptionError(HimeError):
    """Something that keeps a data set from being encrypted or decrypted."""


class StoreError(HimeError):
    """An URL that names no place where a data set can lie, or needs what is not installed."""


class WorkerDied(HimeError, ChildProcessError):
    """A worker process ended before its work did: it crashed or was killed."""


class BoxError(HimeError):
    """Coordinates that cannot be mapped between an original and its encrypted picture."""


class ClientError(HimeError):
    """Something that a client cannot encrypt, predict or map back."""


class ConfigError(HimeError):
    """A config that would leak plain images, or cannot work."""


class ConversionError(HimeError):
    """Weights that cannot be taken over completely."""


class AttackError(HimeError):
    """Evidence that an attack cannot start from."""


class AuditError(HimeError):
    """An audit that cannot be made of what was given."""


def printable(text: str) -> str:
    r"""A text of one line: ``\x1b`` for the character, likewise line feeds and half characters."""
    if text.isprintable():
        return text
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode() for char in text
    )
