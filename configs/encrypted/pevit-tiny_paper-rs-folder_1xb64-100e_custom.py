# PEViT-Tiny with RPE from scratch on any folder of shuffled pictures, sorted
# into one folder per class: data/custom/{train,val}/CLASS/*. For one GPU, or a
# few thousand small pictures on a CPU. The owner's commands:
#   hime encrypt folder data/custom/train data/custom_paper-rs/train \
#       -c paper-rs --key hime.key --short-side 144 --center-crop 144x144
#   hime encrypt folder data/custom/val data/custom_paper-rs/val \
#       -c paper-rs --key hime.key --short-side 144 --center-crop 144x144
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py']

data_root = 'data/custom_paper-rs/'
num_classes = 10

model = dict(
    backbone=dict(type='hime_mm.PEViT', img_size=144, pos_encoding='rpe'),
    head=dict(num_classes=num_classes),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=16),
        ]
    ),
)
data_preprocessor = dict(num_classes=num_classes)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    # So that Mixup brings other patches together in every epoch.
    dict(type='hime_mm.PatchReshuffle'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='val',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

max_epochs = 100
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]

# Stops a run that other tools start, where plain images would pass.
default_hooks = dict(encryption=dict(type='hime_mm.EncryptionCheckHook'))
