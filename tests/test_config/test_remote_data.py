# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted data sets at URLs are no local folders that are missing."""

import pytest
from config_parts import LOAD, META, warnings_of
from mmengine.config import Config

from hime_mm.config import check_config


@pytest.mark.parametrize(
    'data, step, place',
    [
        (dict(data_root='s3://b/data/', data_prefix='train'), {}, 's3://b/data/train'),
        (dict(data_prefix=dict(img='http://h/data/train/')), {}, 'http://h/data/train/'),
        (dict(data_root='data/', data_prefix='train'), dict(manifest='s3://b/data'), 's3://b/data'),
        (
            dict(data_root='data', data_prefix='train'),
            dict(backend_args=dict(backend='petrel')),
            'data/train',
        ),
    ],
)
def test_are_told_to_be_unchecked(data, step, place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pipeline = [LOAD, dict(META, **step), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', pipeline=pipeline, **data)
    cfg = Config(
        dict(
            model=dict(type='ImageClassifier', backbone=dict(type='hime_mm.PEViT')),
            train_dataloader=dict(dataset=dataset),
        )
    )
    with warnings_of() as lines:
        check_config(cfg)
    (line,) = (line for line in lines if 'was not checked' in line)
    assert f'{place} is no local folder' in line
    assert not any(tmp_path.iterdir())
