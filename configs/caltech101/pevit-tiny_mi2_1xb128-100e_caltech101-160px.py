# DeiT-Ti with the mixed patch embedding on mixed-up patches (MI, g = 2),
# encrypted on the device.
_base_ = ['./vit-tiny_plain_1xb128-100e_caltech101-160px.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='mix2')
model = dict(
    backbone=dict(type='hime_mm.PEViT', pos_encoding='learned', patch_embed='mixed', num_splits=2)
)
