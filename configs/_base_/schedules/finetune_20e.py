# Trained weights, 20 epochs: AdamW with layer-wise decay of the rate in the
# ViT, one epoch of warm-up, then a cosine. Batches are small: on few pictures
# steps count more than what each of them sees.
max_epochs = 20
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LearningRateDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.4e-4, weight_decay=0.05, betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
            '.reference': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=1,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = {}
test_cfg = {}
auto_scale_lr = dict(base_batch_size=8)
