# DINOv2-S with its positions on mixed-up patches (MI, g = 2), encrypted on the
# device. The embedding stays linear: the sum of those of the sub-patches.
_base_ = ['./vit-small-dinov2_plain_1xb8-20e_caltech101-224px.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='mix2', patch_size=14)
model = dict(
    backbone=dict(img_size=112, patch_size=7, warm_start=dict(cipher='mix2', patch_size=14))
)
