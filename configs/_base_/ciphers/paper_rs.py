# RS at the paper's settings: every 16-pixel patch moves to a random slot,
# drawn anew for each image. A jigsaw solver without the key put 97.5 % of the
# neighbouring patches back at 224x224: it hides the layout from a glance.
encrypt = dict(type='hime_mm.Encrypt', cipher='shuffle', patch_size=16, fit='resize')
# For whoever evaluates in the originals, as the owner can.
encrypt_owner = dict(**encrypt, keep_permutation=True)
