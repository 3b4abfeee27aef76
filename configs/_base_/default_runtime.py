_base_ = ['mmdet::_base_/default_runtime.py']

# MMDetection's own hook would read the image file again and log it in plain.
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto'),
    visualization=dict(_delete_=True, type='hime_mm.EncryptedVisualizationHook'),
    # Stops a run that other tools start, where plain images would pass.
    encryption=dict(type='hime_mm.EncryptionCheckHook'),
)
