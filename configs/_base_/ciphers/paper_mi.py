# MI at the paper's settings: each 16-pixel patch becomes the average of its
# 2x2 sub-patches, stored small (compact). Keyless; the patch means are a mosaic
# in which faces are recognisable at detection sizes.
encrypt = dict(type='hime_mm.Encrypt', cipher='mix2', patch_size=16, fit='resize')
# For whoever evaluates in the originals, as the owner can.
encrypt_owner = dict(**encrypt, keep_permutation=True)
