# The plain twin: a small ViT with 4-pixel patches on CIFAR-10, from scratch on
# one GPU, or a CPU with patience. The data set is downloaded by MMPretrain.
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/schedules/adamw_100e.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=192, num_layers=9, num_heads=6, feedforward_channels=384),
        img_size=32,
        patch_size=4,
    ),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128, num_workers=4)
val_dataloader = dict(batch_size=256, num_workers=4)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=200)

default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    # MMPretrain's own hook draws the batch before it is encrypted.
    visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
    # Stops a run that other tools start, where plain images would pass.
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
