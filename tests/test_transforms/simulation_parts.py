# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Runs that collect what each image was encrypted with; also a run of its own."""

import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate, worker_init_fn
from mmengine.logging import MessageHub
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from hime_mm.ciphers import PatchLayout
from hime_mm.transforms import Encrypt, PatchReshuffle

SEED = 3
IMG = np.zeros((32, 32), np.uint8)
LAYOUT = PatchLayout(IMG.shape, 4, (8, 8))
names = itertools.count()


class Drawn(Dataset):
    """The permutations of its images, instead of these."""

    def __init__(self, kind='Encrypt', num=6):
        self.num = num
        self.transform = (
            Encrypt('shuffle', 4, randomness='numpy', keep_permutation=True)
            if kind == 'Encrypt'
            else PatchReshuffle(unshuffled='shuffle')
        )

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        results = self.transform(dict(img=IMG, patch_layout=LAYOUT))
        return results['patch_layout'].permutation


def both(num=6):
    """Two data sets in one loader, of both transforms that draw so."""
    return ConcatDataset([Drawn(num=num // 2), Drawn('PatchReshuffle', num - num // 2)])


def epochs(dataset, which=(0, 1), host=True, num_workers=2, **options):
    """What a run draws in some epochs, one row an image; loaders as MMEngine makes them."""
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    hub = MessageHub.get_instance(f'simulated{next(names)}')
    rank = 0  # of the seeds: those of the ranks are the same
    init = partial(worker_init_fn, num_workers=num_workers, rank=rank, seed=SEED)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        collate_fn=pseudo_collate,
        worker_init_fn=init if host else None,
        **options,
    )
    drawn = []
    for epoch in which:
        hub.update_info('epoch', epoch)
        for index, batch in enumerate(loader):
            hub.update_info('iter', epoch * len(loader) + index)
            drawn += batch
    return np.stack(drawn)


def assert_distinct(*runs):
    rows = np.concatenate(runs)
    assert len(np.unique(rows, axis=0)) == len(rows)


def train(folder, max_epochs, name, resume=False):
    """A run of MMEngine's runner in this process."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    drawn = []

    class Collects(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, data, mode):
            drawn.extend(data['img'])
            return dict(loss=self.weight**2)

    # A model takes batches that are dicts.
    Runner(
        model=Collects(),
        work_dir=str(folder),
        experiment_name=name,
        train_dataloader=dict(
            dataset=both(8),
            batch_size=2,
            num_workers=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type=collate),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        randomness=dict(seed=SEED),
        resume=resume,
        log_level='ERROR',
    ).train()
    return np.stack(drawn)


def collate(batch):
    return dict(data=dict(img=batch))


if __name__ == '__main__':
    out = Path(sys.argv[1])
    # The launchers of MMEngine want a GPU.
    torch.distributed.init_process_group('gloo')
    first = train(out / 'first', 2, 'first')
    again = train(out / 'again', 2, 'again')
    resumed = train(out / 'again', 3, 'resumed', resume=True)
    rank = torch.distributed.get_rank()
    np.savez(out / f'{rank}.npz', first=first, again=again, resumed=resumed)
    # Threads of gloo that are still there at the exit may abort it.
    torch.distributed.destroy_process_group()
