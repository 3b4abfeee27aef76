# PEYOLOS-Small: DeiT-S with the mixed patch embedding, 100 detection tokens.
model = dict(
    type='hime_mm.PEYOLOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        # A patch of 16 pixels is one of 8 in a compact MI image.
        pad_size_divisor=8,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch='deit-small',
        # Where the learned positions are defined; any other size works.
        img_size=(512, 864),
        patch_size=16,
        patch_embed='mixed',
        num_splits=2,
        input_form='compact',
        pos_encoding='learned',
        num_det_tokens=100,
        out_type='det_tokens',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/'
            'deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
            prefix='backbone.',
        ),
    ),
    bbox_head=dict(
        type='hime_mm.DetTokenHead',
        num_classes=80,
        embed_dims=384,
        loss_cls=dict(
            type='CrossEntropyLoss', bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)
