# PEViT-Small with RPE, trained from a folder of shuffled ImageNet, with
# MMPretrain's own data set. The owner's commands; `--views` gives random crops,
# which cannot be drawn after encryption, at so many times the files:
#   hime encrypt folder data/imagenet/train data/imagenet_paper-rs/train \
#       -c paper-rs --key hime.key --resize 224x224 --crop 0.08,1 --views 4
#   hime encrypt folder data/imagenet/val data/imagenet_paper-rs/val \
#       -c paper-rs --key hime.key --short-side 256 --center-crop 224x224
# with the images of val/ sorted into the folders of their classes. Where they
# lie flat, encrypt data/imagenet as one with `--list meta/val.txt`.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']

model = dict(
    backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'),
    # The edges of a rectangle, as CutMix pastes it, would run through patches.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=16),
        ]
    ),
)

data_root = 'data/imagenet_paper-rs'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    # Mirrors every patch, and the places of all: one more shuffled image.
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    # For what recolours in DeiT's RandAugment, and for its random erasing.
    dict(type='hime_mm.EncryptedColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type='hime_mm.PatchDrop', ratio=(0.02, 0.33), prob=0.25),
    # PEViT does not mind the order, but so Mixup brings other patches together
    # in every epoch.
    dict(type='hime_mm.PatchReshuffle'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

# Stops a run that other tools start, where plain images would pass.
default_hooks = dict(encryption=dict(type='hime_mm.EncryptionCheckHook'))
