# DINO on DINOv2-S, laid out as LW-DETR: a plain ViT, a projector of four of its
# layers to strides of 8 and 32 (of the originals), three layers of DINO's
# decoder, no encoder. For images whose patches stay in place.
dims = 256
num_levels = 2
model = dict(
    type='hime_mm.PEDINO',
    num_queries=300,
    with_box_refine=True,
    as_two_stage=True,
    num_feature_levels=num_levels,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        # Two patches, each of 8 pixels in a compact MI image.
        pad_size_divisor=16,
    ),
    backbone=dict(
        type='hime_mm.TIMMPEViT',
        # timm downloads it; `checkpoint_path=PATH` with `pretrained=False`
        # names a file in its place. Its patch embedding is resampled.
        model_name='vit_small_patch14_dinov2.lvd142m',
        pretrained=True,
        # Where the learned positions are defined; any other size works.
        img_size=(400, 672),
        patch_size=8,
        pos_encoding='learned',
        drop_path_rate=0.1,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
    ),
    neck=dict(
        type='hime_mm.ViTProjector', in_channels=[384] * 4, out_channels=dims, scales=(2, 0.5)
    ),
    decoder=dict(
        num_layers=3,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=dims, num_levels=num_levels, dropout=0.0),
            ffn_cfg=dict(embed_dims=dims, feedforward_channels=2048, ffn_drop=0.0),
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=dims // 2, normalize=True),
    bbox_head=dict(
        type='DINOHead',
        num_classes=80,
        sync_cls_avg_factor=True,
        # A class is as sure as its box is good, as in LW-DETR.
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=300),
)
