# YOLOS's own schedule, for a start from DeiT weights: 2.5e-5 for all, the
# new patch embedding 1e-4; no weight decay on the backbone's biases, norms and
# tokens.
max_epochs = 150
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2.5e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'backbone.cls_token': dict(decay_mult=0.0),
            'backbone.pos_embed': dict(decay_mult=0.0),
            'backbone.det_token': dict(decay_mult=0.0),
            'backbone.det_pos_embed': dict(decay_mult=0.0),
            'backbone.patch_embed': dict(lr_mult=4.0),
            'backbone.patch_embed.projection.bias': dict(lr_mult=4.0, decay_mult=0.0),
            'backbone.patch_embed.mapping.bias': dict(lr_mult=4.0, decay_mult=0.0),
            # The head's biases do decay.
            'bbox_head': dict(decay_mult=1.0),
        },
    ),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        eta_min=0,
    )
]
# 8 GPUs x 1 image; scaled by `tools/train.py --auto-scale-lr`.
auto_scale_lr = dict(enable=False, base_batch_size=8)
