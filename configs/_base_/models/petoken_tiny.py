# A small position-free ViT from scratch, 6 layers of width 128, and a head
# that reads each patch token by itself: a data set of hundreds of images, in
# minutes on a CPU core.
dims = 128
model = dict(
    type='hime_mm.PESingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=dims, num_layers=6, num_heads=4, feedforward_channels=4 * dims),
        patch_size=16,
        pos_encoding='rpe',
        pos_init='sincos',
        out_type='featmap',
    ),
    bbox_head=dict(
        type='hime_mm.PatchTokenHead',
        num_classes=80,
        in_channels=dims,
        feat_channels=dims,
        patch_size=16,
    ),
)
