# DINOv2-S fine-tuned on any folder of hardened pictures, sorted into one folder
# per class: data/custom/{train,val}/CLASS/*. The owner's commands:
#   hime encrypt folder data/custom/train data/custom_hardened/train \
#       -c center+erode2+shuffle --patch-size 14 --key hime.key \
#       --short-side 256 --center-crop 224x224
#   hime encrypt folder data/custom/val data/custom_hardened/val \
#       -c center+erode2+shuffle --patch-size 14 --key hime.key \
#       --short-side 256 --center-crop 224x224
# `hime info data/custom_hardened/train` says what to normalize by. Weights that
# tools/adapt.py wrote for the cipher go in the place of timm's, with the mean and
# std that it printed, here and in `warm_start`:
#   model.backbone.pretrained=False model.backbone.init_cfg.type=Pretrained
#   model.backbone.init_cfg.checkpoint=adapted.pth
_base_ = ['mmpretrain::_base_/default_runtime.py', '../_base_/schedules/finetune_20e.py']

data_root = 'data/custom_hardened/'
num_classes = 10
mean = [128.0, 128.0, 128.0]
std = [28.0, 28.0, 28.0]

data_preprocessor = dict(num_classes=num_classes, mean=mean, std=std, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='hime_mm.TIMMPEViT',
        model_name='vit_small_patch14_dinov2.lvd142m',
        pretrained=True,
        # 2 of 14 pixels dropped at each side.
        patch_size=10,
        pos_encoding='none',
        drop_path_rate=0.1,
        warm_start=dict(
            cipher='center+erode2+shuffle',
            patch_size=14,
            mean=mean,
            std=std,
            plain_mean=[123.675, 116.28, 103.53],
            plain_std=[58.395, 57.12, 57.375],
        ),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=num_classes,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1,),
    ),
)

# Patches keep their pixels: what may be done is to flip and to move them.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

# Stops a run that other tools start, where plain images would pass.
default_hooks = dict(encryption=dict(type='hime_mm.EncryptionCheckHook'))
