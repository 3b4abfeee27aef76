# PEViT-B without any position on shuffled patches (RS), encrypted on the
# device. The paper reports its 78.7 for PEViT-B like this.
_base_ = ['./deit-base_plain_16xb64-300e_in1k.py']

data_preprocessor = dict(
    type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='none'))
