# The plain twin: DeiT-S on ImageNet-1k. What encryption costs is measured against
# it; the other configs of this size change its cipher and backbone only.
_base_ = ['../_base_/deit_300e_in1k.py']
