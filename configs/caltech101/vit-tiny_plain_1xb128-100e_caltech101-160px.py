# The plain twin: DeiT-Ti from scratch on 160-pixel crops of Caltech-101, one
# GPU. What encryption costs is measured against it.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/datasets/caltech101_160.py',
    '../_base_/schedules/adamw_100e.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch='deit-tiny', img_size=160, patch_size=16),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=101,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]),
)

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    # MMPretrain's own hook draws the batch before it is encrypted.
    visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
    # Stops a run that other tools start, where plain images would pass.
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
