# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`keep_permutation=True`: it stays in the run, and reaches no dump, log or visualiser."""

import copy
import pickle
import pprint

import mmengine
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import collect_results
from mmengine.evaluator import DumpResults
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.visualization import BaseVisBackend
from owner_data import forms_of_permutation, found
from torch.utils.data import DataLoader

from hime_mm.transforms import Encrypt

DetDataSample = pytest.importorskip('mmdet.structures').DetDataSample
DataSample = pytest.importorskip('mmpretrain.structures').DataSample


def results(index):
    img = np.random.default_rng(index).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return dict(img=img, img_id=index, img_shape=(64, 64))


class Samples(torch.utils.data.Dataset):
    """Encrypted samples, and beside each its permutation as an array."""

    def __init__(self):
        self.encrypt = Encrypt('shuffle', 4, keep_permutation=True)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = self.encrypt(results(index))
        layout = sample['patch_layout']
        metainfo = dict(patch_layout=layout, layouts=[dict(layout=layout)])
        return dict(
            inputs=torch.tensor(sample['img']),
            data_samples=DetDataSample(metainfo=metainfo),
            permutation=layout.permutation,
        )


@pytest.mark.parametrize(
    'options',
    [
        dict(num_workers=0),
        dict(num_workers=2),
        dict(num_workers=1, persistent_workers=True, multiprocessing_context='fork'),
        pytest.param(dict(num_workers=1, multiprocessing_context='spawn'), marks=pytest.mark.slow),
        pytest.param(
            dict(num_workers=1, multiprocessing_context='forkserver'), marks=pytest.mark.slow
        ),
    ],
)
def test_it_comes_through_a_loader(options):
    seen = 0
    for batch in DataLoader(Samples(), batch_size=2, collate_fn=pseudo_collate, **options):
        for sample, perm in zip(batch['data_samples'], batch['permutation'], strict=True):
            layout = sample.patch_layout
            np.testing.assert_array_equal(layout.permutation, perm)
            np.testing.assert_array_equal(sample.layouts[0]['layout'].permutation, perm)
            boxes = [[1, 2, 7, 8], [40, 3, 60, 61]]
            np.testing.assert_allclose(layout.unmap_boxes(layout.map_boxes(boxes)), boxes)
            seen += 1
    assert seen == 4


@pytest.fixture(params=[DetDataSample, DataSample])
def sample(request):
    """A data sample of a host with the permutation of its image; its layout."""
    layout = Encrypt('shuffle', 4, keep_permutation=True)(results(0))['patch_layout']
    return request.param(metainfo=dict(img_id=0, patch_layout=layout)), layout


def test_it_stays_with_a_sample_that_is_copied(sample):
    sample, layout = sample
    for copied in (
        sample.clone(),
        sample.to('cpu'),
        sample.cpu(),
        sample.detach(),
        sample.numpy(),
        sample.new(),
        copy.copy(sample),
        copy.deepcopy(sample),
        copy.deepcopy([dict(sample=sample)])[0]['sample'],
        collect_results([sample], 1)[0],
    ):
        np.testing.assert_array_equal(copied.patch_layout.permutation, layout.permutation)


def test_it_is_not_shown(sample):
    sample, layout = sample
    shown = [repr(sample), str([sample]), pprint.pformat(sample.to_dict()), f'{sample.metainfo}']
    assert all('PatchLayout' in text for text in shown)
    assert not found(forms_of_permutation(layout.permutation), [s.encode() for s in shown])


def test_it_is_in_no_dump(sample, tmp_path):
    sample, layout = sample
    as_dict = dict(sample.to_dict(), patch_layout=layout)
    torch.save(dict(meta=dict(sample=sample)), tmp_path / 'a.pth')
    torch.save([sample], tmp_path / 'b.pth', _use_new_zipfile_serialization=False)
    mmengine.dump([as_dict], str(tmp_path / 'c.pkl'))
    kinds = [DumpResults]
    if isinstance(sample, DetDataSample):
        kinds.append(pytest.importorskip('mmdet.evaluation').DumpDetResults)
    for i, kind in enumerate(kinds):
        metric = kind(str(tmp_path / f'd{i}.pkl'))
        metric.process({}, [as_dict])
        metric.evaluate(1)
    # What a checkpoint takes of the message hub.
    hub = MessageHub('kept', {'a': HistoryBuffer([1], [1])}, {'sample': sample}, {'sample': True})
    torch.save(dict(message_hub=hub.state_dict()), tmp_path / 'e.pth')
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 4 + len(kinds)
    assert all(b'PatchLayout' in data for data in files.values())
    assert not found(forms_of_permutation(layout.permutation), files.values())
    again = pickle.loads(files['d0.pkl'])[0]['patch_layout']
    assert again.permutation is None and again.shuffled and again.needs_key
    # JSON has no form for it, YAML that of a pickle.
    with pytest.raises(TypeError, match='PatchLayout'):
        mmengine.dump([as_dict], str(tmp_path / 'f.json'))
    mmengine.dump([as_dict], str(tmp_path / 'f.yaml'))
    data = [path.read_bytes() for path in tmp_path.glob('f.*')]
    assert data and not found(forms_of_permutation(layout.permutation), data)


class Recorder(BaseVisBackend):
    """Keeps whatever a visualiser gives to its backends."""

    def __init__(self):
        self.given = []
        super().__init__('unused')

    def _init_env(self):
        pass

    experiment = None

    def add_image(self, *args, **kwargs):
        self.given.append((args, kwargs))

    add_config = add_graph = add_scalar = add_scalars = add_image


def test_it_reaches_no_visualiser(sample):
    sample, layout = sample
    det = isinstance(sample, DetDataSample)
    host = pytest.importorskip('mmdet.visualization' if det else 'mmpretrain.visualization')
    visualizer = (host.DetLocalVisualizer if det else host.UniversalVisualizer)()
    recorder = Recorder()
    visualizer._vis_backends = dict(a=recorder)
    img = np.zeros((64, 64, 3), np.uint8)
    if det:
        visualizer.add_datasample('a', img, sample)
    else:
        visualizer.visualize_cls(img, sample.set_gt_label(1), name='a')
    assert len(recorder.given) == 1
    contents = [pickle.dumps(recorder.given), repr(recorder.given).encode()]
    assert not found(forms_of_permutation(layout.permutation), contents)
