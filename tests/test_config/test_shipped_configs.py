# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import importlib

import numpy as np
import pytest
import torch
from config_parts import ROOT, make_manifest, warnings_of
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from tiers import trials_but

from hime_mm.apis import check_config
from hime_mm.ciphers import Cipher
from hime_mm.errors import ConfigError

pytestmark = pytest.mark.usefixtures('quick_dumps')
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


@pytest.mark.parametrize('path', CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_shipped_configs(path):
    """Each loads, checks, dumps to readable text and names a real cipher."""
    cfg = check_config(Config.fromfile(path))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    # Other tools than ours check it, too.
    assert cfg.default_hooks.encryption == dict(type='hime_mm.EncryptionCheckHook')
    if path.parent.name == 'adapt':
        # Nothing is judged, and what the teacher sees is public.
        assert cfg.model.data_preprocessor.type == 'hime_mm.DistillDataPreprocessor'
        assert 'val_dataloader' not in cfg and 'test_dataloader' not in cfg
        return
    if path.parent.name == 'encrypted' or path.name == 'petoken_rs_demo.py':
        return
    assert cfg.default_hooks.visualization.type == ('hime_mm.EncryptedVisualizationHook')
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset = dataset.get('dataset', dataset)
        names = [t.type for t in dataset.pipeline]
        if 'plain' in path.name:
            assert 'hime_mm.Encrypt' not in names
            assert 'cipher' not in cfg.get('data_preprocessor', {})
            continue
        if cfg.default_scope == 'mmpretrain':
            # Encrypted on the device: the check has compared it with the
            # backbone, and seen that the pipelines do not encrypt as well.
            assert cfg.data_preprocessor.type == ('hime_mm.EncryptClsDataPreprocessor')
            assert 'hime_mm.Encrypt' not in names
            continue
        at = names.index('hime_mm.Encrypt')
        step = dataset.pipeline[at]
        Cipher.build(step.cipher, step.patch_size)
        # Nothing geometric behind it, and annotations of the file's scale
        # stay behind it at test time.
        rest = [n for n in names[at + 1 :] if not n.startswith('Pack')]
        assert rest == ([] if phase == 'train' else ['LoadAnnotations'])


CLASSIFIERS = [p for p in CONFIGS if p.parent.name in ('pevit', 'caltech101', 'cifar')]


@pytest.mark.parametrize('path', CLASSIFIERS, ids=[p.stem for p in CLASSIFIERS])
def test_classification_configs(path):
    """They build, and differ from their plain twin in two things only."""
    cfg = Config.fromfile(path)
    _, cipher, *rest = path.stem.split('_')
    (twin,) = [
        p
        for p in CLASSIFIERS
        if p.parent == path.parent
        and p.stem.endswith('_'.join(rest))
        and p.stem.split('_')[1] == 'plain'
        and p.stem.split('_')[0].split('-')[1] == path.stem.split('_')[0].split('-')[1]
    ]
    twin = Config.fromfile(twin)
    if cipher == 'plain':
        assert cfg.model.backbone.type == 'VisionTransformer'
    else:
        assert cfg.data_preprocessor.pop('type') == ('hime_mm.EncryptClsDataPreprocessor')
        cfg.data_preprocessor.pop('patch_size', None)
        steps = str(Cipher.build(cfg.data_preprocessor.pop('cipher')))
        assert (
            steps
            == {
                'rs': 'shuffle',
                'rs-nopos': 'shuffle',
                'mi2': 'mix2',
                'center-erode2-rs': 'center+erode2+shuffle',
            }[cipher]
        )
        if 'center' in cipher:
            # Images without means have statistics of their own.
            cfg.data_preprocessor.update(
                mean=twin.data_preprocessor.mean, std=twin.data_preprocessor.std
            )
        backbone = cfg.model.backbone
        assert backbone.pos_encoding == dict(mi2='learned').get(
            cipher, 'none' if 'nopos' in cipher else 'rpe'
        )
        cfg.model.backbone = twin.model.backbone
        assert cfg.to_dict() == twin.to_dict()
        cfg.model.backbone = backbone
    if path.parent.name == 'pevit':
        # What MMPretrain's configs leave out of the DeiT recipe.
        assert cfg.model.backbone.drop_path_rate == 0.1
        assert cfg.custom_hooks[0].type == 'EMAHook'
        assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
        assert cfg.auto_scale_lr == dict(base_batch_size=1024, enable=True)
        assert cfg.train_cfg.max_epochs == 300
    init_default_scope('mmpretrain')
    registry = importlib.import_module('mmpretrain.registry')
    # The preprocessor holds numbers.
    with torch.device('meta'):
        model = registry.MODELS.build({k: v for k, v in cfg.model.items() if k != 'train_cfg'})
    size = cfg.model.backbone.img_size
    classes = cfg.data_preprocessor.num_classes
    if cipher == 'mi2':
        size //= 2
    out = model.eval()(torch.zeros(2, 3, size, size, device='meta'))
    assert out.shape == (2, classes)


FINETUNED = [p for p in CONFIGS if p.parent.name == 'finetune']


@pytest.mark.parametrize('path', FINETUNED, ids=[p.stem for p in FINETUNED])
def test_finetuning_configs(path):
    """They differ from the plain twin in cipher, statistics and backbone."""
    cfg = Config.fromfile(path)
    (twin,) = (p for p in FINETUNED if '_plain_' in p.name)
    twin = Config.fromfile(twin)
    backbone, side = cfg.model.backbone, 14
    assert backbone.type == twin.model.backbone.type == 'hime_mm.TIMMPEViT'
    if '_plain_' not in path.name:
        assert cfg.data_preprocessor.pop('type') == 'hime_mm.EncryptClsDataPreprocessor'
        cipher = Cipher(
            cfg.data_preprocessor.pop('cipher'), cfg.data_preprocessor.pop('patch_size')
        )
        side = cipher.encrypted_patch_size
        warm = backbone.get('warm_start')
        assert (warm is None) == (str(cipher) == 'shuffle')
        if warm is not None:
            assert Cipher.build(warm.cipher, warm.patch_size) == cipher
        assert backbone.pos_encoding == ('none' if cipher.shuffles else 'learned')
        if any(step.removes_means for step in cipher.steps):
            own = {name: cfg.data_preprocessor[name] for name in ('mean', 'std')}
            assert own == {name: warm[name] for name in own}
            for name in own:
                assert warm[f'plain_{name}'] == twin.data_preprocessor[name]
        for name in ('mean', 'std'):
            cfg.data_preprocessor[name] = twin.data_preprocessor[name]
    # What a config file leaves behind.
    variables = {'cipher', 'patch_size', 'mean', 'std'}
    cfg.model.backbone = twin.model.backbone
    assert {k: v for k, v in cfg.to_dict().items() if k not in variables} == twin.to_dict()
    init_default_scope('mmpretrain')
    model = importlib.import_module('mmpretrain.registry').MODELS.build(
        dict(cfg.model, backbone=dict(backbone, pretrained=False))
    )
    assert model.eval()(torch.zeros(2, 3, 3 * side, 3 * side)).shape == (2, 101)


def test_adapting_config():
    (path,) = (p for p in CONFIGS if p.parent.name == 'adapt')
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    for vit in (cfg.model.backbone, cfg.model.teacher):
        vit.update(pretrained=False, depth=1)
    model = importlib.import_module('mmpretrain.registry').MODELS.build(cfg.model)
    images = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    losses = model.loss(**model.data_preprocessor(dict(inputs=list(images), data_samples=None)))
    assert set(losses) == {'loss_patch', 'loss_cls'}


ENCRYPTED = [p for p in CONFIGS if p.parent.name == 'encrypted']


@pytest.mark.parametrize('path', ENCRYPTED, ids=[p.stem for p in ENCRYPTED])
def test_configs_for_encrypted_data_sets(path, tmp_path, monkeypatch):
    """Stock data sets, nothing encrypted twice, model and pipelines build."""
    cfg = Config.fromfile(path)
    monkeypatch.chdir(tmp_path)
    with warnings_of() as lines:
        check_config(cfg)
    data = cfg.train_dataloader.dataset.data_root.rstrip('/')
    assert lines and all(f' {data}' in line for line in lines)
    registry = importlib.import_module(f'{cfg.default_scope}.registry')
    init_default_scope(cfg.default_scope)
    cipher = path.stem.split('_')[1].replace('-folder', '')
    cipher = {'center-erode2-rs': 'center+erode2+shuffle'}.get(cipher, cipher)
    backbone = cfg.model.backbone
    cipher = Cipher.build(cipher, backbone.get('warm_start', {}).get('patch_size'))
    manifests = set()
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        assert dataset.type in ('CocoDataset', 'ImageNet', 'CustomDataset')
        names = [t.type for t in dataset.pipeline]
        assert names[:2] == ['LoadImageFromFile', 'hime_mm.LoadEncryptedMeta']
        assert 'hime_mm.Encrypt' not in names
        Compose([registry.TRANSFORMS.build(t) for t in dataset.pipeline])
        root = tmp_path / dataset.data_root
        if dataset.type == 'CocoDataset':
            (root / dataset.data_prefix['img']).mkdir(parents=True, exist_ok=True)
        else:
            root /= dataset.get('split') or dataset.data_prefix
        manifests.add(make_manifest(root, cipher))
    backbone.init_cfg = None
    if 'dinov2' in path.name:
        backbone.pretrained = False
    with torch.device('meta'):
        model = registry.MODELS.build(cfg.model)
    assert f'hime_mm.{type(model.backbone).__name__}' == backbone.type
    # With its data in place there is nothing left to warn of.
    with warnings_of() as lines:
        check_config(cfg)
    assert lines == []
    # Another cipher than that of the name is noticed.
    for root in manifests:
        make_manifest(root, 'mix4')
    with pytest.raises(ConfigError, match='`model.backbone` .*mix4.*hime.json'):
        check_config(cfg)


def test_coco_recipe():
    """The optimiser does what DESIGN's recipe says, parameter by parameter."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    for name, base, embedding in (
        ('hime_vit_coco.py', 2.5e-5, 1e-4),
        ('peyolos/peyolos-small_mi2-yolos_8xb1-150e_coco.py', 1e-5, 1e-4),
    ):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        cfg.model.backbone.init_cfg = None
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates = {}
        for group in wrapper.optimizer.param_groups:
            for param in group['params']:
                rates[param] = (group['lr'], group['weight_decay'])
        for key, param in model.named_parameters():
            lr, decay = rates[param]
            assert lr == pytest.approx(embedding if '.patch_embed.' in key else base), key
            bare = key.startswith('backbone.') and (
                key.endswith('.bias') or '.ln' in key or 'token' in key or 'pos_embed' in key
            )
            assert decay == (0 if bare else 1e-4), key


SHUFFLED = [p for p in CONFIGS if p.stem.startswith(('petoken', 'hime_vit_coco_rs'))]


@pytest.mark.parametrize('path', SHUFFLED, ids=[str(p.relative_to(ROOT)) for p in SHUFFLED])
def test_configs_of_the_token_head(path):
    """They train and predict; the cipher is that of the name, and who judges can map back."""
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    registry = importlib.import_module('mmdet.registry')
    steps = {
        step.cipher
        for phase in ('train', 'val', 'test')
        for step in inner(cfg[f'{phase}_dataloader'].dataset).pipeline
        if step.type == 'hime_mm.Encrypt'
    }
    hardened = 'hardened' in path.stem or 'center' in path.stem
    name = 'center+erode2+shuffle' if hardened else 'mix2' if 'mi2' in path.stem else 'shuffle'
    if steps:
        assert {str(Cipher.build(step)) for step in steps} == {name}
        if name != 'mix2':
            assert cfg.val_evaluator.type == 'hime_mm.OriginalCocoMetric'
            assert inner(cfg.val_dataloader.dataset).pipeline[2].keep_permutation
        assert not any('keep_permutation' in t for t in cfg.train_pipeline)
    else:
        assert cfg.val_evaluator.type == 'hime_mm.SlotCocoMetric'
    cfg.model.backbone.init_cfg = None
    if 'pretrained' in cfg.model.backbone:
        cfg.model.backbone.pretrained = False
    side = cfg.model.backbone.get('patch_size', 16)
    assert cfg.model.bbox_head.patch_size == (8 if name == 'mix2' else side)
    model = registry.MODELS.build(cfg.model)
    model.init_weights()
    classes = model.bbox_head.num_classes
    metainfo = inner(cfg.train_dataloader.dataset).get('metainfo')
    assert classes == (len(metainfo.classes) if metainfo else 80)
    shape = (2 * side, 3 * side)
    if name == 'mix2':
        shape = (cfg.model.backbone.img_size // 2,) * 2
    inputs = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    samples = [DetDataSample(metainfo=dict(img_shape=tuple(inputs.shape[2:]))) for _ in inputs]
    for sample in samples:
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[1.0, 2.0, 9.0, 30.0]]), labels=torch.tensor([classes - 1])
        )
    data = model.data_preprocessor(dict(inputs=list(inputs), data_samples=samples), True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(param.grad is not None for param in model.parameters() if param.requires_grad)


def test_shuffled_coco_recipe():
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco_rs.py')
    init_default_scope('mmdet')
    registry = importlib.import_module('mmdet.registry')
    cfg.model.backbone.init_cfg = None
    model = registry.MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {group['param_name']: (group['lr'], group['weight_decay']) for group in groups}
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, (lr, decay) in found.items():
        new = not name.startswith('backbone.') or name.startswith(('backbone.ln1', 'backbone.rpe'))
        depth = 13 if new else 0
        if '.layers.' in name:
            depth = int(name.split('.')[2]) + 1
        assert lr == pytest.approx(2e-4 * 0.75 ** (13 - depth)), name
        assert decay == (0 if '.ln' in name else 0.05), name


PEDINO = [p for p in CONFIGS if p.stem.startswith('pedino')]


@pytest.mark.parametrize(
    'path', trials_but(lambda path: path is PEDINO[0], PEDINO), ids=[p.stem for p in PEDINO]
)
def test_configs_of_pedino(path):
    """They train: every part gets a gradient, and no rate but the ViT's is lowered."""
    pytest.importorskip('timm')
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    registry = importlib.import_module('mmdet.registry')
    cfg.model.backbone.pretrained = False
    # A narrow ViT is built at once.
    cfg.model.backbone.update(embed_dim=48, num_heads=3)
    cfg.model.neck.in_channels = [48] * len(cfg.model.neck.in_channels)
    model = registry.MODELS.build(cfg.model)
    model.init_weights()
    dataset = cfg.train_dataloader.dataset
    (cipher,) = (t.cipher for t in dataset.pipeline if t.type == 'hime_mm.Encrypt')
    assert cipher == ('mix2:tiled' if 'tiled' in path.stem else 'mix2')
    classes = model.bbox_head.num_classes
    assert classes == (len(dataset.metainfo.classes) if 'metainfo' in dataset else 80)
    side = 10 * model.backbone.patch_stride
    inputs = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    samples = [DetDataSample(metainfo=dict(img_shape=(side, side))) for _ in inputs]
    for sample in samples:
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[1.0, 2.0, 9.0, 30.0]]), labels=torch.tensor([classes - 1])
        )
    data = model.data_preprocessor(dict(inputs=list(inputs), data_samples=samples), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    base = cfg.optim_wrapper.optimizer.lr
    learning = {name: param for name, param in model.named_parameters() if param.requires_grad}
    assert {group['param_name'] for group in groups} == set(learning)
    for group in groups:
        name = group['param_name']
        assert learning[name].grad is not None, name
        if 'timm_model.blocks.' in name:
            above = model.backbone.num_layers - int(name.split('.')[3])
            assert group['lr'] == pytest.approx(base * 0.75**above), name
        elif not name.startswith('backbone.timm_model.'):
            assert group['lr'] == base, name


STILL = ('LoadImageFromFile', 'Resize', 'hime_mm.Encrypt')


@pytest.mark.parametrize(
    'path, images',
    [
        ('hime_vit_coco_rs_hardened.py', 'coco_tiny/train2017'),
        ('bccd/petoken-tiny_center-erode2-rs_1xb4-40e_bccd.py', 'bccd/train'),
        ('chess/petoken-tiny_center-erode2-rs_1xb4-40e_chess.py', 'chess/train'),
    ],
)
def test_images_without_means_are_divided_by_what_was_measured(path, images, data_root):
    if not (data_root / images).is_dir():
        pytest.skip(f'no images in {images}')
    cfg = Config.fromfile(ROOT / 'configs' / path)
    init_default_scope('mmdet')
    steps = [s for s in inner(cfg.test_dataloader.dataset).pipeline if s.type in STILL]
    pipeline = Compose(steps)
    files = sorted((data_root / images).iterdir())[:24:6]
    pixels = [pipeline(dict(img_path=str(file)))['img'] / 1.0 - 128 for file in files]
    assert abs(np.mean([one.mean() for one in pixels])) < 1
    measured = np.sqrt(np.mean([(one**2).mean() for one in pixels]))
    (std,) = set(cfg.model.data_preprocessor.std)
    assert 0.75 < std / measured < 1.33


def inner(dataset):
    """The data set within its wrapper."""
    return dataset.get('dataset', dataset)
