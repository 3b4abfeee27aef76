# The plain twin on CIFAR-100: as on CIFAR-10.
_base_ = ['./vit-tiny_plain_1xb128-200e_cifar10.py']

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
model = dict(head=dict(num_classes=100))
_data = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=_data)
val_dataloader = dict(dataset=_data)
test_dataloader = dict(dataset=_data)
