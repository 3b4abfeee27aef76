# The plain twin: DeiT-B on ImageNet-1k. What encryption costs is measured against
# it; the other configs of this size change its cipher and backbone only.
_base_ = ['../_base_/deit_300e_in1k.py']

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
train_dataloader = dict(batch_size=64)
