# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The experiment on what ciphers cost a detector."""

import json
import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from scripts import load_script, run_script, run_tools

from hime_mm.apis import check_config
from hime_mm.mapping.boxes import SHUFFLED_NMS
from hime_mm.registry import MODELS

TOOL = 'tools/experiments/detection.py'
experiment = load_script(TOOL)
ROWS = {row.name: row for row in experiment.ROWS}
SCRATCH = [name for name, row in ROWS.items() if row.model != 'weights']
#: Makes timm's ViT-S narrow, which builds at once.
NARROW = dict(embed_dim=48, num_heads=3)
READ = cache(Config.fromfile)


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The two configs that all rows build on are read once."""
    monkeypatch.setattr(Config, 'fromfile', lambda path: deepcopy(READ(path)))


@pytest.fixture
def hosts_scope():
    """The default scope of the configs."""
    from mmdet.utils import register_all_modules

    register_all_modules()


@pytest.fixture
def small_weights(tmp_path):
    """A file of weights that nobody reads but for its sum."""
    path = tmp_path / 'weights.pth'
    torch.save({'norm.weight': torch.ones(2)}, path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """What the tool wants to see of a data set."""
    for name in ('annotations', 'train', 'val'):
        (tmp_path / 'data' / name).mkdir(parents=True)
    for split in ('train', 'val'):
        (tmp_path / f'data/annotations/instances_{split}.json').write_text('{}')
    return tmp_path / 'data'


def row_config(name, dataset='bccd', profile='cpu', root='data/', weights=None, seed=3):
    return experiment.row_config(
        ROWS[name], seed, experiment.PROFILES[profile], dataset, root, weights
    )


def start(folder, *args, rows, seeds=(3,)):
    options = ('--dataset', 'bccd', '--profile', 'cpu', '--work-dir', folder.parent / 'out')
    names = ('--rows', *rows) if rows else ()
    run_script(TOOL, 'run', '--data-root', folder, '--seeds', *seeds, *names, *options, *args)


class TestRows:
    @pytest.mark.parametrize('dataset', sorted(experiment.CONFIGS))
    @pytest.mark.parametrize('profile', sorted(experiment.PROFILES))
    @pytest.mark.parametrize('name', ROWS)
    def test_differ_by_what_they_name(self, name, profile, dataset, small_weights):
        row, budget = ROWS[name], experiment.PROFILES[profile]
        weights = small_weights if row.model == 'weights' else None
        cfg = check_config(row_config(name, dataset, profile, weights=weights))
        shuffled = row.cipher is not None and 'shuffle' in row.cipher
        assert cfg.randomness.seed == 3
        for phase in ('train', 'val', 'test'):
            steps = cfg[f'{phase}_dataloader'].dataset.pipeline
            found = [step for step in steps if step['type'] == 'hime_mm.Encrypt']
            assert [step['cipher'] for step in found] == [row.cipher] * (row.cipher is not None)
            # The seed repeats a run.
            assert all(step['randomness'] == 'numpy' for step in found)
            (resize,) = (step for step in steps if step['type'] == 'Resize')
            assert tuple(resize['scale']) == budget.scales[dataset]
        metric = 'hime_mm.OriginalCocoMetric' if shuffled else 'CocoMetric'
        assert cfg.val_evaluator.type == cfg.test_evaluator.type == metric
        backbone = cfg.model.backbone
        assert backbone.pos_encoding == ('rpe' if shuffled else 'learned')
        # The grid on which positions are defined is that of the images.
        width, height = budget.scales[dataset]
        assert [side // backbone.patch_size for side in backbone.img_size] == [
            height // 16,
            width // 16,
        ]
        if row.model != 'peyolos':
            nms = cfg.model.test_cfg.nms
            assert nms is None if shuffled else nms.iou_threshold == SHUFFLED_NMS
        centred = row.cipher is not None and 'center' in row.cipher
        assert (cfg.model.data_preprocessor.mean == [128.0] * 3) == centred
        epochs = budget.weights_epochs if row.model == 'weights' else budget.epochs
        assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == epochs
        assert epochs % cfg.train_cfg.val_interval == 0

    @pytest.mark.parametrize('dataset', sorted(experiment.CONFIGS))
    @pytest.mark.parametrize('name', SCRATCH)
    def test_learn_from_their_images(self, name, dataset, data_root, hosts_scope):
        """Images have a token for each patch, and their objects have a loss."""
        from mmdet.registry import DATASETS
        from mmengine.dataset import pseudo_collate

        root = data_root / dataset
        if not root.is_dir():
            pytest.skip(f'no {dataset} among the real images')
        cfg = row_config(name, dataset, root=f'{root}/')
        images = DATASETS.build(dict(cfg.train_dataloader.dataset, indices=2))
        model = MODELS.build(cfg.model)
        batch = model.data_preprocessor(pseudo_collate([images[0], images[1]]), True)
        maps = model.backbone(batch['inputs'])[0]
        loss = model(**batch, mode='loss')
        if ROWS[name].model != 'peyolos':
            width, height = experiment.PROFILES['cpu'].scales[dataset]
            assert maps.shape[2:] == (height // 16, width // 16)
        values = [v for value in loss.values() for v in (value if type(value) is list else [value])]
        assert torch.stack(values).isfinite().all() and sum(values) > 0

    def test_statistics_are_those_of_the_images(self, data_root):
        """So images without means come in with a variance of one."""
        import cv2

        from hime_mm.ciphers import Cipher

        for dataset in experiment.CONFIGS:
            paths = sorted((data_root / dataset / 'train').glob('*.jpg'))[::10]
            if not paths:
                pytest.skip(f'no {dataset} among the real images')
            for profile in experiment.PROFILES.values():
                for cipher, std in profile.stds[dataset].items():
                    build = Cipher.build(cipher)
                    square = [
                        build.encrypt(cv2.resize(cv2.imread(str(path)), profile.scales[dataset]))[0]
                        .astype(float)
                        .var()
                        for path in paths[:8]
                    ]
                    assert (sum(square) / len(square)) ** 0.5 == pytest.approx(std, rel=0.2)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Weights under timm's names."""
    import timm

    path = tmp_path_factory.mktemp('weights') / 'vit.pth'
    vit = timm.create_model('vit_small_patch14_dinov2', num_classes=0, **NARROW)
    torch.save(vit.state_dict(), path)
    return path


def narrow(name, file):
    cfg = row_config(name, weights=str(file))
    cfg.model.backbone.update(NARROW)
    cfg.model.bbox_head.in_channels = NARROW['embed_dim']
    return cfg


class TestWeights:
    @pytest.mark.parametrize('name', [name for name in ROWS if name not in SCRATCH])
    def test_reach_the_model(self, name, file, hosts_scope):
        cfg = narrow(name, file)
        said = experiment.loaded(cfg)
        model = MODELS.build(cfg.model)
        model.init_weights()
        own, given = model.backbone.timm_model.state_dict(), torch.load(file)
        assert said.startswith(f'{len(own)} of {len(own)} tensors') and file.name in said
        kept = [key for key in own if key.startswith(('blocks.', 'norm.'))]
        assert len(kept) == len(own) - (4 if ROWS[name].cipher is None else 3)
        assert all(torch.equal(own[key], given[key]) for key in kept)

    def test_rates_fall_layer_by_layer(self, file, hosts_scope):
        """As with MMPretrain's constructor, but for what is new."""
        from mmengine.optim import build_optim_wrapper
        from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor

        cfg = narrow('rs_weights', file)
        model = MODELS.build(cfg.model)
        ours = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
        host = dict(cfg.optim_wrapper, optimizer=dict(cfg.optim_wrapper.optimizer, lr=1.0))
        host.pop('paramwise_cfg')
        build = LearningRateDecayOptimWrapperConstructor(
            host, dict(layer_decay_rate=experiment.LAYER_DECAY)
        )
        rates = {id(g['params'][0]): g['lr'] for g in build(model).param_groups}
        names = {id(p): name for name, p in model.named_parameters()}
        # MMEngine adds a group of a parameter that is no model's.
        ours = [group for group in ours if id(group['params'][0]) in names]
        seen = 0
        for group in ours:
            (param,) = group['params']
            name, rate = names[id(param)], experiment.NEW_LR
            if 'timm_model.' in name and 'timm_model.norm.' not in name:
                # The last block has a whole rate.
                rate = experiment.WEIGHTS_LR * rates[id(param)] / experiment.LAYER_DECAY
                seen += 1
            elif 'timm_model.' in name:
                rate = experiment.WEIGHTS_LR
            assert group['lr'] == pytest.approx(rate), name
        assert len(ours) == len(names) and seen > 150

    @pytest.mark.parametrize('lacks', ['blocks.7.mlp.fc1.weight', 'cls_token', 'norm.bias', None])
    def test_incomplete_ones_are_refused(self, lacks, file, tmp_path):
        """None of them is another model's: nothing has its place."""
        state = torch.load(file)
        if lacks is None:
            state = {f'other.{key}': value for key, value in state.items()}
        else:
            del state[lacks]
        path = tmp_path / 'part.pth'
        torch.save(state, path)
        cfg = narrow('rs_weights', path)
        with pytest.raises(RuntimeError, match=re.escape(f'timm_model.{lacks or "blocks"}'[:20])):
            experiment.loaded(cfg)

    def test_another_file_is_another_setting(self, folder, small_weights, quick_dumps):
        before = row_config('rs_weights', root=f'{folder}/', weights=small_weights)
        out = folder.parent / 'out/rs_weights/seed3'
        out.mkdir(parents=True)
        out.with_suffix('.py').write_text(before.pretty_text)
        (out / 'result.json').write_text('{}')
        start(folder, '--weights', small_weights, rows=['rs_weights'])
        torch.save({'norm.weight': torch.zeros(2)}, small_weights)
        with pytest.raises(RuntimeError, match='other settings'):
            start(folder, '--weights', small_weights, rows=['rs_weights'])

    def test_one_seed_is_enough(self, folder, small_weights, monkeypatch):
        done = []
        monkeypatch.setattr(
            'runs.run_one', lambda cfg, folder, *_: done.append((folder.parent.name, folder.name))
        )
        start(folder, '--weights', small_weights, rows=None, seeds=(5, 7))
        from_weights = {(name, seed) for name, seed in done if name not in SCRATCH}
        assert from_weights == {(name, 'seed5') for name in ROWS if name not in SCRATCH}
        assert len(done) == len(set(done)) == len(from_weights) + 2 * len(SCRATCH)

    def test_rows_without_them_are_left_out(self, folder, monkeypatch, capsys):
        done = []
        monkeypatch.setattr('runs.run_one', lambda cfg, folder, *_: done.append(folder.parent.name))
        start(folder, rows=None)
        assert done == SCRATCH
        assert "'rs_weights'" in capsys.readouterr().out


class TestRefuses:
    @pytest.mark.parametrize(
        'missing',
        ['annotations/instances_train.json', 'annotations/instances_val.json', 'train', 'val'],
    )
    def test_a_folder_that_lacks_something(self, missing, folder):
        path = folder / missing
        path.unlink() if path.is_file() else path.rmdir()
        with pytest.raises(SystemExit, match=missing):
            start(folder, rows=['rs'])

    def test_other_arguments(self, folder):
        with pytest.raises(SystemExit, match="'nothing'"):
            start(folder, rows=['nothing', 'rs'])
        with pytest.raises(SystemExit, match="'rs_weights'.*--weights"):
            start(folder, rows=['rs', 'rs_weights'])
        with pytest.raises(SystemExit, match='absent.pth'):
            start(folder, '--weights', 'absent.pth', rows=['rs'])
        with pytest.raises(SystemExit, match='run'):
            run_script(TOOL, 'report', '--dataset', 'chess', '--work-dir', folder)

    @pytest.mark.parametrize('lines', [[], [(10, 0.1)], [(10, 0.1), (30, 0.2)]])
    def test_a_last_epoch_without_numbers(self, lines, tmp_path, monkeypatch):
        monkeypatch.setattr('runs.call', lambda *args, **kwargs: None)
        log = tmp_path / '1/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        text = [json.dumps({'coco/bbox_mAP': ap, 'step': epoch}) for epoch, ap in lines]
        log.write_text('\n'.join([*text, json.dumps({'step': 40, 'loss': 1.0})]))
        with pytest.raises(RuntimeError, match='epoch 40 has no coco/bbox_mAP'):
            experiment.shared.train(tmp_path / 'c.py', tmp_path, 'coco/bbox_mAP', 40)


def test_goes_on_and_reports(folder, capsys, quick_dumps):
    """Runs that are there are not done again, under the same settings."""
    out = folder.parent / 'out'
    made = {'plain': (0.25, 0.35), 'rs': (0.2, 0.26), 'peyolos_mi2': (0.125, 0.125)}
    for name, aps in made.items():
        for seed, ap in enumerate(aps):
            run = out / name / f'seed{seed}'
            run.mkdir(parents=True)
            cfg = row_config(name, root=f'{folder}/', seed=seed)
            run.with_suffix('.py').write_text(cfg.pretty_text)
            result = dict(ap=ap, ap50=2 * ap, ap75=ap / 2, seconds=1800, epochs=40, weights=None)
            result['environment'] = dict(torch=f'2.{seed}')
            (run / 'result.json').write_text(json.dumps(result))
    start(folder, rows=made, seeds=(0, 1))
    capsys.readouterr()
    options = ('--dataset', 'bccd', '--profile', 'cpu', '--work-dir', out)
    run_script(TOOL, 'report', *options)
    text = capsys.readouterr().out
    plain = '| plain ViT |  | 0.300 ± 0.071 |  | 0.600 ± 0.141 | 0.150 ± 0.035 | 2 | 40 |'
    assert plain in text
    assert '| RS | `shuffle` | 0.230 ± 0.042 | -0.070 | 0.460 ± 0.085 |' in text
    assert '| RS + center | `center+shuffle` | not run |' in text
    # Without what it is compared with.
    assert '| PEYOLOS, MI, g = 2 | `mix2` | 0.125 ± 0.000 |  |' in text
    assert 'torch 2.0 / 2.1' in text and '3.0 hours' in text and 'weights:' not in text
    settings = out / 'rs/seed1.py'
    settings.write_text(settings.read_text().replace('0.001', '0.002'))
    with pytest.raises(RuntimeError, match=re.escape(str(settings))):
        start(folder, rows=made, seeds=(0, 1))


@pytest.mark.trial
def test_a_run(data_root, tmp_path):
    """RS on eight images, and then what is there is not done again."""
    if not (data_root / 'bccd').is_dir():
        pytest.skip('no BCCD among the real images')
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        (tmp_path / split).symlink_to(data_root / 'bccd' / split)
        name = f'annotations/instances_{split}.json'
        coco = json.loads((data_root / 'bccd' / name).read_text())
        coco['images'] = coco['images'][:8]
        ids = {image['id'] for image in coco['images']}
        coco['annotations'] = [ann for ann in coco['annotations'] if ann['image_id'] in ids]
        (tmp_path / name).write_text(json.dumps(coco))
    options = ('--dataset', 'bccd', '--profile', 'cpu', '--work-dir', tmp_path / 'out')
    call = (TOOL, 'run', '--data-root', tmp_path, '--rows', 'rs', '--seeds', '3', *options)
    run_tools(call)
    path = tmp_path / 'out/rs/seed3/result.json'
    before, result = path.stat().st_mtime_ns, json.loads(path.read_text())
    assert [epoch for epoch, _ in result['curve']] == [10, 20, 30, 40]
    assert result['curve'][-1][1] == result['ap'] <= result['ap50'] <= 1
    assert result['environment']['torch'] == torch.__version__
    assert Config.fromfile(tmp_path / 'out/rs/seed3.py').randomness.seed == 3
    _, text = run_tools(call, (TOOL, 'report', *options))
    assert path.stat().st_mtime_ns == before
    assert f'| RS | `shuffle` | {result["ap"]:.3f} |' in text
