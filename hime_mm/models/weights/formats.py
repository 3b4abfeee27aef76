# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whose names the tensors of a checkpoint have."""
import re
from typing import Any, Mapping

from hime_mm.errors import ConversionError

#: What is recognised, and what it is.
FORMATS = {
    'timm': 'ViT or DeiT of timm or of the DeiT repository',
    'paper-classifier': "PEViT of the paper's code",
    'paper-detector': "PEYOLOS of the paper's code",
    'yolos': 'YOLOS of its authors',
    'hf-yolos': 'YOLOS of Hugging Face transformers',
    'mmpretrain': 'ViT or DeiT of MMPretrain',
    'hime_mm': 'a model of hime_mm',
}
#: Formats whose names are the ones used here.
NATIVE = ('mmpretrain', 'hime_mm')
#: Detectors of others, which all have detection tokens.
DETECTORS = ('paper-detector', 'yolos', 'hf-yolos')
#: Classifiers of others, whose class token may have no position.
CLASSIFIERS = ('timm', 'paper-classifier')
#: Ids of the 80 classes of COCO in the order of MMDetection's labels. DETR and
#: YOLOS have a row for every id up to 90, used or not.
COCO_CATEGORY_IDS = tuple(
    i for i in range(1, 91)
    if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


def bare(name: str) -> str:
    """A name without ``backbone.`` in front."""
    return name.removeprefix('backbone.')


def detect_format(state_dict: Mapping[str, Any]) -> str:
    """Recognise whose names these are.

    Args:
        state_dict (dict): Names and tensors, see :func:`unwrap`.

    Returns:
        str: A key of :data:`FORMATS`.

    Raises:
        ConversionError: If they are nobody's that is known here.
    """
    names = [bare(name) for name in state_dict if isinstance(name, str)]

    def any_name(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if any_name(r'layers\.\d+\.(ln[12]|attn|ffn)\.'):
        own = any_name(r'rpe\.|pos_grid$|det_token$|patch_embed\.mapping\.|'
                       r'bbox_head\.cls_branch\.')
        return 'hime_mm' if own else 'mmpretrain'
    if any_name(r'blocks\.\d+\.(norm[12]|attn|mlp)\.'):
        mixed = any_name(r'(patch_embed\.)?proj_siat(_embed)?\.')
        if any_name(r'det_token$|class_embed\.|bbox_embed\.'):
            return 'paper-detector' if mixed else 'yolos'
        rpe = any_name(r'(patch_embed\.)?(reference$|ref_encoding\.)')
        return 'paper-classifier' if mixed or rpe else 'timm'
    if any_name(r'(vit\.)?encoder\.layer\.\d+\.') and any_name(
            r'(vit\.)?embeddings\.detection_tokens$'):
        return 'hf-yolos'
    known = '; '.join(f'{k} ({v})' for k, v in FORMATS.items())
    raise ConversionError(
        f'the names of the checkpoint, such as {", ".join(names[:4])}, are of '
        f'no known format. Known are: {known}')
