# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The functions behind the converter, and the detector's load hook."""

import argparse

import pytest
import torch
from converting import COCO_ROWS, detect
from foreign_models import PaperPEViT, Yolos, hugging_face, shake
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint

from hime_mm.errors import ConversionError
from hime_mm.models.backbones import PEViT
from hime_mm.models.weights import (
    FORMATS,
    CheckpointInfo,
    detect_format,
    find_grid,
    fit,
    translate,
    unwrap,
)

ARCH = dict(embed_dims=128, num_layers=3, num_heads=2, feedforward_channels=256)


def convert(state, target, fmt=None, size=None):
    """Translate and fit; `size` is what positions are of."""
    info = CheckpointInfo(image_size=size)
    return fit(translate(state, fmt, info=info), target)


def peyolos(seed=0, classes=80, **backbone):
    torch.manual_seed(seed)
    kwargs = dict(
        type='hime_mm.PEViT',
        arch=ARCH,
        img_size=(64, 96),
        pos_encoding='learned',
        num_det_tokens=5,
        out_type='det_tokens',
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(
            dict(
                type='hime_mm.PEYOLOS',
                backbone=dict(kwargs, **backbone),
                bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=classes, embed_dims=128),
            )
        )
    return model.eval()


@pytest.mark.parametrize(
    'fmt, build',
    [
        ('yolos', lambda: Yolos().state_dict()),
        ('hf-yolos', lambda: hugging_face(Yolos().state_dict())),
        ('paper-detector', lambda: Yolos(mixed='conv').state_dict()),
        ('paper-classifier', lambda: PaperPEViT().state_dict()),
        ('paper-classifier', lambda: PaperPEViT(where='embed').state_dict()),
        ('hime_mm', lambda: peyolos().state_dict()),
        ('hime_mm', lambda: PEViT(ARCH).state_dict()),
        ('mmpretrain', lambda: PEViT(ARCH, pos_encoding='none').state_dict()),
    ],
)
def test_formats(fmt, build):
    assert detect_format(build()) == fmt
    assert fmt in FORMATS


@pytest.mark.parametrize(
    'names',
    [
        [],
        ['weight'],
        ['layers.0.weight'],
        ['blocks.0.conv.weight'],
        ['encoder.layer.0.attention.self.query.weight'],
        ['vit.encoder.layer.0.attention.attention.query.weight', 'vit.embeddings.cls_token'],
    ],
    ids=str,
)
def test_unknown_formats(names):
    with pytest.raises(ConversionError, match=r'\(timm\).*\(yolos\)'):
        detect_format({name: torch.ones(1) for name in names})


def test_unwrap():
    state = dict(a=torch.ones(1))
    for holder in ('model', 'state_dict', 'module'):
        assert unwrap({holder: state, 'epoch': 3})[0] == state
    assert unwrap(state)[0] == state
    assert unwrap({'module.a': state['a']})[0] == state
    mixed = {'module.a': state['a'], 'b': state['a']}
    assert unwrap(mixed)[0] == mixed
    smooth = dict(ema_state_dict={'steps': torch.tensor(3), 'module.a': state['a']})
    assert unwrap(smooth, ema=True)[0] == state
    with pytest.raises(ConversionError, match='no weights'):
        unwrap(dict(ema_state_dict={'steps': torch.tensor(3)}), ema=True)
    args = argparse.Namespace(init_pe_size=[512, 864], mid_pe_size=[800, 1333])
    info = unwrap(dict(model=state, args=args))[1]
    assert info.image_size == (512, 864)
    assert info.mid_image_size == (800, 1333)
    assert unwrap(dict(model=state, args=dict(input_size=384)))[1].image_size == (384, 384)
    for odd in (None, 'big', [1, 2, 3], [0, 4], ['a', 'b']):
        args = argparse.Namespace(init_pe_size=odd)
        assert unwrap(dict(model=state, args=args))[1] == CheckpointInfo()
    for bad in ({}, dict(model={}), {1: state['a']}, dict(a=[1])):
        with pytest.raises(ConversionError):
            unwrap(bad)


def test_find_grid():
    table = torch.zeros(1, 25, 4)
    assert find_grid('t', table, 0)[1] == (5, 5)
    assert find_grid('t', table, 1, src_grid=(4, 6))[1] == (4, 6)
    assert find_grid('t', table, 1, target=(6, 4))[1] == (6, 4)
    # A model without class token leaves its row out.
    cut, grid = find_grid('t', torch.arange(17.0)[None, :, None], 0)
    assert grid == (4, 4) and cut[0, 0, 0] == 1
    cut, grid = find_grid('t', table, 0, src_grid=(4, 6))
    assert grid == (4, 6) and cut.shape[1] == 24
    with pytest.raises(ConversionError, match=r'^t .* 24 (?!.*\dx\d).*size'):
        find_grid('t', table, 1)
    with pytest.raises(ConversionError, match='^t .* 24 .*3x3'):
        find_grid('t', table, 1, src_grid=(3, 3), target=(4, 6))
    with pytest.raises(ConversionError, match=r'^t .*\(1, 1, 4\)'):
        find_grid('t', table[:, :1], 1)


def test_sources_are_not_changed():
    state = Yolos(mid=True).state_dict()
    before = {k: v.clone() for k, v in state.items()}
    target = peyolos(mid_positions=True, img_size=96).state_dict()
    convert(state, target, size=(64, 96))
    assert list(state) == list(before)
    assert all(torch.equal(state[k], before[k]) for k in state)


def test_renaming_is_one_to_one():
    """Each tensor of a YOLOS arrives once, whole or in parts."""
    for state in (Yolos(mid=True).state_dict(), hugging_face(Yolos(mid=True).state_dict())):
        translated = translate(state, detect_format(state))
        assert not translated.dropped and not translated.problems
        items = translated.items
        assert {n for i in items.values() for n, _ in i.src} == set(state)
        assert sum(i.tensor.numel() for i in items.values()) == sum(
            t.numel() for t in state.values()
        )
        assert set(items) | {'backbone.pos_grid'} == set(peyolos(mid_positions=True).state_dict())


@pytest.mark.parametrize('mid', [False, True])
@pytest.mark.parametrize('target', [(96, 64), (128, 144)])
def test_positions_are_resized_once(mid, target):
    """To the config's grid, as the source does it for such an image."""
    source = shake(Yolos(mid=mid))
    model = peyolos(img_size=target, mid_positions=mid)
    state, report = convert(source.state_dict(), model.state_dict(), size=(64, 96))
    model.load_state_dict(state)
    x = torch.randn(1, 3, *target)
    with torch.no_grad():
        scores, boxes = source(x)
    got = detect(model, x)
    torch.testing.assert_close(got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
    torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)
    said = [e.src_name for e in report.resized if 'resized to' in e.why]
    assert said == ['backbone.pos_embed'] + ['backbone.mid_pos_embed'] * mid


def test_mid_positions_of_another_grid():
    source = Yolos(mid=True)
    state = source.state_dict()
    other = Yolos(mid=True, grid=(2, 3)).state_dict()
    state['backbone.mid_pos_embed'] = other['backbone.mid_pos_embed']
    model = peyolos(mid_positions=True)
    info = CheckpointInfo(image_size=(64, 96), mid_image_size=(32, 48))
    _, report = fit(translate(state, info=info), model.state_dict())
    assert ['2x3 resized to 4x6' in e.why for e in report.resized].count(True) == 1
    assert info == CheckpointInfo(image_size=(64, 96), mid_image_size=(32, 48))


@pytest.mark.parametrize('fmt', ['yolos', 'hf-yolos', 'wrapped'])
def test_detector_loads_yolos(tmp_path, fmt, log):
    """By `load_from`, under the names of others."""
    source = shake(Yolos(mid=True))
    state = source.state_dict()
    checkpoint = {
        'yolos': state,
        'hf-yolos': hugging_face(state),
        'wrapped': dict(
            model=state,
            optimizer={},
            epoch=3,
            args=argparse.Namespace(init_pe_size=[64, 96], mid_pe_size=[64, 96]),
        ),
    }[fmt]
    torch.save(checkpoint, tmp_path / 'src.pth')
    model = peyolos(seed=1, mid_positions=True)
    load_checkpoint(model, str(tmp_path / 'src.pth'), strict=True)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores, boxes = source(x)
    got = detect(model, x)
    torch.testing.assert_close(got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
    torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)
    assert any('no object' in line for _, line in log)
    # The same file is a start for other classes, with a new last layer.
    model = peyolos(seed=1, mid_positions=True, classes=3)
    load_checkpoint(model, str(tmp_path / 'src.pth'))
    torch.testing.assert_close(detect(model, x)[1], boxes, atol=1e-5, rtol=0)
    assert any(
        'Dropped: class_embed.layers.2.weight' in line
        or 'Dropped: class_labels_classifier.layers.2.weight' in line
        for _, line in log
    )


def test_detector_loads_the_papers(tmp_path):
    source = shake(Yolos(mixed='linear', leftover=True))
    torch.save(dict(model=source.state_dict()), tmp_path / 'src.pth')
    model = peyolos(seed=1, patch_embed='mixed')
    load_checkpoint(model, str(tmp_path / 'src.pth'), strict=True)
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = source(x)[0][..., COCO_ROWS]
    torch.testing.assert_close(detect(model, x)[0], expected, atol=1e-4, rtol=0)


def test_detector_loads_a_classifier(tmp_path, log):
    source = shake(PaperPEViT(positions=17))
    torch.save(source.state_dict(), tmp_path / 'src.pth')
    with pytest.raises(ConversionError, match="pos_encoding='rpe'"):
        load_checkpoint(peyolos(), str(tmp_path / 'src.pth'))
    model = peyolos(pos_encoding='rpe')
    load_checkpoint(model, str(tmp_path / 'src.pth'))
    assert torch.equal(model.backbone.rpe.reference, source.reference)
    assert torch.equal(
        model.backbone.layers[2].attn.qkv.weight, source.blocks[2].attn['qkv'].weight
    )
    assert any('Dropped: head.weight' in line for _, line in log)
    assert any('initialised: backbone.det_token' in line for _, line in log)


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda s: s.pop('backbone.blocks.1.mlp.fc1.weight'), 'layers.1.ffn.layers.0.0.weight'),
        (lambda s: s.pop('backbone.cls_token'), 'backbone.cls_token'),
        (lambda s: s.update(more=torch.ones(2)), 'more'),
        (
            lambda s: s.update({'backbone.mid_pos_embed': torch.ones(2, 1, 30, 128)}),
            'mid_positions=True',
        ),
    ],
)
def test_detector_refuses_what_is_incomplete(change, match):
    state = dict(Yolos().state_dict())
    change(state)
    model = peyolos()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ConversionError, match=match):
        model.load_state_dict(state)
    # Not half of it was loaded.
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_own_checkpoints_are_not_touched(log):
    model = peyolos(mid_positions=True)
    other = peyolos(seed=1, mid_positions=True)
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not log


def test_mid_positions_of_another_number_of_tokens():
    state = Yolos(det=7).state_dict()
    with pytest.raises(ConversionError, match='num_det_tokens=7'):
        convert(state, peyolos().state_dict(), size=(64, 96))


def test_an_unknown_format_by_name():
    with pytest.raises(ConversionError, match="'yolo'.* hf-yolos"):
        translate({}, 'yolo')


def whole_models():
    """Checkpoints by format, and models that they fill."""
    import timm

    timm_vit = timm.models.VisionTransformer(
        img_size=64,
        embed_dim=128,
        depth=3,
        num_heads=2,
        mlp_ratio=2,
        num_classes=7,
        init_values=0.1,
    )
    mid = peyolos(mid_positions=True)
    head = {'head.layers.head.weight': torch.ones(7, 128), 'head.layers.head.bias': torch.ones(7)}

    def classifier(**kwargs):
        model = PEViT(ARCH, img_size=64, **kwargs)
        return {**{f'backbone.{k}': v for k, v in model.state_dict().items()}, **head}

    learned = classifier(pos_encoding='learned', layer_scale_init_value=0.1)
    yolos = Yolos(mid=True).state_dict()
    return {
        'timm': (timm_vit.state_dict(), learned),
        'mmpretrain': ({k: v for k, v in learned.items() if 'grid' not in k}, learned),
        'paper-classifier': (PaperPEViT().state_dict(), classifier()),
        'paper-detector': (
            Yolos(mixed='linear').state_dict(),
            peyolos(patch_embed='mixed').state_dict(),
        ),
        'yolos': (yolos, mid.state_dict()),
        'hf-yolos': (hugging_face(yolos), mid.state_dict()),
        'hime_mm': (mid.state_dict(), mid.state_dict()),
    }


@pytest.mark.parametrize('fmt', sorted(FORMATS))
def test_every_single_tensor_counts(fmt):
    """Take any one away, or give it another shape: refused."""
    state, target = whole_models()[fmt]
    assert detect_format(state) == fmt
    size = (64, 96) if 'bbox_head' in ' '.join(target) else None
    out, report = convert(state, target, size=size)
    assert set(out) == set(target) and not report.initial + report.dropped
    for name, tensor in state.items():
        if name == 'backbone.pos_grid':
            continue
        less = {k: v for k, v in state.items() if k != name}
        other = dict(state)
        other[name] = torch.cat((tensor, tensor))
        wide = dict(state)
        wide[name] = torch.cat((tensor, tensor), -1)
        flat = dict(state)
        flat[name] = tensor.flatten()
        for bad in (less, other, wide, flat):
            if bad is flat and (tensor.ndim == 1 or 'reference' in name):
                continue
            try:
                convert(bad, target, fmt, size)
            except ConversionError:
                continue
            pytest.fail(f'{name}: {tuple(bad.get(name, tensor).shape)}')
