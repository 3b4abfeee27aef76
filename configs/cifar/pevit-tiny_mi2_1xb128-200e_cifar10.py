# ViT with the mixed patch embedding on CIFAR-10 with 4-pixel patches mixed up
# (MI, g = 2), encrypted on the device.
_base_ = ['./vit-tiny_plain_1xb128-200e_cifar10.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='mix2', patch_size=4)
model = dict(
    backbone=dict(type='hime_mm.PEViT', pos_encoding='learned', patch_embed='mixed', num_splits=2)
)
