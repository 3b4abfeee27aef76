# PEViT-Ti with RPE on shuffled patches (RS), encrypted on the device after
# Mixup and CutMix, as in the paper's code. RS hides the layout from a glance: a
# jigsaw solver put 97.5 % of the neighbouring patches back at 224x224.
_base_ = ['./deit-tiny_plain_4xb256-300e_in1k.py']

data_preprocessor = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'))
