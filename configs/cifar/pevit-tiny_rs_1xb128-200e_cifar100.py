# PEViT with RPE on CIFAR-100 with 4-pixel patches shuffled (RS), encrypted on the
# device.
_base_ = ['./vit-tiny_plain_1xb128-200e_cifar100.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle', patch_size=4)
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'))
