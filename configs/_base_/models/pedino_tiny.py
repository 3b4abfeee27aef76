# The same with half of the ViT's blocks and one map of its stride, which a few
# hundred images train on a CPU core in half an hour.
_base_ = ['./pedino_small.py']
model = dict(
    num_queries=100,
    num_feature_levels=1,
    data_preprocessor=dict(pad_size_divisor=8),
    backbone=dict(out_indices=(1, 3, 5), drop_path_rate=0.0),
    neck=dict(in_channels=[384] * 3, scales=(1,)),
    decoder=dict(
        layer_cfg=dict(cross_attn_cfg=dict(num_levels=1), ffn_cfg=dict(feedforward_channels=1024))
    ),
    test_cfg=dict(max_per_img=100),
)
