# A small PEYOLOS from scratch on the MI-encrypted demo data set, for two CPU
# cores, beside the detectors of `make demo`, which makes the data.
_base_ = ['./petoken_mi2_demo.py']

size = 160
dims = 128
model = dict(
    _delete_=True,
    type='hime_mm.PEYOLOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=dims, num_layers=4, num_heads=4, feedforward_channels=4 * dims),
        img_size=size,
        patch_embed='mixed',
        pos_encoding='learned',
        # From random positions the same schedule learns hardly anything.
        pos_init='sincos',
        num_det_tokens=12,
        out_type='det_tokens',
    ),
    bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=5, embed_dims=dims),
)

# An epoch is ten rounds through the 400 images, 250 iterations.
max_epochs = 12
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
train_cfg = dict(max_epochs=max_epochs)
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
