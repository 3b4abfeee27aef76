# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Graphs that are made with one batch give for another what the model gives."""

import io

import numpy as np
import pevit_parts
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from tiers import trials_but
from torch.export import Dim

from hime_mm.models.ciphers import FORMS, BatchCipher


class Detector(torch.nn.Module):
    """What a graph is made of where a mode has to be said."""

    def __init__(self, **backbone):
        super().__init__()
        init_default_scope('mmdet')
        torch.manual_seed(0)
        self.model = MODELS.build(
            dict(
                type='hime_mm.PEYOLOS',
                backbone=dict(
                    type='hime_mm.PEViT',
                    arch=pevit_parts.ARCH,
                    img_size=64,
                    pos_encoding='learned',
                    num_det_tokens=4,
                    out_type='det_tokens',
                    **backbone,
                ),
                bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=3, embed_dims=32),
            )
        ).eval()

    def forward(self, x):
        return self.model(x, mode='tensor')


class TokenDetector(Detector):
    """The same of one that reads each patch token by itself."""

    def __init__(self, **backbone):
        torch.nn.Module.__init__(self)
        init_default_scope('mmdet')
        torch.manual_seed(0)
        self.model = MODELS.build(
            dict(
                type='hime_mm.PESingleStageDetector',
                backbone=dict(
                    type='hime_mm.PEViT',
                    arch=pevit_parts.ARCH,
                    img_size=64,
                    out_type='featmap',
                    **backbone,
                ),
                bbox_head=dict(
                    type='hime_mm.PatchTokenHead', num_classes=3, in_channels=32, patch_size=16
                ),
            )
        ).eval()

    def forward(self, x):
        (scores,), (coded,) = self.model(x, mode='tensor')
        return scores, coded


def timm_model(**kwargs):
    pytest.importorskip('timm')
    import timm_parts

    # Three prefix tokens, and rotary positions where they are learned.
    return timm_parts.build('vit_tiny_patch16_224', reg_tokens=2, img_size=64, **kwargs)


# Learned positions that are interpolated, too: images are 64x64.
MODELS_AND_OPTIONS = [
    (build, options)
    for build, all_options in {
        pevit_parts.build: [
            {},
            dict(out_type='raw', pos_encoding='none'),
            dict(out_type='featmap', pos_encoding='learned', img_size=96),
            dict(out_type='avg_featmap', out_indices=[0, 2]),
            dict(out_type='featmap', patch_embed='mixed', num_splits=4),
            dict(out_type='cls_token', patch_embed='mixed', input_form='full'),
            dict(
                out_type='det_tokens', num_det_tokens=4, pos_encoding='learned', mid_positions=True
            ),
        ],
        timm_model: [
            {},
            dict(out_type='raw', pos_encoding='none'),
            dict(out_type='featmap', pos_encoding='learned'),
            dict(out_type='avg_featmap'),
        ],
        Detector: [
            {},
            dict(patch_embed='mixed', out_indices=[0, 2], mid_positions=True),
        ],
        TokenDetector: [{}],
    }.items()
    for options in all_options
]
IDS = [f'{build.__name__}-{options}' for build, options in MODELS_AND_OPTIONS]


def is_kept(case):
    return case in (MODELS_AND_OPTIONS[0], MODELS_AND_OPTIONS[-2], MODELS_AND_OPTIONS[-1])


of_few = pytest.mark.parametrize(
    ('build', 'options'), trials_but(is_kept, MODELS_AND_OPTIONS), ids=IDS
)


def batch(size, side=64, seed=0):
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_same(graph, model, *sizes, **tolerance):
    for size in sizes:
        with torch.no_grad():
            expected, got = model(batch(size)), graph(batch(size))
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, **tolerance)


@of_few
def test_torch_export(build, options):
    model = build(**options).eval()
    graph = torch.export.export(model, (batch(2, seed=1),), dynamic_shapes=({0: Dim('batch')},))
    assert_same(graph.module(), model, 1, 2, 5)


# Sides are constants of a trace, and it says so.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:.*jit.trace')
@pytest.mark.slow
@of_few
def test_trace(build, options):
    model = build(**options).eval()
    with torch.no_grad():
        graph = torch.jit.trace(model, batch(2, seed=1))
    assert_same(graph, model, 1, 2, 5)


@pytest.mark.slow
@of_few
def test_onnx(build, options):
    import onnxruntime

    model = build(**options).eval()
    program = torch.onnx.export(
        model, (batch(2, seed=1),), dynamic_shapes=({0: 'batch'},), dynamo=True, verbose=False
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name

    def graph(x):
        return [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]

    assert_same(graph, model, 1, 2, 5, atol=1e-4, rtol=1e-4)


COMPILED = MODELS_AND_OPTIONS[2::4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('build', 'options'),
    trials_but(lambda case: case is COMPILED[0], COMPILED),
    ids=IDS[2::4],
)
def test_compile(build, options):
    model = build(**options).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=True, backend='aot_eager')
    assert_same(compiled, model, 2, 5)


@pytest.mark.parametrize(
    'options',
    trials_but(
        lambda options: options == {},
        [{}, dict(out_type='featmap', pos_encoding='none'), dict(patch_embed='mixed')],
    ),
)
@pytest.mark.slow
def test_heights_and_widths_without_learned_positions(options):
    """Of whole patches."""
    model = pevit_parts.build(**options).eval()
    side, rows, cols = model.patch_stride, Dim('rows', min=2), Dim('cols', min=2)
    graph = torch.export.export(
        model,
        (torch.randn(2, 3, 4 * side, 6 * side),),
        dynamic_shapes=({0: Dim('batch'), 2: side * rows, 3: side * cols},),
    )
    x = torch.randn(5, 3, 7 * side, 3 * side)
    with torch.no_grad():
        torch.testing.assert_close(graph.module()(x), model(x))


class Encrypting(torch.nn.Module):
    def __init__(self, cipher):
        super().__init__()
        self.cipher = BatchCipher(cipher)

    def forward(self, images, drawn):
        return self.cipher.apply(images, drawn)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('step', sorted(FORMS))
def test_batch_ciphers(step, dtype):
    """For a draw that comes in with the images."""
    cipher = Encrypting([dict(type=step)])
    images = (batch(5).sigmoid() * 255).to(dtype)
    drawn = cipher.cipher.draw(images.shape, np.random.default_rng(0))
    free = {0: Dim('batch')}
    graph = torch.export.export(
        cipher,
        (images[:2], [None if value is None else value[:2] for value in drawn]),
        dynamic_shapes=(free, [None if value is None else free for value in drawn]),
    )
    torch.testing.assert_close(graph.module()(images, drawn), cipher(images, drawn))
