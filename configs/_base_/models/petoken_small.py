# DeiT-S without positions, whose head reads each patch token by itself: for
# images whose patches have moved.
model = dict(
    type='hime_mm.PESingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch='deit-small',
        patch_size=16,
        pos_encoding='rpe',
        drop_path_rate=0.1,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/'
            'deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
            prefix='backbone.',
        ),
    ),
    bbox_head=dict(
        type='hime_mm.PatchTokenHead',
        num_classes=80,
        in_channels=384,
        patch_size=16,
        loss_bbox=dict(type='mmdet.GIoULoss', loss_weight=2.0),
    ),
    # No `nms`: neighbours are not neighbours here. The evaluator suppresses in
    # coordinates of the originals.
    test_cfg=dict(score_thr=0.01, nms_pre=1000, max_per_img=300),
)
