# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
from config_parts import make_manifest, on_device, warnings_of
from mmengine.config import Config

from hime_mm.apis import check_config
from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError


def test_a_timm_backbone():

    def check(cipher, **kwargs):
        cfg = on_device(
            cipher, model_name=kwargs.pop('model_name', 'vit_tiny_patch16_224'), **kwargs
        )
        cfg.model.backbone.type = 'hime_mm.TIMMPEViT'
        with warnings_of() as lines:
            check_config(cfg)
        return [line for line in lines if 'backbone' in line]

    assert check('shuffle') == []
    assert check('erode2+shuffle', patch_size=12) == []
    with pytest.raises(ConfigError, match=r'`model\.backbone`.* `patch_size=12`$'):
        check('erode2+shuffle')
    # No mixed embedding there.
    with pytest.raises(ConfigError, match=r'`model\.backbone`.* `patch_size=8`$'):
        check('mix2')
    with pytest.raises(ConfigError, match='patch_size=16'):
        check('shuffle', model_name='vit_small_patch14_dinov2.lvd142m')
    (line,) = check('shuffle', pos_encoding='learned')
    assert '`model.backbone.pos_encoding`' in line and '"learned"' in line
    # Building it gives the reason.
    assert check('shuffle', model_name='resnet18') == []


@pytest.mark.parametrize('name, warned', [('vit_tiny_patch16_224', True), ('resnet18', False)])
def test_a_timm_backbone_of_mmpretrain(name, warned):
    cfg = on_device()
    cfg.model.backbone = dict(type='TIMMBackbone', model_name=name)
    with warnings_of() as lines:
        check_config(cfg)
    assert any('TIMMPEViT' in line for line in lines) is warned
    if warned:
        cfg.data_preprocessor.patch_size = 8
        with pytest.raises(ConfigError, match='patch_size=8'):
            check_config(cfg)


@pytest.mark.parametrize(
    'step, backbone, remedy',
    [
        (dict(cipher='mix4'), dict(patch_embed='mixed'), '`num_splits=4`'),
        (dict(cipher='mix2'), {}, '`patch_size=8`'),
        (dict(cipher='mix2:tiled'), dict(patch_embed='mixed'), "`input_form='full'`"),
        (dict(cipher='shuffle'), dict(patch_embed='mixed'), "`input_form='full'`"),
        (dict(cipher='shuffle', patch_size=8), {}, '`patch_size=8`'),
        (dict(cipher='center+erode2+shuffle'), {}, '`patch_size=12`'),
        (dict(cipher='erode2+mix2'), dict(patch_embed='mixed'), '`patch_size=12`, `num_splits=2`'),
        (dict(cipher='paper-mi'), dict(type='mmpretrain.VisionTransformer'), '`patch_size=8`'),
        (dict(cipher='erode2'), dict(type='DeiT3', patch_size=14), '`patch_size=12`'),
        (dict(cipher='shuffle'), dict(type='mmpretrain.BEiTViT', patch_size=32), '`patch_size=16`'),
    ],
)
@pytest.mark.parametrize('folder', [False, True])
def test_backbone_that_does_not_fit_the_cipher(step, backbone, remedy, folder, tmp_path):
    cfg = fitted(step, backbone, folder, tmp_path)
    with pytest.raises(ConfigError) as error:
        check_config(cfg)
    assert remedy in str(error.value)
    assert 'train_dataloader.dataset.pipeline.0' in str(error.value)
    assert (str(tmp_path / 'hime.json') in str(error.value)) == folder


def fitted(step, backbone, folder, tmp_path):
    """A config of a backbone and a cipher, in the pipeline or the data."""
    if folder:
        make_manifest(tmp_path, Cipher.build(**step))
        step = dict(type='hime_mm.LoadEncryptedMeta')
    else:
        step = dict(type='hime_mm.Encrypt', **step)
    return Config(
        dict(
            train_dataloader=dict(dataset=dict(data_root=str(tmp_path), pipeline=[step])),
            model=dict(backbone=dict(dict(type='hime_mm.PEViT'), **backbone)),
        )
    )


@pytest.mark.parametrize(
    'step, backbone',
    [
        (dict(cipher='mix4'), dict(patch_embed='mixed', num_splits=4)),
        (dict(cipher='mix2'), dict(patch_size=8)),
        (dict(cipher='mix2:tiled'), {}),
        (dict(cipher='mix2:tiled'), dict(patch_embed='mixed', input_form='full')),
        (dict(cipher='mix2+shuffle'), dict(patch_embed='mixed')),
        (dict(cipher='shuffle'), dict(pos_encoding='none')),
        (dict(cipher='center+erode2+shuffle'), dict(patch_size=12)),
        (dict(cipher='erode2+mix2'), dict(patch_embed='mixed', patch_size=12)),
        (dict(cipher='paper-mi'), dict(type='mmpretrain.VisionTransformer', patch_size=8)),
        (dict(cipher='erode2:filled'), dict(type='DeiT3')),
        # Of another kind: not for us to say.
        (dict(cipher='mix4'), dict(type='SwinTransformer')),
        (dict(cipher='mix4'), dict(type='mmdet.ResNet')),
    ],
)
@pytest.mark.parametrize('folder', [False, True])
def test_backbone_that_fits_the_cipher(step, backbone, folder, tmp_path):
    with warnings_of() as lines:
        check_config(fitted(step, backbone, folder, tmp_path))
    assert lines == []


@pytest.mark.parametrize(
    'backbone, words',
    [
        (dict(pos_encoding='learned'), '`model.backbone.pos_encoding`'),
        (dict(type='VisionTransformer'), 'VisionTransformer'),
    ],
)
@pytest.mark.parametrize('folder', [False, True])
def test_positions_of_moved_patches(backbone, words, folder, tmp_path):
    with warnings_of() as lines:
        check_config(fitted(dict(cipher='shuffle'), backbone, folder, tmp_path))
    assert len(lines) == 1 and words in lines[0] and '"rpe"' in lines[0].replace("'", '"')
