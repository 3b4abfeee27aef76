# DINO's rates with layer-wise decay in the ViT, a mean of the weights over
# time, 50 epochs, the last step down at 44.
_base_ = ['./petoken_50e.py']
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4), clip_grad=dict(max_norm=0.1, norm_type=2)
)
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.0002,
        update_buffers=True,
        priority=49,
    )
]
