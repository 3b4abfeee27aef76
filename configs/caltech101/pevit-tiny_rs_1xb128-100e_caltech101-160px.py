# PEViT-Tiny with RPE on shuffled patches (RS), encrypted on the device. Other
# ciphers and their cost: tools/experiments/caltech101.py.
_base_ = ['./vit-tiny_plain_1xb128-100e_caltech101-160px.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'))
