# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Test a detector or a classifier."""

import argparse
import os
import os.path as osp

import mmengine
from mmengine.config import DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from hime_mm.apis import check_config, force_safe_loading
from hime_mm.config import load_config, use_tta
from hime_mm.config.options import add_cipher_options, encrypt_as_asked


def parse_args():
    parser = argparse.ArgumentParser(description='Test a detector or a classifier')
    parser.add_argument(
        'config', help='test config file path, or one of a package: mmdet::…, mmpretrain::…'
    )
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='the directory for logs and evaluation metrics')
    parser.add_argument(
        '--out',
        help='dump predictions (.pkl), or with --out-item=metrics the '
        'metrics (.json, .yaml or .pkl), to this file',
    )
    parser.add_argument(
        '--out-item', choices=['pred', 'metrics'], default='pred', help='what --out gets'
    )
    parser.add_argument('--show', action='store_true', help='show prediction results')
    parser.add_argument(
        '--show-dir',
        help='folder for painted images, below work_dir/timestamp; they show '
        'what the model saw, never the plain file',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='the interval of show (s)')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation by the config's tta_model and "
        'tta_pipeline; flip before encrypting there',
    )
    add_cipher_options(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value pairs such as '
        'test_dataloader.batch_size=2; a list is written key="[a,b]" or '
        'key=a,b, nested key="[(a,b),(c,d)]", an entry of a list '
        'key.0.name=value',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes `--local-rank`.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    if 'LOCAL_RANK' not in os.environ:
        os.environ['LOCAL_RANK'] = str(args.local_rank)
    if args.out and args.out_item == 'pred' and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: predictions go to a .pkl file')
    return args


def merge_args(cfg, args):
    """Let the command line override the config."""
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    # Command line first, then the config, then the config's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir', None) is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    cfg.load_from = args.checkpoint
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.tta:
        cfg = use_tta(cfg)
    return cfg


def show(cfg, args):
    """Turn the visualization hook on, whichever it is."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise RuntimeError(
            '--show and --show-dir need '
            '`default_hooks.visualization=dict(type='
            f"'hime_mm.EncryptedVisualizationHook')` in "
            f'{args.config}'
        )
    name = getattr(hook.type, '__name__', hook.type)
    mmpretrain = name.split('.')[-1] == 'VisualizationHook'
    hook['enable' if mmpretrain else 'draw'] = True
    hook.show = args.show
    hook.wait_time = args.wait_time
    if args.show_dir:
        hook['out_dir' if mmpretrain else 'test_out_dir'] = args.show_dir
    return cfg


def main():
    args = parse_args()
    force_safe_loading()
    cfg = encrypt_as_asked(merge_args(load_config(args.config), args), args)
    cfg = check_config(cfg)
    if args.show or args.show_dir:
        cfg = show(cfg, args)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    if args.out and args.out_item == 'pred':
        if cfg.get('default_scope') == 'mmdet':
            from mmdet.evaluation import DumpDetResults as DumpResults
        else:
            from mmengine.evaluator import DumpResults
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    main()
