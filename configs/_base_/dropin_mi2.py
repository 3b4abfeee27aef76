# What the detectors of MMDetection need to train on compact MI (g = 2), for files
# whose first base is one of MMDetection's configs: parts to put in, as
# `{{_base_.mi2.vit}}`. All that is counted in pixels of the image halves.
_base_ = ['./ciphers/paper_mi.py']

_load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
_load_masks = [_load[0], dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
_augment = [
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
]
_scales = [(side, 1333) for side in range(480, 801, 32)]
_augment_detr = [
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=_scales, keep_ratio=True)],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 4200), (500, 4200), (600, 4200)],
                    keep_ratio=True,
                ),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                dict(type='RandomChoiceResize', scales=_scales, keep_ratio=True),
            ],
        ],
    ),
]
# The last thing that happens to an image.
_encrypt = [{{_base_.encrypt}}]
_pack = [dict(type='PackDetInputs')]
_test = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    *_encrypt,
    # Which are in the original scale at test time.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
_pyramid = dict(
    _delete_=True,
    type='hime_mm.SimpleFeaturePyramid',
    in_channels=384,
    out_channels=256,
    num_outs=5,
)
mi2 = dict(
    preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    # DeiT-S; its one map has stride 8.
    vit=dict(
        _delete_=True,
        type='hime_mm.PEViT',
        arch='deit-small',
        patch_embed='mixed',
        pos_encoding='learned',
        drop_path_rate=0.1,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/'
            'deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
            prefix='backbone.',
        ),
    ),
    # Strides 4, 8, 16, 32, 64 and 2, 4, 8, 16, 32.
    pyramid=dict(_pyramid, scale_factors=(2.0, 1.0, 0.5)),
    fine_pyramid=dict(_pyramid, scale_factors=(4.0, 2.0, 1.0, 0.5)),
    fine_rpn=dict(anchor_generator=dict(strides=[2, 4, 8, 16, 32])),
    fine_rois=dict(featmap_strides=[2, 4, 8, 16], finest_scale=28),
    train=dict(dataset=dict(pipeline=[*_load, *_augment, *_encrypt, *_pack])),
    train_masks=dict(dataset=dict(pipeline=[*_load_masks, *_augment, *_encrypt, *_pack])),
    train_detr=dict(dataset=dict(pipeline=[*_load, *_augment_detr, *_encrypt, *_pack])),
    test=dict(dataset=dict(pipeline=_test)),
    # In place of SGD: a ViT is fine-tuned as ViTDet does it.
    optim=dict(
        _delete_=True,
        type='OptimWrapper',
        constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0),
        clip_grad=dict(max_norm=1.0, norm_type=2),
    ),
    hooks=dict(
        # MMDetection's own would read the image file again and show it in plain.
        visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
        encryption=dict(type='hime_mm.EncryptionCheckHook'),
    ),
)
