# The DeiT recipe on ImageNet-1k, for DeiT-S: MMPretrain's config, and what it
# leaves out, repeated augmentation, drop path, EMA and the short warm-up.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']

model = dict(backbone=dict(drop_path_rate=0.1))
train_dataloader = dict(sampler=dict(_delete_=True, type='RepeatAugSampler', shuffle=True))
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
# Tokens that other backbones have are no weights either.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.reference': dict(decay_mult=0.0),
            '.dist_token': dict(decay_mult=0.0),
            '.reg_token': dict(decay_mult=0.0),
        }
    )
)
# 5e-4 for each 512 images of the batch, whatever the GPUs. `eta_min` stays:
# lower it for batches of less than 64.
auto_scale_lr = dict(base_batch_size=1024, enable=True)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3),
    # MMPretrain's own hook draws the batch before it is encrypted.
    visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
    # Stops a run that other tools start, where plain images would pass.
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
