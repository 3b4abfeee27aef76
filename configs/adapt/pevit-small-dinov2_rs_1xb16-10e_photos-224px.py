# DINOv2-S adapted to shuffled patches (RS) on any folder of plain photos that
# are public, without labels: data/photos/**. The student has no positions; its
# weights are those of `backbone.` in the checkpoint, or what tools/adapt.py
# writes.
_base_ = ['mmpretrain::_base_/default_runtime.py']

data_root = 'data/photos/'
model_name = 'vit_small_patch14_dinov2.lvd142m'
crop = 224
max_epochs = 10

vit = dict(
    type='hime_mm.TIMMPEViT', model_name=model_name, pretrained=True, patch_size=14, out_type='raw'
)
model = dict(
    type='hime_mm.ShuffleDistillation',
    data_preprocessor=dict(
        type='hime_mm.DistillDataPreprocessor',
        cipher='shuffle',
        patch_size=14,
        # Public images: a simulation that a resumed run repeats.
        seed=0,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(pos_encoding='none', **vit),
    teacher=dict(pos_encoding='learned', img_size=crop, **vit),
)
train_dataloader = dict(
    # Few pictures want many steps.
    batch_size=16,
    num_workers=4,
    # Workers that start anew draw the same in a run that is resumed.
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='RandomResizedCrop',
                scale=crop,
                crop_ratio_range=(0.35, 1.0),
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
optim_wrapper = dict(
    type='OptimWrapper',
    # At one rate for all layers a short training forgets more than it learns.
    constructor='LearningRateDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05, betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        layer_decay_rate=0.8, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=16)
# Also the order of the pictures is that of a run that was never stopped.
randomness = dict(seed=0)
custom_hooks = [dict(type='hime_mm.EpochSeedHook')]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1, max_keep_ckpts=1),
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
