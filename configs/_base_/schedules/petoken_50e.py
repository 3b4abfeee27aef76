# AdamW with layer-wise decay of the rate and no weight decay on norms, as ViTDet
# fine-tunes plain ViTs; 50 epochs, the last step down at 44.
max_epochs = 50
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05, betas=(0.9, 0.999)),
    paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[37, 44], gamma=0.1
    ),
]
# 8 GPUs x 2 images; scaled by `tools/train.py --auto-scale-lr`.
auto_scale_lr = dict(enable=False, base_batch_size=16)
