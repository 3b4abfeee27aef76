# PEViT-S without any position on shuffled patches (RS), encrypted on the
# device.
_base_ = ['./deit-small_plain_4xb256-300e_in1k.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='none'))
