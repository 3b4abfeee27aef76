# PEViT-Tiny without any position on shuffled patches (RS), encrypted on the
# device.
_base_ = ['./vit-tiny_plain_1xb128-100e_caltech101-160px.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='none'))
