# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights adapted to a cipher by a command."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from owner_data import photo, write
from scripts import ROOT, run_script

from hime_mm.models import PEViT, TIMMPEViT

timm = pytest.importorskip('timm')
NAME = 'test_vit'
ON_A_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
CIPHER = 'center+erode2+shuffle'

#: MMEngine's runner gives each process a GPU, whether there is one or not.
WITHOUT_GPU = """
import runpy, torch
from mmengine.model import MMDistributedDataParallel as Parallel
torch.cuda.set_device = lambda device: None
init = Parallel.__init__
Parallel.__init__ = lambda self, module, device_ids=None, **kw: init(self, module, **kw)
runpy.run_path({!r}, run_name='__main__')
"""


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp('adapt')
    for i in range(6):
        write(root / 'photos' / f'n{i % 2}' / f'{i}.png', photo(50 + i, 60))
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), root / 'plain.pth')
    return root


def arguments(inputs, out, *more):
    return [
        *(inputs / 'plain.pth', inputs / 'photos', '--out', out, '--model', f'timm:{NAME}'),
        *('--cipher', CIPHER, '--size', 32, '--epochs', 2, '--batch-size', 4, '--workers', 0),
        *more,
    ]


def test_writes_a_backbone(inputs, tmp_path, capsys):
    """Where there is nothing but weights and public pictures."""
    before = (inputs / 'plain.pth').read_bytes()
    out = tmp_path / 'adapted.pth'
    assert run_script('tools/adapt.py', *arguments(inputs, out, '--ema')) == 0
    assert (inputs / 'plain.pth').read_bytes() == before
    told = capsys.readouterr().out
    assert f'wrote {out}' in told and 'mean=[128.0, 128.0, 128.0]' in told

    saved = torch.load(out, weights_only=True)
    options = saved['meta']['backbone']
    assert options.pop('type') == 'hime_mm.TIMMPEViT' and options['patch_size'] == 12
    assert saved['meta']['adapted_from']['file'] == 'plain.pth'
    assert all(5 < value < 80 for value in saved['meta']['std'])
    model = TIMMPEViT(**options, init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    model.init_weights()
    for name, value in saved['state_dict'].items():
        assert torch.equal(model.state_dict()[name], value), name
    model.eval()
    x = torch.randn(1, 3, 24, 24)
    order = [2, 0, 3, 1]
    blocks = x.unfold(2, 12, 12).unfold(3, 12, 12).reshape(1, 3, 4, 12, 12)[:, :, order]
    moved = blocks.reshape(1, 3, 2, 2, 12, 12).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 24, 24)
    with torch.no_grad():
        one, other = model(x)[0], model(moved)[0]
    torch.testing.assert_close(other[:, 0], one[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(other[:, 1:], one[:, 1:][:, order], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_goes_on(inputs, tmp_path, capsys):
    """From the last checkpoint that a kill left, to the same weights."""
    work = tmp_path / 'work'
    keep = ('--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=2')
    first, again = tmp_path / 'first.pth', tmp_path / 'again.pth'
    run_script('tools/adapt.py', *arguments(inputs, first, '--work-dir', work, *keep))
    (work / 'epoch_2.pth').unlink()
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    run_script('tools/adapt.py', *arguments(inputs, again, '--work-dir', work, *keep))
    one, other = (torch.load(path, weights_only=True)['state_dict'] for path in (first, again))
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    assert 'Epoch(train) [2]' in capsys.readouterr().out
    # Not with what was begun otherwise, once something was.
    wrong = arguments(inputs, tmp_path / 'x.pth', '--work-dir', work, *keep, '--lr', 1)
    assert run_script('tools/adapt.py', *wrong) == 1
    assert 'of other settings' in capsys.readouterr().err
    other = torch.load(inputs / 'plain.pth', weights_only=True)
    other['cls_token'] += 1
    torch.save(other, tmp_path / 'plain.pth')
    wrong[0] = tmp_path / 'plain.pth'
    assert run_script('tools/adapt.py', *wrong[:-2]) == 1
    assert 'of other settings' in capsys.readouterr().err
    (work / 'last_checkpoint').unlink()
    args = [*arguments(inputs, tmp_path / 'x.pth', '--work-dir', work, *keep), '--epochs', 1]
    assert run_script('tools/adapt.py', *args) == 0


@pytest.mark.slow
def test_in_two_processes(inputs, tmp_path):
    """Of which the first writes."""
    out = tmp_path / 'out.pth'
    args = arguments(inputs, out, '--launcher', 'pytorch', '--batch-size', 2)
    args += ['--cfg-options', 'env_cfg.dist_cfg.backend=gloo']
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2]
    script = tmp_path / 'without_gpu.py'
    script.write_text(WITHOUT_GPU.format(str(ROOT / 'tools/adapt.py')))
    done = subprocess.run(
        [sys.executable, *map(str, [*launch, script, *args])],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f'wrote {out}') == 1
    saved = torch.load(out, weights_only=True)
    assert saved['meta']['backbone']['patch_size'] == 12
    # Each sees half of the pictures, three in batches of two.
    checkpoint = torch.load(tmp_path / 'out' / 'epoch_2.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 4


@pytest.mark.slow
def test_weights_of_a_classifier(inputs, tmp_path, monkeypatch):
    """As MMPretrain's and those that were converted are, into a file without an ending."""
    state = PEViT('deit-tiny', 32, pos_encoding='learned').state_dict()
    weights = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), weights)
    monkeypatch.chdir(tmp_path)
    args = arguments(inputs, 'adapted', '--model', 'pevit-tiny', '--epochs', 1)
    assert run_script('tools/adapt.py', weights, *args[1:]) == 0
    saved = torch.load('adapted', weights_only=True)['state_dict']
    assert (tmp_path / 'adapted.work' / 'epoch_1.pth').is_file()
    assert saved.keys() >= {'cls_token', 'patch_embed.projection.weight', 'layers.0.ln1.weight'}


@pytest.mark.slow
def test_of_pevit(inputs, tmp_path):
    """Weights of timm, in MMPretrain's ViT."""
    path = tmp_path / 'deit.pth'
    torch.manual_seed(0)
    torch.save(timm.create_model('deit_tiny_patch16_224').state_dict(), path)
    out = tmp_path / 'out.pth'
    args = arguments(inputs, out, '--model', 'pevit-tiny', '--epochs', 1, '--pos-encoding', 'rpe')
    assert run_script('tools/adapt.py', path, *args[1:]) == 0
    saved = torch.load(out, weights_only=True)
    options = saved['meta']['backbone']
    assert options.pop('type') == 'hime_mm.PEViT'
    found = PEViT(**options).load_state_dict(saved['state_dict'])
    assert found.missing_keys == found.unexpected_keys == []


@pytest.mark.parametrize(
    'more, told',
    [
        (['--size', 40], 'no whole patches of 16'),
        pytest.param(['--amp'], '--amp needs a GPU', marks=ON_A_CPU),
        (['--model', 'resnet50'], 'unknown model'),
        (['--model', 'timm:vit_tiny'], 'timm has no model'),
        (['--cipher', 'blur'], 'blur'),
        (['--cipher', 'permute_pixels+shuffle'], 'permute_pixels'),
        (['--cipher', 'erode8+shuffle'], 'cannot drop 8 pixels|erode'),
        (['--out', '.'], 'is a folder'),
    ],
)
def test_what_makes_no_sense(inputs, tmp_path, capsys, more, told):
    out = tmp_path / 'out.pth'
    assert run_script('tools/adapt.py', *arguments(inputs, out, *more)) == 1
    error = capsys.readouterr().err
    assert any(part in error for part in told.split('|')), error
    assert not out.exists()


def test_files_that_are_not_there(inputs, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    (tmp_path / 'empty' / 'inner').mkdir(parents=True)
    args = arguments(inputs, out)
    for wrong, told in (
        ([tmp_path / 'no.pth', *args[1:]], 'there is no file'),
        ([args[0], tmp_path / 'no', *args[2:]], 'there is no folder'),
        ([args[0], tmp_path / 'empty', *args[2:]], 'no pictures in'),
        ([args[0], inputs / 'photos', tmp_path / 'empty', *args[2:]], 'no pictures in'),
    ):
        assert run_script('tools/adapt.py', *wrong) == 1
        assert told in capsys.readouterr().err
    (tmp_path / 'text.pth').write_text('no weights')
    for name, told in (('text.pth', 'cut off or no checkpoint'), ('w.safetensors', 'convert.py')):
        (tmp_path / name).touch()
        assert run_script('tools/adapt.py', tmp_path / name, *args[1:]) == 1
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_script('tools/adapt.py', *args, '--epochs', 0)
    assert '0 is below 1' in capsys.readouterr().err
    out.write_bytes(b'kept')
    assert run_script('tools/adapt.py', *args) == 1
    assert 'exists' in capsys.readouterr().err and out.read_bytes() == b'kept'


@pytest.mark.slow
def test_a_teacher_without_positions(inputs, tmp_path, capsys):
    state = torch.load(inputs / 'plain.pth', weights_only=True)
    del state['pos_embed']
    torch.save(state, tmp_path / 'w.pth')
    args = arguments(inputs, tmp_path / 'out.pth')
    assert run_script('tools/adapt.py', tmp_path / 'w.pth', *args[1:]) == 1
    assert 'pos_embed' in capsys.readouterr().err
    assert not np.any([path.suffix == '.pth' for path in (tmp_path / 'out').glob('*')])
