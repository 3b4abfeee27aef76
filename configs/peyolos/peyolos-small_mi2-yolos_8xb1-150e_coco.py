# The rates of the paper's code, for a start from trained YOLOS-S weights: 1e-5
# for all, heads included, the new patch embedding 1e-4. Name the weights with
#   --cfg-options load_from=PATH
# a checkpoint of the linear twin, peyolos-small_plain_8xb1-150e_coco.py, or a
# YOLOS-S of its authors or of Hugging Face, whose names are understood. Those
# have positions for every layer: add model.backbone.mid_positions=True. To see
# what is taken over, or for a .safetensors file, convert them first with
# tools/model_converters/convert.py, see docs/weights.md.
_base_ = ['../hime_vit_coco.py']

model = dict(backbone=dict(init_cfg=None))
optim_wrapper = dict(
    optimizer=dict(lr=1e-5),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.patch_embed': dict(lr_mult=10.0),
            'backbone.patch_embed.projection.bias': dict(lr_mult=10.0),
            'backbone.patch_embed.mapping.bias': dict(lr_mult=10.0),
        }
    ),
)
