# As paper_mi.py, but the mixed sub-patch is repeated, so that the image keeps
# its size: for models with a patch embedding of stride 16
# (`input_form='full'` in hime_mm's backbones).
encrypt = dict(type='hime_mm.Encrypt', cipher='mix2:tiled', patch_size=16, fit='resize')
# For whoever evaluates in the originals, as the owner can.
encrypt_owner = dict(**encrypt, keep_permutation=True)
