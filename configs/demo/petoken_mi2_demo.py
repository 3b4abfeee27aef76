# MI: a small detector from scratch on the demo data set, mixed up in the
# pipeline, for two CPU cores: the first act of `make demo`, which makes the
# data. Patches stay in place, so positions are learned, and the head may
# suppress.
_base_ = [
    '../_base_/models/petoken_tiny.py',
    '../_base_/ciphers/paper_mi.py',
    '../_base_/default_runtime.py',
]

data_root = 'work_dirs/demo/data/'
metainfo = dict(classes=('person', 'cat', 'cup', 'coin', 'motorcycle'))
size = 160

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='Resize', scale=(size, size), keep_ratio=False)],
            [
                dict(
                    type='RandomCrop',
                    crop_type='relative_range',
                    crop_size=(0.7, 0.7),
                    allow_negative_crop=True,
                ),
                dict(type='Resize', scale=(size, size), keep_ratio=False),
            ],
        ],
    ),
    {{_base_.encrypt}},
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=False),
    {{_base_.encrypt}},
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=10,
        dataset=dict(
            type='CocoDataset',
            metainfo=metainfo,
            data_root=data_root,
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='train/'),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox'
)
test_evaluator = val_evaluator

model = dict(
    backbone=dict(
        arch=dict(num_layers=4), img_size=size, patch_embed='mixed', pos_encoding='learned'
    ),
    # A patch of 16 pixels is one of 8 in a compact MI image.
    bbox_head=dict(num_classes=5, patch_size=8),
    test_cfg=dict(
        score_thr=0.01, nms_pre=200, max_per_img=20, nms=dict(type='nms', iou_threshold=0.5)
    ),
)

# An epoch is ten rounds through the 400 images, 250 iterations.
max_epochs = 6
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best=None), logger=dict(interval=50))
randomness = dict(seed=0)
