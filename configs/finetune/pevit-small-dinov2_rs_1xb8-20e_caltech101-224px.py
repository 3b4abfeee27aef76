# DINOv2-S without positions on shuffled patches (RS), encrypted on the device.
_base_ = ['./vit-small-dinov2_plain_1xb8-20e_caltech101-224px.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle', patch_size=14)
model = dict(backbone=dict(pos_encoding='none', img_size=None))
