# DeiT-Ti with the mixed patch embedding on mixed-up patches (MI, g = 2, compact),
# encrypted on the device after Mixup and CutMix. MI keeps the order of the
# patches and their means, so that a mosaic of the image remains.
_base_ = ['./deit-tiny_plain_4xb256-300e_in1k.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='mix2')
model = dict(
    backbone=dict(type='hime_mm.PEViT', pos_encoding='learned', patch_embed='mixed', num_splits=2)
)
