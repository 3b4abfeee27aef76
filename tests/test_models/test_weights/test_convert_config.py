# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights of others for the model of a config."""

import json

import pytest
import torch
from converting import COCO_ROWS, convert, detect, save, tiny
from foreign_models import Yolos, hugging_face, shake
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint

from hime_mm.errors import ConversionError
from hime_mm.models.weights.convert import convert_checkpoint

CONFIG = """
default_scope = 'mmdet'
model = dict(
    type='hime_mm.PEYOLOS',
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=128, num_layers=3, num_heads=2,
                  feedforward_channels=256),
        img_size=(96, 64),
        pos_encoding='learned',
        patch_embed='{embed}',
        num_det_tokens=5,
        out_type='det_tokens'),
    bbox_head=dict(
        type='hime_mm.DetTokenHead', num_classes={classes}, embed_dims=128))
"""


def config(tmp_path, embed='linear', classes=80):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(embed=embed, classes=classes))
    return str(path)


def load_config(path, checkpoint, strict=True):
    from mmengine.config import Config

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(path).model)
    load_checkpoint(model, str(checkpoint), strict=strict)
    return model.eval()


def test_yolos_for_a_config(tmp_path):
    """Positions are resized to the config's grid, and that is said."""
    source = shake(Yolos())
    path = save(tmp_path, source.state_dict())
    dst = tmp_path / 'out.pth'
    report, parts = convert_checkpoint(
        str(path), str(dst), config=config(tmp_path), img_size=(64, 96)
    )
    assert parts == {}
    assert any('4x6 resized to 6x4' in e.why for e in report.resized)
    model = load_config(config(tmp_path), dst)
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            detect(model, x)[0], source(x)[0][..., COCO_ROWS], atol=1e-4, rtol=0
        )
    # A start of the mixed twin.
    report, _ = convert_checkpoint(
        str(path), str(dst), config=config(tmp_path, 'mixed'), img_size=(64, 96), overwrite=True
    )
    assert {e.target for e in report.initial} == {
        f'backbone.patch_embed.{layer}.{kind}'
        for layer in ('projection', 'mapping')
        for kind in ('weight', 'bias')
    }
    # Without a size, a grid of as many patches is taken for the model's.
    report, _ = convert_checkpoint(str(path), str(dst), config=config(tmp_path), overwrite=True)
    assert any("the model's, 6x4" in n for n in report.notes)


def test_deit_for_a_detector(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    dst = tmp_path / 'out.pth'
    report, _ = convert_checkpoint(str(path), str(dst), config=config(tmp_path, 'mixed'))
    tops = {e.target.split('.')[0] + '.' + e.target.split('.')[1] for e in report.initial}
    assert tops == {
        'backbone.patch_embed',
        'backbone.det_token',
        'backbone.det_pos_embed',
        'bbox_head.cls_branch',
        'bbox_head.reg_branch',
    }
    assert {e.src_name for e in report.dropped} == {
        'patch_embed.proj.weight',
        'patch_embed.proj.bias',
        'head.weight',
        'head.bias',
    }


@pytest.mark.parametrize(
    'kwargs, match',
    [
        (dict(num_classes=80), '^`num_classes` '),
        (dict(pos_encoding='rpe'), '^`pos_encoding` '),
    ],
)
def test_config_and_its_contradictions(tmp_path, kwargs, match):
    path = save(tmp_path, Yolos().state_dict())
    with pytest.raises(ConversionError, match=match):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'), config=config(tmp_path), **kwargs)


def test_options_of_a_config(tmp_path):
    source = shake(Yolos(mid=True))
    path = save(tmp_path, source.state_dict())
    report, _ = convert_checkpoint(
        str(path),
        str(tmp_path / 'out.pth'),
        config=config(tmp_path),
        img_size=(64, 96),
        cfg_options={'model.backbone.mid_positions': True},
    )
    assert 'backbone.mid_pos_embed' in {e.target for e in report.resized}
    with pytest.raises(ConversionError, match='`cfg_options`'):
        convert_checkpoint(str(path), str(tmp_path / 'b.pth'), cfg_options={'a': 1})


def test_another_model_in_the_config(tmp_path):
    path = save(tmp_path, Yolos(mid=True, depth=4).state_dict())
    with pytest.raises(ConversionError) as error:
        convert_checkpoint(
            str(path), str(tmp_path / 'out.pth'), config=config(tmp_path), img_size=(64, 96)
        )
    # All that is wrong is said at once.
    assert 'mid_positions=True' in str(error.value)
    assert 'layers.3' in str(error.value)
    (tmp_path / 'other.py').write_text(
        "default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', "
        "backbone=dict(type='LeNet5', num_classes=3))"
    )
    with pytest.raises(ConversionError, match='other.py .*hime_mm.PEViT'):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'), config=str(tmp_path / 'other.py'))


def test_number_of_heads_is_compared(tmp_path):
    folder = tmp_path / 'hf'
    folder.mkdir()
    source = shake(Yolos(dim=96, heads=3))
    torch.save(hugging_face(source.state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(
        json.dumps(dict(image_size=[64, 96], num_attention_heads=3, layer_norm_eps=1e-12))
    )
    model, _, parts = convert(folder, tmp_path)
    assert parts['backbone']['arch']['num_heads'] == 3
    assert model.backbone.layers[0].ln1.eps == 1e-12
    folder = tmp_path / 'other'
    folder.mkdir()
    torch.save(hugging_face(Yolos().state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(
        json.dumps(dict(image_size=[64, 96], num_attention_heads=4, layer_norm_eps=1e-12))
    )
    with pytest.raises(ConversionError, match='4 attention heads.* 2$'):
        convert_checkpoint(str(folder), str(tmp_path / 'x.pth'), config=config(tmp_path))
    (folder / 'config.json').write_text(
        json.dumps(dict(image_size=[64, 96], num_attention_heads=2, layer_norm_eps=1e-12))
    )
    report, _ = convert_checkpoint(str(folder), str(tmp_path / 'x.pth'), config=config(tmp_path))
    assert any('1e-12' in note for note in report.notes)
