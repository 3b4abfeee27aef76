# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files in, files out: the converter as a person uses it."""
import argparse
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from foreign_models import PaperPEViT, Yolos, hugging_face, shake
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint

from hime_mm.apis.convert import (ConversionError, _build, convert_checkpoint,
                                  format_parts, read_checkpoint)
from hime_mm.models.utils import COCO_CATEGORY_IDS

ROOT = Path(__file__).resolve().parents[2]
COCO_ROWS = [*COCO_CATEGORY_IDS, 91]


def convert(src, tmp_path, name='out.pth', **kwargs):
    """Convert and load what was written into the model it is for."""
    dst = tmp_path / name
    report, parts = convert_checkpoint(str(src), str(dst), **kwargs)
    model = _build(parts)
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
    return [e.source for group in (report.mapped, report.resized,
                                   report.dropped) for e in group]


def assert_accounts(report, state):
    """Every source key is in the report, in one group."""
    mapped = {e.source for e in report.mapped}
    resized = {e.source for e in report.resized}
    dropped = {e.source for e in report.dropped}
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
        img_size=64, embed_dim=128, depth=3, num_heads=2, num_classes=7,
        mlp_ratio=2., **kwargs)
    return shake(timm.models.VisionTransformer(**kwargs), seed)


@pytest.mark.parametrize('name', [
    'deit_tiny_patch16_224', 'deit_small_patch16_224', 'vit_base_patch16_224',
    'deit_base_patch16_224'
])
def test_timm_logits(tmp_path, name, record_property):
    torch.manual_seed(0)
    source = shake(timm.create_model(name, img_size=64, num_classes=11))
    path = save(tmp_path, source.state_dict())
    model, report, parts = convert(path, tmp_path)
    assert parts['backbone']['arch'] == 'deit-' + name.split('_')[1]
    assert report.format == 'timm' and not report.dropped + report.initial
    assert_accounts(report, source.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = source(x)
    gap = (logits(model, x) - expected).abs().max().item()
    record_property('max_abs_difference', gap)
    assert expected.std() > 0.1
    assert gap <= 1e-4


@pytest.mark.parametrize('kwargs', [
    dict(init_values=0.3),
    dict(no_embed_class=True, init_values=0.3),
    dict(pre_norm=True),
    dict(qkv_bias=False),
    dict(global_pool='avg', class_token=True),
    dict(global_pool='avg', class_token=True, final_norm=True, fc_norm=False),
    dict(patch_size=8),
    dict(in_chans=1),
    dict(global_pool='avg', class_token=False, no_embed_class=True),
], ids=str)
def test_timm_variants(tmp_path, kwargs):
    source = tiny(**kwargs)
    x = torch.randn(2, kwargs.get('in_chans', 3), 64, 64)
    path = save(tmp_path, source.state_dict())
    if kwargs.get('fc_norm') is False:
        # The names do not tell that the patches are averaged.
        model, _, _ = convert(path, tmp_path)
        with torch.no_grad():
            token = source.forward_features(x)[:, 0]
            expected = source.head(token)
    else:
        model, _, _ = convert(path, tmp_path)
        with torch.no_grad():
            expected = source(x)
    torch.testing.assert_close(logits(model, x), expected, atol=1e-4, rtol=0)


def test_mmpretrain_deit(tmp_path):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        source = MODELS.build(dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer', arch='deit-tiny', img_size=64),
            head=dict(
                type='VisionTransformerClsHead', num_classes=9,
                in_channels=192)))
    shake(source)
    path = save(tmp_path, dict(state_dict=source.state_dict(), meta={}))
    model, report, parts = convert(path, tmp_path)
    assert report.format == 'mmpretrain'
    assert parts['backbone']['arch'] == 'deit-tiny'
    assert_accounts(report, source.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = source.head(source.backbone(x))
    torch.testing.assert_close(logits(model, x), expected, atol=1e-4, rtol=0)
    # Converting the result changes nothing.
    again, second, _ = convert(tmp_path / 'out.pth', tmp_path, 'again.pth')
    assert second.format == 'hime_mm'
    for a, b in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize('pos_encoding, initial', [
    ('rpe', {'rpe.reference', 'rpe.ref_encoding.0.weight',
             'rpe.ref_encoding.0.bias', 'rpe.ref_encoding.2.weight',
             'rpe.ref_encoding.2.bias'}), ('none', set())])
def test_deit_without_its_positions(tmp_path, pos_encoding, initial):
    source = tiny()
    path = save(tmp_path, source.state_dict())
    model, report, _ = convert(path, tmp_path, pos_encoding=pos_encoding)
    assert {e.target for e in report.initial
            } == {f'backbone.{n}' for n in initial}
    assert [e.source for e in report.dropped] == ['pos_embed']
    assert 'no learned positions' in report.dropped[0].why
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert not any('rpe' in n for n in written['state_dict'])
    if pos_encoding == 'none':
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            source.pos_embed.zero_()
            torch.testing.assert_close(
                logits(model, x), source(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize('kwargs', [
    dict(), dict(where='embed'), dict(shape=()), dict(shape=(1, )),
    dict(positions=17)
], ids=str)
def test_paper_classifier(tmp_path, kwargs):
    """As the paper's training script writes it, built from its names."""
    source = shake(PaperPEViT(**kwargs))
    state = source.state_dict()
    checkpoint = dict(
        model={f'module.{k}': v for k, v in state.items()},
        optimizer=dict(state={}, param_groups=[dict(lr=0.1)]),
        epoch=299,
        args=argparse.Namespace(model='pe_deit', input_size=64, lr=5e-4))
    model, report, parts = convert(save(tmp_path, checkpoint), tmp_path)
    assert report.format == 'paper-classifier'
    assert parts['backbone']['pos_encoding'] == 'rpe'
    assert_accounts(report, state)
    assert not report.initial
    assert [e.source for e in report.dropped] == (
        ['pos_embed'] if kwargs.get('positions') else [])
    for size in ((64, 64), (32, 96)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = source(x)
        torch.testing.assert_close(
            logits(model, x), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize('mixed', ['conv', 'linear'])
@pytest.mark.parametrize('leftover', [False, True])
def test_paper_detector(tmp_path, mixed, leftover):
    source = shake(Yolos(mixed=mixed, leftover=leftover))
    checkpoint = dict(
        model=source.state_dict(),
        optimizer={},
        lr_scheduler=dict(last_epoch=3),
        epoch=149,
        args=argparse.Namespace(init_pe_size=[64, 96], mid_pe_size=None,
                                backbone_name='small'))
    model, report, parts = convert(save(tmp_path, checkpoint), tmp_path)
    assert report.format == 'paper-detector'
    assert parts['backbone']['patch_embed'] == 'mixed'
    assert parts['backbone']['img_size'] == (64, 96)
    assert_accounts(report, source.state_dict())
    assert not report.initial
    assert {e.source for e in report.dropped} == ({
        'backbone.patch_embed.proj.weight', 'backbone.patch_embed.proj.bias'
    } if leftover else set())
    for size in ((32, 48), (40, 56)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            scores, boxes = source(x)
        got = detect(model, x)
        torch.testing.assert_close(
            got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize('mid', [False, True])
def test_yolos_from_both_formats(tmp_path, mid):
    """Its authors' file and Hugging Face's give the same, which is YOLOS."""
    source = shake(Yolos(mid=mid))
    # The released YOLOS-Ti has 1333 columns of pixels, too.
    size = [64, 96] if mid else [64, 107]
    args = argparse.Namespace(
        init_pe_size=size, mid_pe_size=size if mid else None)
    official = save(tmp_path, dict(model=source.state_dict(), args=args))
    folder = tmp_path / 'hf'
    folder.mkdir()
    torch.save(
        hugging_face(source.state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(
        json.dumps(
            dict(image_size=size, num_attention_heads=2, num_hidden_layers=3,
                 layer_norm_eps=1e-6, hidden_act='gelu')))
    models = []
    for path, fmt in ((official, 'yolos'), (folder, 'hf-yolos')):
        model, report, parts = convert(path, tmp_path, f'{fmt}.pth')
        assert report.format == fmt
        assert not report.initial + report.dropped
        assert len(report.resized) == 2
        assert all('80 category ids' in e.why for e in report.resized)
        assert parts['bbox_head']['num_classes'] == 80
        assert parts['backbone']['img_size'] == (64, 96)
        models.append(model)
    names = zip(models[0].state_dict().items(), models[1].state_dict().items())
    for (name, a), (other, b) in names:
        assert name == other and torch.equal(a, b)
    for size in ((64, 96), (80, 48), (32, 160)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            scores, boxes = source(x)
        got = detect(models[0], x)
        torch.testing.assert_close(
            got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)


def test_all_rows_are_kept_on_demand(tmp_path):
    source = shake(Yolos(grid=(4, 4)))
    path = save(tmp_path, source.state_dict())
    model, report, _ = convert(path, tmp_path, num_classes=91)
    assert not report.resized
    assert any('taken for a square, 4x4' in n for n in report.notes)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            detect(model, x)[0], source(x)[0], atol=1e-4, rtol=0)
    custom = save(tmp_path, Yolos(rows=4, grid=(4, 4)).state_dict())
    _, _, parts = convert(custom, tmp_path, 'custom.pth')
    assert parts['bbox_head']['num_classes'] == 3


def test_category_ids_are_those_of_coco(coco_tiny):
    from mmdet.datasets import CocoDataset
    path = coco_tiny / 'annotations' / 'instances_val2017.json'
    ids = {c['name']: c['id'] for c in json.loads(path.read_text())[
        'categories']}
    assert COCO_CATEGORY_IDS == tuple(
        ids[name] for name in CocoDataset.METAINFO['classes'])


def test_safetensors_and_smoothed_weights(tmp_path):
    from safetensors.torch import save_file
    source, smooth = tiny(0), tiny(1)
    save_file(source.state_dict(), tmp_path / 'src.safetensors')
    x = torch.randn(1, 3, 64, 64)
    model, _, _ = convert(tmp_path / 'src.safetensors', tmp_path)
    torch.testing.assert_close(
        logits(model, x), source(x).detach(), atol=1e-4, rtol=0)
    path = save(
        tmp_path,
        dict(model=source.state_dict(), model_ema=smooth.state_dict()))
    model, _, _ = convert(path, tmp_path, 'ema.pth', ema=True)
    torch.testing.assert_close(
        logits(model, x), smooth(x).detach(), atol=1e-4, rtol=0)
    with pytest.raises(ConversionError, match='no smoothed weights'):
        convert(tmp_path / 'out.pth', tmp_path, 'no.pth', ema=True)


def test_written_file_is_plain_and_small(tmp_path):
    source = shake(Yolos(grid=(4, 4)))
    path = save(tmp_path, source.state_dict())
    convert(path, tmp_path)
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert set(written) == {'meta', 'state_dict'}
    assert written['meta']['converted_from'] == dict(
        file='src.pth', format='yolos')
    # Parts of tables are not saved with the whole.
    assert (tmp_path / 'out.pth').stat().st_size < path.stat().st_size * 1.02
    assert not [p for p in os.listdir(tmp_path) if p.endswith('.part')]
    assert len(os.listdir(tmp_path)) == 2
    for tensor in written['state_dict'].values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_architecture_has_a_name_only_if_it_is_that(tmp_path):
    source = Yolos(dim=192, depth=2, heads=3, hidden=768, grid=(4, 4))
    path = save(tmp_path, source.state_dict())
    _, _, parts = convert(path, tmp_path)
    assert parts['backbone']['arch'] == dict(
        embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768)


class Evil:

    def __reduce__(self):
        return os.system, ('touch /tmp/hime_mm_evil', )


def without(state, *names):
    return {k: v for k, v in state.items() if k not in names}


def prepared(kind):
    """Checkpoints that must be refused, and how."""
    state = tiny().state_dict()
    yolos = Yolos(grid=(4, 6)).state_dict()
    return {
        'missing layer weight':
        (without(state, 'blocks.1.attn.qkv.weight'), {},
         r'backbone.layers.1.attn.qkv.weight \(384, 128\) of the model is '
         'not in the checkpoint'),
        'missing middle layer':
        ({k: v for k, v in state.items() if not k.startswith('blocks.1.')},
         {}, 'backbone.layers.1.ln1.weight'),
        'missing class token':
        (without(state, 'cls_token'), {}, 'backbone.cls_token'),
        'missing norm': (without(state, 'norm.weight'), {},
                         'backbone.ln1.weight'),
        'missing positions': (without(state, 'pos_embed'),
                              dict(pos_encoding='learned'),
                              'backbone.pos_embed'),
        'missing embedding': (without(state, 'patch_embed.proj.weight'), {},
                              'patch_embed.projection.weight'),
        'unknown key': (dict(state, surprise=torch.ones(3)), {},
                        r"surprise \(3,\) has no place.*--allow-drop "
                        "'surprise'"),
        'wrong width':
        (dict(state, **{'blocks.2.mlp.fc2.weight': torch.ones(64, 256)}), {},
         r'fc2.weight \(64, 256\) does not fit .* \(128, 256\)'),
        'other classes': (state, dict(num_classes=5),
                          r'head.weight \(7, 128\) does not fit'),
        'distillation': (dict(
            state, dist_token=torch.ones(1, 1, 128),
            pos_embed=torch.arange(18.)[None, :, None].repeat(1, 1, 128),
            **{'head_dist.weight': torch.ones(7, 128)}), dict(img_size=(
                64, 64)), 'dist_token.*distillation token'),
        'register tokens': (dict(state, reg_token=torch.ones(1, 4, 128)), {},
                            'register tokens'),
        'normalised queries':
        (dict(state, **{'blocks.0.attn.q_norm.weight': torch.ones(64)}), {},
         'queries and keys are normalised'),
        'unknown grid':
        (yolos, {}, r'of 24 patches, which is no square.*--img-size'),
        'wrong grid': (yolos, dict(img_size=(64, 64)),
                       '24 patch positions, which is no grid of 4x4'),
        'odd width': (Yolos(dim=96, grid=(4, 4)).state_dict(), {},
                      '--num-heads'),
        'other classes of a detector':
        (yolos, dict(num_classes=3, img_size=(64, 96)), 'cls_branch.layers.2'),
        'one head missing':
        (without(yolos, 'bbox_embed.layers.1.bias'),
         dict(img_size=(64, 96)), 'reg_branch.layers.1.bias'),
        'detection tokens missing':
        (without(yolos, 'backbone.det_token'), dict(img_size=(64, 96)),
         'has no detection tokens'),
        'heads missing':
        ({k: v for k, v in yolos.items() if k.startswith('backbone')},
         dict(img_size=(64, 96)), r'bbox_head.cls_branch.layers.0.weight'),
        'head without weight':
        (without(state, 'head.weight'), {}, 'head.layers.head.weight'),
        'nothing': ({}, {}, 'no weights'),
        'numbers': (dict(a=3), {}, 'int, no tensor'),
        'a resnet': ({'layer1.0.conv1.weight': torch.ones(3)}, {},
                     'no known format.*timm.*yolos'),
        'reference without positions':
        (PaperPEViT().state_dict(), dict(pos_encoding='none'),
         'belongs to a reference encoding'),
        'two projections':
        (dict(state, **{'backbone.cls_token': state['cls_token']}), {},
         'are both backbone.cls_token'),
        'one of three':
        (without(hugging_face(yolos),
                 'vit.encoder.layer.1.attention.attention.key.weight'),
         dict(img_size=(64, 96)), 'comes without its key'),
        'tables of two kinds':
        (dict(yolos, **{'backbone.pos_embed': torch.ones(1, 4, 128)}),
         dict(img_size=(64, 96)), 'does not hold positions'),
    }[kind]


KINDS = [
    'missing layer weight', 'missing middle layer', 'missing class token',
    'missing norm', 'missing positions', 'missing embedding', 'unknown key',
    'wrong width', 'other classes', 'distillation', 'register tokens',
    'normalised queries', 'unknown grid', 'wrong grid', 'odd width',
    'other classes of a detector', 'one head missing',
    'detection tokens missing', 'heads missing', 'head without weight',
    'nothing', 'numbers', 'a resnet',
    'reference without positions', 'two projections', 'one of three',
    'tables of two kinds'
]


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_refused(tmp_path, kind):
    checkpoint, kwargs, match = prepared(kind)
    path = save(tmp_path, checkpoint)
    with pytest.raises(ConversionError, match='(?s)' + match):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'), **kwargs)
    assert os.listdir(tmp_path) == ['src.pth']


def test_what_can_be_allowed(tmp_path):
    """The same, when it is asked for by name, and then it is listed."""
    checkpoint, kwargs, _ = prepared('distillation')
    path = save(tmp_path, checkpoint)
    model, report, _ = convert(
        path, tmp_path, allow_drop=['dist_token', 'head_dist.*'], **kwargs)
    assert {e.source for e in report.dropped
            } == {'dist_token', 'head_dist.weight'}
    assert 'distillation' in report.resized[0].why
    assert model.backbone.pos_embed[0, :, 5].tolist() == [0, *range(2, 18)]

    checkpoint, kwargs, _ = prepared('other classes')
    path = save(tmp_path, checkpoint)
    with pytest.raises(ConversionError, match='head.bias'):
        convert(path, tmp_path, 'b.pth', allow_missing=['*head.weight'],
                **kwargs)
    _, report, _ = convert(
        path, tmp_path, 'b.pth', allow_missing=['head.*'], **kwargs)
    assert {e.target for e in report.initial
            } == {'head.layers.head.weight', 'head.layers.head.bias'}
    assert {e.source for e in report.dropped} == {'head.weight', 'head.bias'}

    checkpoint, _, _ = prepared('missing layer weight')
    path = save(tmp_path, checkpoint)
    _, report, _ = convert(
        path, tmp_path, 'c.pth', allow_missing=['*.layers.1.attn.qkv.*'])
    assert [e.target for e in report.initial
            ] == ['backbone.layers.1.attn.qkv.weight']

    yolos = shake(Yolos(mid=True, grid=(4, 4)))
    path = save(tmp_path, yolos.state_dict())
    _, report, parts = convert(
        path, tmp_path, 'd.pth', allow_drop=['backbone.mid_pos_embed'])
    assert 'mid_positions' not in parts['backbone']
    assert [e.source for e in report.dropped] == ['backbone.mid_pos_embed']


def test_a_pickle_that_wants_more_is_refused(tmp_path):
    path = save(tmp_path, dict(model=tiny().state_dict(), args=Evil()))
    with pytest.raises(ConversionError, match=r'asks for \w+\.system'):
        read_checkpoint(str(path))
    # The old form of torch.save, and a bare pickle.
    torch.save(dict(args=Evil()), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ConversionError, match=r'asks for \w+\.system'):
        read_checkpoint(str(path))
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ConversionError):
        read_checkpoint(str(path))
    nested = argparse.Namespace(inner=argparse.Namespace(path=Path('x')))
    path = save(tmp_path, dict(model=tiny().state_dict(), args=nested))
    with pytest.raises(ConversionError, match='asks for pathlib'):
        read_checkpoint(str(path))
    assert not os.path.exists('/tmp/hime_mm_evil')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('share', [0, 0.3, 0.99])
def test_truncated_files(tmp_path, suffix, share):
    from safetensors.torch import save_file
    path = tmp_path / f'src{suffix}'
    state = tiny().state_dict()
    if suffix == '.pth':
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(ConversionError, match='is cut off or no'):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'))
    assert os.listdir(tmp_path) == [path.name]


def test_bad_paths(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    (tmp_path / 'out.pth').write_text('precious')
    with pytest.raises(ConversionError, match='--overwrite'):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'))
    assert (tmp_path / 'out.pth').read_text() == 'precious'
    convert_checkpoint(str(path), str(tmp_path / 'out.pth'), overwrite=True)
    with pytest.raises(ConversionError, match='does not exist'):
        convert_checkpoint(str(tmp_path / 'no'), str(tmp_path / 'x.pth'))
    with pytest.raises(ConversionError, match='is a folder'):
        convert_checkpoint(str(path), str(tmp_path))
    with pytest.raises(ConversionError, match='holds none of'):
        convert_checkpoint(str(tmp_path), str(tmp_path / 'x.pth'))
    (tmp_path / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(ConversionError, match='several files'):
        convert_checkpoint(str(tmp_path), str(tmp_path / 'x.pth'))
    torch.save([1, 2], path)
    with pytest.raises(ConversionError, match='holds a list'):
        read_checkpoint(str(path))


@pytest.mark.parametrize('setting, match', [
    (dict(hidden_act='relu'), "'relu'"),
    (dict(image_size=[64]), 'image_size'),
    (dict(image_size='64'), 'image_size'),
    (dict(num_attention_heads=0), 'num_attention_heads'),
    (dict(layer_norm_eps='x'), 'layer_norm_eps'),
    (dict(image_size=[32, 96]), 'no grid of 2x6'),
    (dict(num_hidden_layers=4), '4 layers, the checkpoint has 3'),
])
def test_bad_hugging_face_config(tmp_path, setting, match):
    folder = tmp_path / 'hf'
    folder.mkdir()
    torch.save(
        hugging_face(Yolos().state_dict()), folder / 'pytorch_model.bin')
    config = dict(dict(image_size=[64, 96]), **setting)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=match):
        convert_checkpoint(str(folder), str(tmp_path / 'out.pth'))
    (folder / 'config.json').write_text('{')
    with pytest.raises(ConversionError, match='no JSON'):
        convert_checkpoint(str(folder), str(tmp_path / 'out.pth'))


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
        str(path), str(dst), config=config(tmp_path), img_size=(64, 96))
    assert parts == {}
    assert any('4x6 resized to 6x4' in e.why for e in report.resized)
    model = load_config(config(tmp_path), dst)
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            detect(model, x)[0], source(x)[0][..., COCO_ROWS], atol=1e-4,
            rtol=0)
    # A start of the mixed twin.
    report, _ = convert_checkpoint(
        str(path), str(dst), config=config(tmp_path, 'mixed'),
        img_size=(64, 96), overwrite=True)
    assert {e.target for e in report.initial} == {
        f'backbone.patch_embed.{layer}.{kind}'
        for layer in ('projection', 'mapping') for kind in ('weight', 'bias')
    }
    # Without a size, a grid of as many patches is taken for the model's.
    report, _ = convert_checkpoint(
        str(path), str(dst), config=config(tmp_path), overwrite=True)
    assert any("the model's, 6x4" in n for n in report.notes)


def test_deit_for_a_detector(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    dst = tmp_path / 'out.pth'
    report, _ = convert_checkpoint(
        str(path), str(dst), config=config(tmp_path, 'mixed'))
    tops = {e.target.split('.')[0] + '.' + e.target.split('.')[1]
            for e in report.initial}
    assert tops == {
        'backbone.patch_embed', 'backbone.det_token',
        'backbone.det_pos_embed', 'bbox_head.cls_branch',
        'bbox_head.reg_branch'
    }
    assert {e.source for e in report.dropped} == {
        'patch_embed.proj.weight', 'patch_embed.proj.bias', 'head.weight',
        'head.bias'
    }


@pytest.mark.parametrize('kwargs, match', [
    (dict(num_classes=80), '--num-classes is for a model without a config'),
    (dict(pos_encoding='rpe'), '--pos-encoding'),
])
def test_config_and_its_contradictions(tmp_path, kwargs, match):
    path = save(tmp_path, Yolos().state_dict())
    with pytest.raises(ConversionError, match=match):
        convert_checkpoint(
            str(path), str(tmp_path / 'out.pth'), config=config(tmp_path),
            **kwargs)


def test_options_of_a_config(tmp_path):
    source = shake(Yolos(mid=True))
    path = save(tmp_path, source.state_dict())
    report, _ = convert_checkpoint(
        str(path), str(tmp_path / 'out.pth'), config=config(tmp_path),
        img_size=(64, 96),
        cfg_options={'model.backbone.mid_positions': True})
    assert 'backbone.mid_pos_embed' in {e.target for e in report.resized}
    with pytest.raises(ConversionError, match='--cfg-options'):
        convert_checkpoint(
            str(path), str(tmp_path / 'b.pth'), cfg_options={'a': 1})


def test_another_model_in_the_config(tmp_path):
    path = save(tmp_path, Yolos(mid=True, depth=4).state_dict())
    with pytest.raises(ConversionError) as error:
        convert_checkpoint(
            str(path), str(tmp_path / 'out.pth'), config=config(tmp_path),
            img_size=(64, 96))
    # All that is wrong is said at once.
    assert 'mid_positions=True' in str(error.value)
    assert 'layers.3' in str(error.value)
    (tmp_path / 'other.py').write_text(
        "default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', "
        "backbone=dict(type='LeNet5', num_classes=3))")
    with pytest.raises(ConversionError, match='no hime_mm.PEViT'):
        convert_checkpoint(
            str(path), str(tmp_path / 'out.pth'),
            config=str(tmp_path / 'other.py'))


def test_number_of_heads_is_compared(tmp_path):
    folder = tmp_path / 'hf'
    folder.mkdir()
    source = shake(Yolos(dim=96, heads=3))
    torch.save(
        hugging_face(source.state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(json.dumps(dict(
        image_size=[64, 96], num_attention_heads=3, layer_norm_eps=1e-12)))
    model, _, parts = convert(folder, tmp_path)
    assert parts['backbone']['arch']['num_heads'] == 3
    assert model.backbone.layers[0].ln1.eps == 1e-12
    folder = tmp_path / 'other'
    folder.mkdir()
    torch.save(
        hugging_face(Yolos().state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(json.dumps(dict(
        image_size=[64, 96], num_attention_heads=4, layer_norm_eps=1e-12)))
    with pytest.raises(ConversionError, match='trained with 4 attention'):
        convert_checkpoint(
            str(folder), str(tmp_path / 'x.pth'), config=config(tmp_path))
    (folder / 'config.json').write_text(json.dumps(dict(
        image_size=[64, 96], num_attention_heads=2, layer_norm_eps=1e-12)))
    report, _ = convert_checkpoint(
        str(folder), str(tmp_path / 'x.pth'), config=config(tmp_path))
    assert any('1e-12' in note for note in report.notes)


def test_snippet_builds_the_model(tmp_path):
    _, _, parts = convert(save(tmp_path, tiny().state_dict()), tmp_path)
    rebuilt = eval(f'dict({format_parts(parts)})')
    assert rebuilt == parts


@pytest.mark.parametrize('mid, size, detection', [
    (False, (64, 96), 5), (True, (64, 96), 5), (False, (64, 107), 100)])
def test_yolos_against_transformers(tmp_path, record_property, mid, size,
                                    detection):
    """Runs where transformers is installed; it is no dependency.

    In a folder of its own, because it would replace packages here:
    ``pip install --no-deps --target FOLDER 'transformers<5'
    'huggingface_hub<1' 'tokenizers<0.23' regex requests``, then
    ``PYTHONPATH=FOLDER pytest tests/test_apis/test_convert.py``.
    """
    transformers = pytest.importorskip(
        'transformers', reason='transformers is not installed, see docstring')
    torch.manual_seed(0)
    source = shake(transformers.YolosForObjectDetection(
        transformers.YolosConfig(
            hidden_size=192, num_hidden_layers=12, num_attention_heads=3,
            intermediate_size=768, image_size=list(size), patch_size=16,
            num_detection_tokens=detection, num_labels=91,
            use_mid_position_embeddings=mid)))
    source.save_pretrained(tmp_path / 'hf')
    model, report, parts = convert(tmp_path / 'hf', tmp_path)
    assert not report.initial + report.dropped
    assert_accounts(report, source.state_dict())
    assert parts['backbone'].get('mid_positions', False) is mid
    gaps = []
    for shape in ((64, 96), (96, 128), (48, 64)):
        x = torch.randn(2, 3, *shape)
        with torch.no_grad():
            out = source(x)
        scores, boxes = detect(model, x)
        assert out.logits.std() > 0.1
        gaps += [(scores - out.logits[..., COCO_ROWS]).abs().max().item(),
                 (boxes - out.pred_boxes).abs().max().item()]
    record_property('max_abs_difference', max(gaps))
    print('max abs difference', max(gaps))
    assert max(gaps) <= 1e-4


def run(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/model_converters/convert.py'),
         *map(str, args)],
        capture_output=True, text=True, timeout=300)


def test_command(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    done = run(path, tmp_path / 'out.pth', '--pos-encoding', 'rpe')
    assert done.returncode == 0, done.stderr
    for line in (
            'ViT or DeiT of timm or of the DeiT repository (timm)',
            '  blocks.0.attn.qkv.weight (384, 128) -> '
            'backbone.layers.0.attn.qkv.weight (384, 128)',
            'dropped: 1', 'left at initial values: 5', "type='hime_mm.PEViT'",
            f'wrote {tmp_path / "out.pth"}'):
        assert line in done.stdout


def test_command_refuses(tmp_path):
    path = save(tmp_path, without(tiny().state_dict(), 'norm.bias'))
    done = run(path, tmp_path / 'out.pth')
    assert done.returncode == 1
    assert done.stderr.startswith('convert.py: ')
    assert 'backbone.ln1.bias' in done.stderr
    assert 'Traceback' not in done.stderr
    assert os.listdir(tmp_path) == ['src.pth']
