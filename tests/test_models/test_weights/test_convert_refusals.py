# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files and weights that the converter refuses, and what can be allowed."""

import argparse
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from converting import convert, save, tiny, without
from foreign_models import PaperPEViT, Yolos, hugging_face, shake
from mmengine.logging import HistoryBuffer

from hime_mm.errors import ConversionError
from hime_mm.models.weights import read_checkpoint
from hime_mm.models.weights.convert import convert_checkpoint


class Evil:
    """Leaves a trace where it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f'touch {self.trace}',)


def prepared(kind):
    """Checkpoints that must be refused, and how."""
    state = tiny().state_dict()
    yolos = Yolos(grid=(4, 6)).state_dict()
    return {
        'missing layer weight': (
            without(state, 'blocks.1.attn.qkv.weight'),
            {},
            r'backbone.layers.1.attn.qkv.weight \(384, 128\) .*`allow_missing`',
        ),
        'missing middle layer': (
            {k: v for k, v in state.items() if not k.startswith('blocks.1.')},
            {},
            'backbone.layers.1.ln1.weight',
        ),
        'missing class token': (without(state, 'cls_token'), {}, 'backbone.cls_token'),
        'missing norm': (without(state, 'norm.weight'), {}, 'backbone.ln1.weight'),
        'missing positions': (
            without(state, 'pos_embed'),
            dict(pos_encoding='learned'),
            'backbone.pos_embed',
        ),
        'missing embedding': (
            without(state, 'patch_embed.proj.weight'),
            {},
            'patch_embed.projection.weight',
        ),
        'unknown key': (
            dict(state, surprise=torch.ones(3)),
            {},
            r"surprise \(3,\) .*`allow_drop` 'surprise'",
        ),
        'wrong width': (
            dict(state, **{'blocks.2.mlp.fc2.weight': torch.ones(64, 256)}),
            {},
            r'fc2.weight \(64, 256\) .* \(128, 256\)',
        ),
        'other classes': (state, dict(num_classes=5), r'head.weight \(7, 128\) .* \(5, 128\)'),
        'distillation': (
            dict(
                state,
                dist_token=torch.ones(1, 1, 128),
                pos_embed=torch.arange(18.0)[None, :, None].repeat(1, 1, 128),
                **{'head_dist.weight': torch.ones(7, 128)},
            ),
            dict(img_size=(64, 64)),
            r'dist_token \(1, 1, 128\) .*DistilledVisionTransformer',
        ),
        'register tokens': (
            dict(state, reg_token=torch.ones(1, 4, 128)),
            {},
            r'reg_token \(1, 4, 128\) .*PEViT',
        ),
        'normalised queries': (
            dict(state, **{'blocks.0.attn.q_norm.weight': torch.ones(64)}),
            {},
            r'q_norm.weight \(64,\) .*attention',
        ),
        'unknown grid': (yolos, {}, r'24 patches.*`img_size`.*`config`'),
        'wrong grid': (
            yolos,
            dict(img_size=(64, 64)),
            'pos_embed .* 24 .* 4x4.*`img_size`',
        ),
        'odd width': (Yolos(dim=96, grid=(4, 4)).state_dict(), {}, '`num_heads`'),
        'other classes of a detector': (
            yolos,
            dict(num_classes=3, img_size=(64, 96)),
            'cls_branch.layers.2',
        ),
        'one head missing': (
            without(yolos, 'bbox_embed.layers.1.bias'),
            dict(img_size=(64, 96)),
            'reg_branch.layers.1.bias',
        ),
        'detection tokens missing': (
            without(yolos, 'backbone.det_token'),
            dict(img_size=(64, 96)),
            r'\(yolos\).* detection tokens',
        ),
        'heads missing': (
            {k: v for k, v in yolos.items() if k.startswith('backbone')},
            dict(img_size=(64, 96)),
            r'bbox_head.cls_branch.layers.0.weight',
        ),
        'head without weight': (without(state, 'head.weight'), {}, 'head.layers.head.weight'),
        'nothing': ({}, {}, 'no weights'),
        'numbers': (dict(a=3), {}, "^'a' .*int"),
        'a resnet': (
            {'layer1.0.conv1.weight': torch.ones(3)},
            {},
            r'layer1\.0\.conv1\.weight.*\(timm\).*\(yolos\)',
        ),
        'reference without positions': (
            PaperPEViT().state_dict(),
            dict(pos_encoding='none'),
            r"reference \(1, 1, 128\) .*`pos_encoding='rpe'`",
        ),
        'two projections': (
            dict(state, **{'backbone.cls_token': state['cls_token']}),
            {},
            'cls_token and backbone.cls_token .*backbone.cls_token',
        ),
        'one of three': (
            without(hugging_face(yolos), 'vit.encoder.layer.1.attention.attention.key.weight'),
            dict(img_size=(64, 96)),
            r'attention.query.weight \(128, 128\) .* key;',
        ),
        'tables of two kinds': (
            dict(yolos, **{'backbone.pos_embed': torch.ones(1, 4, 128)}),
            dict(img_size=(64, 96)),
            r'backbone.pos_embed .*\(1, 4, 128\).* 5 ',
        ),
    }[kind]


KINDS = [
    'missing layer weight',
    'missing middle layer',
    'missing class token',
    'missing norm',
    'missing positions',
    'missing embedding',
    'unknown key',
    'wrong width',
    'other classes',
    'distillation',
    'register tokens',
    'normalised queries',
    'unknown grid',
    'wrong grid',
    'odd width',
    'other classes of a detector',
    'one head missing',
    'detection tokens missing',
    'heads missing',
    'head without weight',
    'nothing',
    'numbers',
    'a resnet',
    'reference without positions',
    'two projections',
    'one of three',
    'tables of two kinds',
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
    model, report, _ = convert(path, tmp_path, allow_drop=['dist_token', 'head_dist.*'], **kwargs)
    assert {e.src_name for e in report.dropped} == {'dist_token', 'head_dist.weight'}
    assert 'distillation' in report.resized[0].why
    assert model.backbone.pos_embed[0, :, 5].tolist() == [0, *range(2, 18)]

    checkpoint, kwargs, _ = prepared('other classes')
    path = save(tmp_path, checkpoint)
    with pytest.raises(ConversionError, match='head.bias'):
        convert(path, tmp_path, 'b.pth', allow_missing=['*head.weight'], **kwargs)
    _, report, _ = convert(path, tmp_path, 'b.pth', allow_missing=['head.*'], **kwargs)
    assert {e.target for e in report.initial} == {
        'head.layers.head.weight',
        'head.layers.head.bias',
    }
    assert {e.src_name for e in report.dropped} == {'head.weight', 'head.bias'}

    checkpoint, _, _ = prepared('missing layer weight')
    path = save(tmp_path, checkpoint)
    _, report, _ = convert(path, tmp_path, 'c.pth', allow_missing=['*.layers.1.attn.qkv.*'])
    assert [e.target for e in report.initial] == ['backbone.layers.1.attn.qkv.weight']

    yolos = shake(Yolos(mid=True, grid=(4, 4)))
    path = save(tmp_path, yolos.state_dict())
    _, report, parts = convert(path, tmp_path, 'd.pth', allow_drop=['backbone.mid_pos_embed'])
    assert 'mid_positions' not in parts['backbone']
    assert [e.src_name for e in report.dropped] == ['backbone.mid_pos_embed']


def test_a_pickle_that_wants_more_is_refused(tmp_path):
    trace = tmp_path / 'evil'
    evil = Evil(trace)
    path = save(tmp_path, dict(model=tiny().state_dict(), args=evil))
    with pytest.raises(ConversionError, match=r'src.pth .*\w+\.system\b'):
        read_checkpoint(str(path))
    # The old form of torch.save, and a bare pickle.
    torch.save(dict(args=evil), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ConversionError, match=r'src.pth .*\w+\.system\b'):
        read_checkpoint(str(path))
    path.write_bytes(pickle.dumps(evil))
    with pytest.raises(ConversionError):
        read_checkpoint(str(path))
    nested = argparse.Namespace(inner=argparse.Namespace(path=Path('x')))
    path = save(tmp_path, dict(model=tiny().state_dict(), args=nested))
    with pytest.raises(ConversionError, match=r'src.pth .*pathlib\.'):
        read_checkpoint(str(path))
    assert not trace.exists()
    # It would have left one.
    pickle.loads(pickle.dumps(evil))
    assert trace.exists()


def test_threads_that_read_do_not_forbid_each_other(tmp_path, monkeypatch):
    """What MMEngine's checkpoints hold is allowed while one is read, by a list of all threads."""
    path = tmp_path / 'epoch_1.pth'
    torch.save(
        dict(state_dict=tiny().state_dict(), message_hub=dict(loss=HistoryBuffer([1], [1]))), path
    )
    load, delays = torch.load, iter((0.0, 0.2, 0.4, 0.6))

    def slow(*args, **kwargs):
        time.sleep(next(delays))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, 'load', slow)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(read_checkpoint, [str(path)] * 4))
    assert all(state.keys() == tiny().state_dict().keys() for state, _ in read)
    assert HistoryBuffer not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('share', [0, 0.3, 0.99])
def test_truncated_files(tmp_path, suffix, share):
    from safetensors.torch import save_file

    path = tmp_path / f'src{suffix}'
    state = tiny().state_dict()
    if suffix == '.pth':
        torch.save(state, path)
        kind = 'checkpoint'
    else:
        save_file(state, path)
        kind = 'safetensors file'
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConversionError, match=f'{path.name} .*{kind}: '):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'))
    assert os.listdir(tmp_path) == [path.name]


def test_bad_paths(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    (tmp_path / 'out.pth').write_text('precious')
    with pytest.raises(ConversionError, match='`overwrite`'):
        convert_checkpoint(str(path), str(tmp_path / 'out.pth'))
    assert (tmp_path / 'out.pth').read_text() == 'precious'
    convert_checkpoint(str(path), str(tmp_path / 'out.pth'), overwrite=True)
    with pytest.raises(ConversionError, match=f'{tmp_path}/no '):
        convert_checkpoint(str(tmp_path / 'no'), str(tmp_path / 'x.pth'))
    with pytest.raises(ConversionError, match=f'^{tmp_path} .* folder'):
        convert_checkpoint(str(path), str(tmp_path))
    with pytest.raises(ConversionError, match='model.safetensors, pytorch_model.bin'):
        convert_checkpoint(str(tmp_path), str(tmp_path / 'x.pth'))
    (tmp_path / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(ConversionError, match='model.safetensors.index.json'):
        convert_checkpoint(str(tmp_path), str(tmp_path / 'x.pth'))
    torch.save([1, 2], path)
    with pytest.raises(ConversionError, match=r'src.pth .*\blist\b'):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    'setting, match',
    [
        (dict(hidden_act='relu'), "'relu'"),
        (dict(image_size=[64]), 'image_size'),
        (dict(image_size='64'), 'image_size'),
        (dict(num_attention_heads=0), 'num_attention_heads'),
        (dict(layer_norm_eps='x'), 'layer_norm_eps'),
        (dict(image_size=[32, 96]), 'position_embeddings .* 24 .*2x6'),
        (dict(num_hidden_layers=4), 'config.json .*4 layers.* 3$'),
    ],
)
def test_bad_hugging_face_config(tmp_path, setting, match):
    folder = tmp_path / 'hf'
    folder.mkdir()
    torch.save(hugging_face(Yolos().state_dict()), folder / 'pytorch_model.bin')
    config = dict(dict(image_size=[64, 96]), **setting)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=match):
        convert_checkpoint(str(folder), str(tmp_path / 'out.pth'))
    (folder / 'config.json').write_text('{')
    with pytest.raises(ConversionError, match='config.json .*JSON'):
        convert_checkpoint(str(folder), str(tmp_path / 'out.pth'))
