# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The shell scripts that start several processes, with stand-ins for what they start."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from scripts import ROOT
from tiny_training import free_port, write_training

# Writes down how it was called.
RECORD = """#!{python}
import json, os, sys
seen = {{name: os.environ[name] for name in ('PYTHONPATH', 'MASTER_PORT')}}
with open({record!r}, 'w') as file:
    json.dump([os.path.basename(sys.argv[0]), sys.argv[1:], seen], file)
"""
# Starts the tasks of a job as those of one node.
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == --ntasks=* ]] && num=${1#*=}; shift; done
export SLURM_NTASKS=$num SLURM_NODELIST=node[1-1]
for ((i = num - 1; i >= 0; i--)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done
for job in $(jobs -p); do wait "$job" || exit; done
"""
COMMANDS = {
    'slurm_train': ['gpu', 'a job', 'my config.py', 'work dirs/a'],
    'slurm_test': ['gpu', 'a job', 'my config.py', 'epoch 1.pth'],
    'dist_train': ['my config.py', '4'],
    'dist_test': ['my config.py', 'epoch 1.pth', '4'],
}
EXTRA = ['--amp', '--cfg-options', 'a.b=c d', 'e="[(1,2)]"', '*']


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def call(tmp_path):
    """Calls a script in a folder whose name has a space; gives what was called, and the output."""
    tools = tmp_path / 'my checkout' / 'tools'
    shutil.copytree(ROOT / 'tools', tools, ignore=shutil.ignore_patterns('__pycache__'))
    bin, record = tmp_path / 'bin', tmp_path / 'record.json'
    bin.mkdir()
    for name in ('srun', 'a python'):
        text = RECORD.format(python=sys.executable + ' -S', record=str(record))
        executable(bin / name, text)

    def call(name, *args, python=bin / 'a python', **env):
        known = ('PATH', 'HOME', 'LANG')
        done = subprocess.run(
            [tools / f'{name}.sh', *args],
            cwd=tmp_path,
            env={
                **{key: os.environ[key] for key in known if key in os.environ},
                'PATH': f'{bin}:{os.environ["PATH"]}',
                'PYTHON': str(python),
                'MASTER_PORT': '1',
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return json.loads(record.read_text()) if record.exists() else None, done

    call.tools, call.bin, call.python = tools, bin, str(bin / 'a python')
    return call


@pytest.mark.parametrize('name', COMMANDS)
def test_may_be_called(name):
    assert os.access(ROOT / 'tools' / f'{name}.sh', os.X_OK)
    subprocess.run(['bash', '-n', ROOT / 'tools' / f'{name}.sh'], check=True)


@pytest.mark.parametrize(
    ('env', 'expected'),
    [
        ({}, ['gpu:8', '8', '8', '5']),
        ({'GPUS': '16'}, ['gpu:8', '16', '8', '5']),
        ({'GPUS': '1'}, ['gpu:1', '1', '1', '5']),
        ({'GPUS': '12', 'GPUS_PER_NODE': '4', 'CPUS_PER_TASK': '2'}, ['gpu:4', '12', '4', '2']),
    ],
)
@pytest.mark.parametrize('name', ['slurm_train', 'slurm_test'])
def test_slurm(call, name, env, expected):
    args = COMMANDS[name]
    (program, argv, seen), done = call(name, *args, *EXTRA, SRUN_ARGS='--qos=high -x b*n', **env)
    script = name.split('_')[1]
    result = ['--work-dir', args[3]] if script == 'train' else [args[3]]
    assert done.returncode == 0 and program == 'srun'
    keys = ('--gres', '--ntasks', '--ntasks-per-node', '--cpus-per-task')
    assert argv == [
        *('--partition=gpu', '--job-name=a job'),
        *(f'{key}={value}' for key, value in zip(keys, expected, strict=True)),
        *('--kill-on-bad-exit=1', '--qos=high', '-x', 'b*n'),
        *(call.python, '-u', str(call.tools / f'{script}.py'), args[2], *result),
        *('--launcher', 'slurm', *EXTRA),
    ]
    assert seen['MASTER_PORT'] == '1'


@pytest.mark.parametrize('name', ['slurm_train', 'slurm_test'])
def test_slurm_port(call, name):
    (_, _, seen), _ = call(name, *COMMANDS[name], PORT='29501')
    assert seen['MASTER_PORT'] == '29501'


@pytest.mark.parametrize(
    ('env', 'expected'),
    [
        ({}, ['1', '0', '127.0.0.1', '29500']),
        (
            {'NNODES': '3', 'NODE_RANK': '2', 'MASTER_ADDR': 'node 0', 'PORT': '29501'},
            ['3', '2', 'node 0', '29501'],
        ),
    ],
)
@pytest.mark.parametrize('name', ['dist_train', 'dist_test'])
def test_dist(call, name, env, expected):
    args = COMMANDS[name]
    (program, argv, _), done = call(name, *args, *EXTRA, **env)
    nodes, rank, address, port = expected
    assert done.returncode == 0 and program == 'a python'
    assert argv == [
        *('-m', 'torch.distributed.run', f'--nnodes={nodes}', f'--node_rank={rank}'),
        *(f'--master_addr={address}', '--nproc_per_node=4', f'--master_port={port}'),
        *(str(call.tools / f'{name.split("_")[1]}.py'), *args[:-1]),
        *('--launcher', 'pytorch', *EXTRA),
    ]


@pytest.mark.parametrize('name', COMMANDS)
def test_scripts_find_the_package_of_their_checkout(call, name):
    for before in ('', '/some/folder'):
        (_, _, seen), _ = call(name, *COMMANDS[name], PYTHONPATH=before)
        first, rest = seen['PYTHONPATH'].split(':')
        assert os.path.samefile(first, call.tools.parent) and rest == before


@pytest.mark.parametrize('name', COMMANDS)
def test_too_few_arguments_start_nothing(call, name):
    for number in range(len(COMMANDS[name])):
        argv, done = call(name, *COMMANDS[name][:number])
        assert argv is None and done.returncode == 2
        assert f'Usage: tools/{name}.sh ' in done.stdout and 'Environment: ' in done.stdout


@pytest.mark.slow
def test_slurm_trains_and_tests_with_two_tasks(call, tmp_path):
    """MMEngine's own launcher, on CPUs: all but its choice of a GPU is as on a cluster."""
    executable(call.bin / 'srun', SRUN)
    executable(call.bin / 'scontrol', '#!/bin/sh\necho 127.0.0.1\n')
    (tmp_path / 'sitecustomize.py').write_text('import torch\ntorch.cuda.set_device = print\n')
    (tmp_path / 'my checkout' / 'hime_mm').symlink_to(ROOT / 'hime_mm')
    config = write_training(tmp_path, ROOT / 'configs', 'my config.py')
    env = dict(GPUS='2', PORT=free_port(), PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1')
    env['python'] = sys.executable
    _, done = call('slurm_train', 'cpu', 'a job', config, 'work dirs/a', **env)
    assert done.returncode == 0, done.stdout[-4000:]
    # Eight pictures in batches of two: two iterations of two ranks.
    assert 'Epoch(train) [1][2/2]' in done.stdout and 'Distributed launcher: slurm' in done.stdout
    checkpoint = tmp_path / 'work dirs/a/epoch_1.pth'
    # Another one, as the first may not be free again yet.
    env['PORT'] = free_port()
    _, done = call('slurm_test', 'cpu', 'a job', config, checkpoint, **env)
    assert done.returncode == 0 and 'accuracy/top1' in done.stdout, done.stdout[-4000:]
