# PEViT-Tiny with RPE on patches without their mean and border, shuffled: a
# hardened setting, encrypted on the device. A jigsaw solver put 11.9 % of the
# neighbouring patches back at 224x224; learned solvers do better.
_base_ = ['./vit-tiny_plain_1xb128-100e_caltech101-160px.py']

data_preprocessor = dict(
    type='hime_mm.EncryptClsDataPreprocessor',
    cipher='center+erode2+shuffle',
    # The statistics of such images: the means are gone.
    mean=[128.0, 128.0, 128.0],
    std=[37.0, 37.0, 37.0],
)
model = dict(
    backbone=dict(
        type='hime_mm.PEViT',
        pos_encoding='rpe',
        # 2 of 16 pixels dropped at each side.
        patch_size=12,
        img_size=120,
    )
)
