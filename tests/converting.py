# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the tests of the converter share."""

import timm
import torch
from foreign_models import shake
from mmengine.runner import load_checkpoint

from hime_mm.models.weights import COCO_CATEGORY_IDS
from hime_mm.models.weights.convert import build_parts, convert_checkpoint

COCO_ROWS = [*COCO_CATEGORY_IDS, 91]


def convert(src, tmp_path, name='out.pth', **kwargs):
    """Convert and load what was written into the model it is for."""
    dst = tmp_path / name
    report, parts = convert_checkpoint(str(src), str(dst), **kwargs)
    model = build_parts(parts)
    strict = not report.initial
    load_checkpoint(model, str(dst), strict=strict)
    return model.eval(), report, parts


def logits(model, x):
    with torch.no_grad():
        return model.head(model.backbone(x))


def detect(model, x):
    with torch.no_grad():
        scores, boxes = model.bbox_head(model.backbone(x))
    return scores[0], boxes[0]


def sources(report):
    return [e.src_name for group in (report.mapped, report.resized, report.dropped) for e in group]


def assert_accounts(report, state):
    """Every source key is in the report, in one group."""
    mapped = {e.src_name for e in report.mapped}
    resized = {e.src_name for e in report.resized}
    dropped = {e.src_name for e in report.dropped}
    assert mapped | resized | dropped == set(state)
    assert not mapped & dropped and not resized & dropped


def save(tmp_path, checkpoint, name='src.pth'):
    path = tmp_path / name
    torch.save(checkpoint, path)
    return path


def tiny(seed=0, **kwargs):
    """timm's ViT, small."""
    torch.manual_seed(seed)
    kwargs = dict(
        img_size=64, embed_dim=128, depth=3, num_heads=2, num_classes=7, mlp_ratio=2.0, **kwargs
    )
    return shake(timm.models.VisionTransformer(**kwargs), seed)


def without(state, *names):
    return {k: v for k, v in state.items() if k not in names}
