# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Two ranks give what one gives."""

import json

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from evaluation_parts import (
    ANN,
    NAMES,
    detect,
    encrypted,
    make_scenes,
    owner_key,
    read,
    simulate,
    travelled,
    with_predictions,
)
from test_slot_metric import loaded
from tiny_training import free_port

from hime_mm.evaluation.metrics import OriginalCocoMetric, SlotCocoMetric


def numbers(root, rank, size):
    """What a rank sees of the scenes; the permutations differ from run to run."""
    scenes, folder = root / 'scenes', root / 'folder'
    found, given = detect(read(scenes), 3), detect(read(folder), 3)
    simulated = [
        with_predictions(
            sample, travelled(sample, found[sample.img_id][0]), *found[sample.img_id][1:]
        )
        for sample in simulate(scenes, 'shuffle')
    ]
    files = loaded(folder, given)
    results = []
    for metric, samples in (
        (OriginalCocoMetric(str(scenes / ANN), classwise=True), simulated),
        (OriginalCocoMetric(str(scenes / ANN), key=str(root / 'owner.key')), files),
        (SlotCocoMetric(str(folder / ANN)), files),
    ):
        metric.dataset_meta = dict(classes=NAMES)
        # As a sampler deals them out.
        for sample in samples[rank::size]:
            metric.process({}, [sample])
        results.append(metric.evaluate(len(samples)))
    return results


def work(rank, root, port):
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    (root / f'{rank}.json').write_text(json.dumps(numbers(root, rank, 2)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks(tmp_path):
    encrypted(make_scenes(tmp_path / 'scenes', 5), tmp_path / 'folder')
    owner_key(tmp_path)
    alone = numbers(tmp_path, 0, 1)
    mp.spawn(work, (tmp_path, free_port()), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == alone
    assert all(result['coco/bbox_mAP_50'] > 0.1 for result in alone)
