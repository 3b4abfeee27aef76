# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whose names the tensors of a checkpoint have, and what they are here."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

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
    i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)

# '#' is a number and '*' weight or bias; what is not of a head is of the
# backbone.
_TIMM = {
    'cls_token': 'cls_token',
    'pos_embed': 'pos_embed',
    'det_token': 'det_token',
    'mid_pos_embed': 'mid_pos_embed',
    'patch_embed.proj.*': 'patch_embed.projection.*',
    'blocks.#.norm1.*': 'layers.#.ln1.*',
    'blocks.#.norm2.*': 'layers.#.ln2.*',
    'blocks.#.attn.qkv.*': 'layers.#.attn.qkv.*',
    'blocks.#.attn.proj.*': 'layers.#.attn.proj.*',
    'blocks.#.mlp.fc1.*': 'layers.#.ffn.layers.0.0.*',
    'blocks.#.mlp.fc2.*': 'layers.#.ffn.layers.1.*',
    # Layer scale, of timm and of the DeiT repository.
    'blocks.#.ls1.gamma': 'layers.#.attn.gamma1.weight',
    'blocks.#.ls2.gamma': 'layers.#.ffn.gamma2.weight',
    'blocks.#.gamma_1': 'layers.#.attn.gamma1.weight',
    'blocks.#.gamma_2': 'layers.#.ffn.gamma2.weight',
    'norm.*': 'ln1.*',
    'fc_norm.*': 'ln2.*',
    'norm_pre.*': 'pre_norm.*',
    'head.*': 'head.layers.head.*',
    'pre_logits.fc.*': 'head.layers.pre_logits.*',
    'class_embed.layers.#.*': 'bbox_head.cls_branch.layers.#.*',
    'bbox_embed.layers.#.*': 'bbox_head.reg_branch.layers.#.*',
}
# The paper has these in the model or in its patch embedding.
for _place in ('', 'patch_embed.'):
    _TIMM.update(
        {
            f'{_place}proj_siat.*': 'patch_embed.projection.*',
            f'{_place}proj_siat_embed.*': 'patch_embed.mapping.*',
            f'{_place}reference': 'rpe.reference',
            f'{_place}ref_encoding.#.*': 'rpe.ref_encoding.#.*',
        }
    )
#: What Hugging Face keeps apart, in the order in which it is one here.
QKV = ('query', 'key', 'value')
_HF = {
    'embeddings.cls_token': 'cls_token',
    'embeddings.detection_tokens': 'det_token',
    'embeddings.position_embeddings': 'pos_embed',
    'encoder.mid_position_embeddings': 'mid_pos_embed',
    'embeddings.patch_embeddings.projection.*': 'patch_embed.projection.*',
    'encoder.layer.#.layernorm_before.*': 'layers.#.ln1.*',
    'encoder.layer.#.layernorm_after.*': 'layers.#.ln2.*',
    # Three in one.
    **{f'encoder.layer.#.attention.attention.{part}.*': 'layers.#.attn.qkv.*' for part in QKV},
    'encoder.layer.#.attention.output.dense.*': 'layers.#.attn.proj.*',
    'encoder.layer.#.intermediate.dense.*': 'layers.#.ffn.layers.0.0.*',
    'encoder.layer.#.output.dense.*': 'layers.#.ffn.layers.1.*',
    'layernorm.*': 'ln1.*',
    'class_labels_classifier.layers.#.*': 'bbox_head.cls_branch.layers.#.*',
    'bbox_predictor.layers.#.*': 'bbox_head.reg_branch.layers.#.*',
}
# Ours without the prefix, as a backbone alone is saved.
_OWN = re.compile(
    r'(layers|ln[12]|pre_norm|patch_embed|rpe)\.|(cls_token|pos_embed|'
    r'pos_grid|embed_cipher|det_token|det_pos_embed|mid_pos_embed|mid_det_pos_embed)$'
)
_DISTILLATION = r'(.*\.)?(dist_token|head_dist.*|layers\.head_dist.*)'
_REFUSED = {
    _DISTILLATION: 'belongs to a distillation token, which PEViT has not (MMPretrain has a '
    'DistilledVisionTransformer)',
    r'(.*\.)?reg_token': 'register tokens, which PEViT has not',
    r'attn_pool\..*': 'attention pooling, which PEViT has not',
    r'.*\.[qk]_norm\..*': 'queries and keys are normalised, which the attention here does not do',
    r'.*(relative_position|rel_pos).*': 'relative positions, which PEViT has not',
}


def strip_prefix(name: str) -> str:
    """A name without ``backbone.`` in front."""
    return name.removeprefix('backbone.')


def describe_format(fmt: str) -> str:
    """A format and its key, for people."""
    return f'{FORMATS[fmt]} ({fmt})'


def detect_format(state_dict: Mapping[str, Any]) -> str:
    """Recognise whose names these are: a key of :data:`FORMATS`.

    Raises:
        ConversionError: If they are of no format that is known.
    """
    names = [strip_prefix(name) for name in state_dict]

    def any_name(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if any_name(r'layers\.\d+\.(ln[12]|attn|ffn)\.'):
        own = any_name(
            r'rpe\.|pos_grid$|det_token$|patch_embed\.mapping\.|'
            r'bbox_head\.cls_branch\.'
        )
        return 'hime_mm' if own else 'mmpretrain'
    if any_name(r'blocks\.\d+\.(norm[12]|attn|mlp)\.'):
        mixed = any_name(r'(patch_embed\.)?proj_siat(_embed)?\.')
        if any_name(r'det_token$|class_embed\.|bbox_embed\.'):
            return 'paper-detector' if mixed else 'yolos'
        rpe = any_name(r'(patch_embed\.)?(reference$|ref_encoding\.)')
        return 'paper-classifier' if mixed or rpe else 'timm'
    if any_name(r'(vit\.)?encoder\.layer\.\d+\.') and any_name(
        r'(vit\.)?embeddings\.detection_tokens$'
    ):
        return 'hf-yolos'
    raise ConversionError(
        f'the names of the checkpoint, such as {", ".join(names[:4])}, are of '
        f'no known format. Known are: {"; ".join(map(describe_format, FORMATS))}'
    )


def rename(name: str, fmt: str) -> str | None:
    """The name here, None if there is none."""
    if fmt in NATIVE:
        if re.fullmatch(_DISTILLATION, strip_prefix(name)):
            return None
        return f'backbone.{name}' if _OWN.match(name) else name
    name = name[4:] if name.startswith('vit.') else strip_prefix(name)
    rules = _HF if fmt == 'hf-yolos' else _TIMM
    varies = r'\b(\d+|weight|bias)\b'
    values = re.findall(varies, name)
    target = rules.get(re.sub(varies, lambda part: '#' if part[0].isdigit() else '*', name))
    if target is None:
        return None
    for value in values:
        target = re.sub('[#*]', value, target, count=1)
    head = target.startswith(('head.', 'bbox_head.'))
    return target if head else f'backbone.{target}'


def refusal_reason(name: str, fmt: str) -> str:
    """Why a name has no place here."""
    return next(
        (why for pattern, why in _REFUSED.items() if re.fullmatch(pattern, strip_prefix(name))),
        f'has no place in a model of this package ({fmt})',
    )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of some patterns, as in a shell."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
