# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a machine reads of a picture as people would: faces, text, objects.

Readers were trained on plain pictures by others. They come with the extra
``readers``, weights inside; a model of the user's own is an ONNX file.
"""

from .base import Named, Objects, Reader, Reading
from .faces import FaceReader, Faces
from .onnx import OnnxReader
from .text import Text, TextReader

#: Those that need no file of the user's, by name.
READERS: dict[str, type[Reader]] = {kind.name: kind for kind in (FaceReader, TextReader)}

__all__ = [
    'READERS',
    'FaceReader',
    'Faces',
    'Named',
    'Objects',
    'OnnxReader',
    'Reader',
    'Reading',
    'Text',
    'TextReader',
]
