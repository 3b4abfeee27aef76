# The plain twin: DINOv2-S fine-tuned on Caltech-101, one GPU. What encryption
# costs is measured against it.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/datasets/caltech101_224.py',
    '../_base_/schedules/finetune_20e.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='hime_mm.TIMMPEViT',
        # timm downloads it; `checkpoint_path=PATH` with `pretrained=False`
        # names a file in its place.
        model_name='vit_small_patch14_dinov2.lvd142m',
        pretrained=True,
        img_size=224,
        patch_size=14,
        pos_encoding='learned',
        drop_path_rate=0.1,
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=101,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    # MMPretrain's own hook draws the batch before it is encrypted.
    visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
    # Stops a run that other tools start, where plain images would pass.
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
