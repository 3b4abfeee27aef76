# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files in, files out: the converter as a person uses it."""

import argparse
import json
import os

import pytest
import timm
import torch
from converting import COCO_ROWS, assert_accounts, convert, detect, logits, save, tiny, without
from foreign_models import PaperPEViT, Yolos, hugging_face, shake
from mmengine.registry import MODELS, DefaultScope
from scripts import run_script, run_tools

from hime_mm.apis import convert_checkpoint
from hime_mm.errors import ConversionError
from hime_mm.models.backbones import PEViT
from hime_mm.models.weights import COCO_CATEGORY_IDS
from hime_mm.models.weights.infer import format_parts

TOOL = 'tools/model_converters/convert.py'


@pytest.mark.parametrize(
    'name',
    [
        'deit_tiny_patch16_224',
        'deit_small_patch16_224',
        pytest.param('vit_base_patch16_224', marks=pytest.mark.slow),
        pytest.param('deit_base_patch16_224', marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(init_values=0.3),
        dict(no_embed_class=True, init_values=0.3),
        dict(pre_norm=True),
        dict(qkv_bias=False),
        dict(global_pool='avg', class_token=True),
        dict(global_pool='avg', class_token=True, final_norm=True, fc_norm=False),
        dict(patch_size=8),
        dict(in_chans=1),
        dict(global_pool='avg', class_token=False, no_embed_class=True),
    ],
    ids=str,
)
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
        source = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='VisionTransformer', arch='deit-tiny', img_size=64),
                head=dict(type='VisionTransformerClsHead', num_classes=9, in_channels=192),
            )
        )
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
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    'pos_encoding, initial',
    [
        (
            'rpe',
            {
                'rpe.reference',
                'rpe.ref_encoding.0.weight',
                'rpe.ref_encoding.0.bias',
                'rpe.ref_encoding.2.weight',
                'rpe.ref_encoding.2.bias',
            },
        ),
        ('none', set()),
    ],
)
def test_deit_without_its_positions(tmp_path, pos_encoding, initial):
    source = tiny()
    path = save(tmp_path, source.state_dict())
    model, report, _ = convert(path, tmp_path, pos_encoding=pos_encoding)
    assert {e.target for e in report.initial} == {f'backbone.{n}' for n in initial}
    assert [e.src_name for e in report.dropped] == ['pos_embed']
    assert 'learned positions' in report.dropped[0].why
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert not any('rpe' in n for n in written['state_dict'])
    if pos_encoding == 'none':
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            source.pos_embed.zero_()
            torch.testing.assert_close(logits(model, x), source(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    'kwargs',
    [{}, dict(where='embed'), dict(shape=()), dict(shape=(1,)), dict(positions=17)],
    ids=str,
)
def test_paper_classifier(tmp_path, kwargs):
    """As the paper's training script writes it, built from its names."""
    source = shake(PaperPEViT(**kwargs))
    state = source.state_dict()
    checkpoint = dict(
        model={f'module.{k}': v for k, v in state.items()},
        optimizer=dict(state={}, param_groups=[dict(lr=0.1)]),
        epoch=299,
        args=argparse.Namespace(model='pe_deit', input_size=64, lr=5e-4),
    )
    model, report, parts = convert(save(tmp_path, checkpoint), tmp_path)
    assert report.format == 'paper-classifier'
    assert parts['backbone']['pos_encoding'] == 'rpe'
    assert_accounts(report, state)
    assert not report.initial
    assert [e.src_name for e in report.dropped] == (
        ['pos_embed'] if kwargs.get('positions') else []
    )
    for size in ((64, 64), (32, 96)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = source(x)
        torch.testing.assert_close(logits(model, x), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize('mixed', ['conv', 'linear'])
@pytest.mark.parametrize('leftover', [False, True])
def test_paper_detector(tmp_path, mixed, leftover):
    source = shake(Yolos(mixed=mixed, leftover=leftover))
    checkpoint = dict(
        model=source.state_dict(),
        optimizer={},
        lr_scheduler=dict(last_epoch=3),
        epoch=149,
        args=argparse.Namespace(init_pe_size=[64, 96], mid_pe_size=None, backbone_name='small'),
    )
    model, report, parts = convert(save(tmp_path, checkpoint), tmp_path)
    assert report.format == 'paper-detector'
    assert parts['backbone']['patch_embed'] == 'mixed'
    assert parts['backbone']['img_size'] == (64, 96)
    assert_accounts(report, source.state_dict())
    assert not report.initial
    assert {e.src_name for e in report.dropped} == (
        {'backbone.patch_embed.proj.weight', 'backbone.patch_embed.proj.bias'}
        if leftover
        else set()
    )
    for size in ((32, 48), (40, 56)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            scores, boxes = source(x)
        got = detect(model, x)
        torch.testing.assert_close(got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize('mid', [False, True])
def test_yolos_from_both_formats(tmp_path, mid):
    """Its authors' file and Hugging Face's give the same, which is YOLOS."""
    source = shake(Yolos(mid=mid))
    # The released YOLOS-Ti has 1333 columns of pixels, too.
    size = [64, 96] if mid else [64, 107]
    args = argparse.Namespace(init_pe_size=size, mid_pe_size=size if mid else None)
    official = save(tmp_path, dict(model=source.state_dict(), args=args))
    folder = tmp_path / 'hf'
    folder.mkdir()
    torch.save(hugging_face(source.state_dict()), folder / 'pytorch_model.bin')
    (folder / 'config.json').write_text(
        json.dumps(
            dict(
                image_size=size,
                num_attention_heads=2,
                num_hidden_layers=3,
                layer_norm_eps=1e-6,
                hidden_act='gelu',
            )
        )
    )
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
    names = zip(models[0].state_dict().items(), models[1].state_dict().items(), strict=True)
    for (name, a), (other, b) in names:
        assert name == other and torch.equal(a, b)
    for size in ((64, 96), (80, 48), (32, 160)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            scores, boxes = source(x)
        got = detect(models[0], x)
        torch.testing.assert_close(got[0], scores[..., COCO_ROWS], atol=1e-4, rtol=0)
        torch.testing.assert_close(got[1], boxes, atol=1e-5, rtol=0)


def test_all_rows_are_kept_on_demand(tmp_path):
    source = shake(Yolos(grid=(4, 4)))
    path = save(tmp_path, source.state_dict())
    model, report, _ = convert(path, tmp_path, num_classes=91)
    assert not report.resized
    assert any('taken for a square, 4x4' in n for n in report.notes)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(detect(model, x)[0], source(x)[0], atol=1e-4, rtol=0)
    custom = save(tmp_path, Yolos(rows=4, grid=(4, 4)).state_dict())
    _, _, parts = convert(custom, tmp_path, 'custom.pth')
    assert parts['bbox_head']['num_classes'] == 3


def test_category_ids_are_those_of_coco(coco_tiny):
    from mmdet.datasets import CocoDataset

    path = coco_tiny / 'annotations' / 'instances_val2017.json'
    ids = {c['name']: c['id'] for c in json.loads(path.read_text())['categories']}
    assert tuple(ids[name] for name in CocoDataset.METAINFO['classes']) == COCO_CATEGORY_IDS


def test_safetensors_and_smoothed_weights(tmp_path):
    from safetensors.torch import save_file

    source, smooth = tiny(0), tiny(1)
    save_file(source.state_dict(), tmp_path / 'src.safetensors')
    x = torch.randn(1, 3, 64, 64)
    model, _, _ = convert(tmp_path / 'src.safetensors', tmp_path)
    torch.testing.assert_close(logits(model, x), source(x).detach(), atol=1e-4, rtol=0)
    path = save(tmp_path, dict(model=source.state_dict(), model_ema=smooth.state_dict()))
    model, _, _ = convert(path, tmp_path, 'ema.pth', ema=True)
    torch.testing.assert_close(logits(model, x), smooth(x).detach(), atol=1e-4, rtol=0)
    with pytest.raises(ConversionError, match='model_ema, state_dict_ema, ema_state_dict'):
        convert(tmp_path / 'out.pth', tmp_path, 'no.pth', ema=True)


def test_written_file_is_plain_and_small(tmp_path):
    source = shake(Yolos(grid=(4, 4)))
    path = save(tmp_path, source.state_dict())
    convert(path, tmp_path)
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert set(written) == {'meta', 'state_dict'}
    assert written['meta']['converted_from'] == dict(file='src.pth', format='yolos')
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
        embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768
    )


def test_snippet_builds_the_model(tmp_path):
    _, _, parts = convert(save(tmp_path, tiny().state_dict()), tmp_path)
    rebuilt = eval(f'dict({format_parts(parts)})')
    assert rebuilt == parts


@pytest.mark.parametrize(
    'mid, size, detection', [(False, (64, 96), 5), (True, (64, 96), 5), (False, (64, 107), 100)]
)
def test_yolos_against_transformers(tmp_path, record_property, mid, size, detection):
    """Runs where transformers is installed; it is no dependency.

    In a folder of its own, because it would replace packages here:
    ``pip install --no-deps --target FOLDER 'transformers<5'
    'huggingface_hub<1' 'tokenizers<0.23' regex requests``, then
    ``PYTHONPATH=FOLDER pytest tests/test_models/test_weights/test_convert.py``.
    """
    transformers = pytest.importorskip(
        'transformers', reason='transformers is not installed, see docstring'
    )
    torch.manual_seed(0)
    source = shake(
        transformers.YolosForObjectDetection(
            transformers.YolosConfig(
                hidden_size=192,
                num_hidden_layers=12,
                num_attention_heads=3,
                intermediate_size=768,
                image_size=list(size),
                patch_size=16,
                num_detection_tokens=detection,
                num_labels=91,
                use_mid_position_embeddings=mid,
            )
        )
    )
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
        gaps += [
            (scores - out.logits[..., COCO_ROWS]).abs().max().item(),
            (boxes - out.pred_boxes).abs().max().item(),
        ]
    record_property('max_abs_difference', max(gaps))
    print('max abs difference', max(gaps))
    assert max(gaps) <= 1e-4


def assert_told(text, written):
    """The report of a DeiT that became a PEViT with a reference encoding."""
    for line in (
        'ViT or DeiT of timm or of the DeiT repository (timm)',
        '  blocks.0.attn.qkv.weight (384, 128) -> backbone.layers.0.attn.qkv.weight (384, 128)',
        'dropped: 1',
        'left at initial values: 5',
        "type='hime_mm.PEViT'",
        f'wrote {written}',
    ):
        assert line in text


def test_command(tmp_path, capsys):
    path = save(tmp_path, tiny().state_dict())
    out = tmp_path / 'out.pth'
    assert run_script(TOOL, path, out, '--pos-encoding', 'rpe') == 0
    assert_told(capsys.readouterr().out, out)


@pytest.mark.slow
def test_command_in_a_process_of_its_own(tmp_path):
    path = save(tmp_path, tiny().state_dict())
    out = tmp_path / 'out.pth'
    (text,) = run_tools((TOOL, path, out, '--pos-encoding', 'rpe'))
    assert_told(text, out)


def refused(capsys, *args):
    """What a command says that fails, without a traceback."""
    assert run_script(TOOL, *args) == 1
    text = capsys.readouterr().err
    assert text.startswith('convert.py: ')
    return text


def test_command_refuses(tmp_path, capsys):
    path = save(tmp_path, without(tiny().state_dict(), 'norm.bias'))
    text = refused(capsys, path, tmp_path / 'out.pth')
    assert "--allow-missing 'backbone.ln1.bias'" in text
    assert os.listdir(tmp_path) == ['src.pth']


def test_command_names_its_options(tmp_path, capsys):
    """Messages name parameters, the command says by which option."""
    path = save(tmp_path, dict(Yolos(grid=(4, 6)).state_dict()))
    out = tmp_path / 'out.pth'
    text = refused(capsys, path, out)
    assert '--img-size' in text and '--config' in text
    assert '--overwrite' in refused(capsys, path, path)
    assert '--num-heads' in refused(capsys, path, out, '--config', 'x', '--num-heads', 2)


class TestCipher:
    """Weights of plain patches, written for encrypted ones."""

    @pytest.mark.parametrize(
        'cipher, side, pos',
        [
            ('center+erode2+shuffle', 12, 'rpe'),
            ('center+erode2+shuffle', 12, None),
            ('mix2', 8, None),
        ],
    )
    def test_made_for_it(self, tmp_path, cipher, side, pos):
        from hime_mm.models.weights.warm_start import WarmStart

        source = tiny(patch_size=16)
        path = save(tmp_path, source.state_dict())
        model, report, parts = convert(path, tmp_path, cipher=cipher, pos_encoding=pos)
        assert parts['backbone']['patch_size'] == side
        # Learned positions mean nothing where patches move.
        expected = 'learned' if cipher == 'mix2' else pos or 'none'
        assert parts['backbone']['pos_encoding'] == expected
        assert parts['backbone'].get('img_size') in (None, 64 // 16 * side)
        proj = source.patch_embed.proj
        weight, bias = WarmStart(cipher).linear(proj.weight, proj.bias)
        torch.testing.assert_close(model.backbone.patch_embed.projection.weight, weight)
        torch.testing.assert_close(model.backbone.patch_embed.projection.bias, bias)
        (entry,) = (one for one in report.resized if one.src_name == 'patch_embed.proj.weight')
        assert cipher in entry.why

    def test_says_so_when_it_is_converted_again(self, tmp_path):
        """The model that is told has the option, and there is no second warm start."""
        path = save(tmp_path, tiny(patch_size=16).state_dict())
        model, _, _ = convert(path, tmp_path, cipher='erode2+shuffle')
        for name in ('again', 'wrong'):
            (tmp_path / name).mkdir()
        again, _, parts = convert(tmp_path / 'out.pth', tmp_path / 'again')
        told = dict(cipher='erode2+shuffle', patch_size=16)
        assert parts['backbone']['warm_start'] == told
        for name, value in model.backbone.state_dict().items():
            assert torch.equal(again.backbone.state_dict()[name], value), name
        with pytest.raises(ConversionError, match='was made for .*erode2.* before'):
            convert(tmp_path / 'out.pth', tmp_path / 'wrong', cipher='erode2+shuffle')

    def test_in_a_config(self, tmp_path):
        """The model's own option says it."""
        text = """
model = dict(type='mmpretrain.ImageClassifier', backbone=dict(
    type='hime_mm.PEViT', arch=dict(embed_dims=64, num_layers=2, num_heads=2,
    feedforward_channels=128), img_size=64, patch_size=12, pos_encoding='none',
    warm_start='erode2+shuffle'))
"""
        (tmp_path / 'config.py').write_text(text)
        timm_model = timm.create_model(
            'deit_tiny_patch16_224',
            img_size=64,
            embed_dim=64,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            num_classes=0,
        )
        path = save(tmp_path, timm_model.state_dict())
        report, _ = convert_checkpoint(
            str(path), str(tmp_path / 'out.pth'), config=str(tmp_path / 'config.py')
        )
        assert any('erode2' in entry.why for entry in report.resized)

    def test_a_mixed_embedding_is_one_already(self, tmp_path):
        arch = dict(embed_dims=64, num_layers=1, num_heads=1, feedforward_channels=64)
        mixed = PEViT(arch, 64, patch_embed='mixed', pos_encoding='learned')
        state = {f'backbone.{name}': value for name, value in mixed.state_dict().items()}
        with pytest.raises(ConversionError, match='embeds mixed patches already'):
            convert(save(tmp_path, state), tmp_path, cipher='mix2')
