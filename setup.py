# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Build script of the distribution ``hime-mm``.

OpenMMLab's tools look for a package's configs, scripts and model index in ``<package>/.mim``.  A
wheel gets copies of them there, an editable install gets links in the source tree (ignored by git).
"""

import os
import re
import shutil
import warnings

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

MIM_RESOURCES = ('configs', 'tools', 'model-index.yml')
ROOT = os.path.dirname(os.path.abspath(__file__))


def read(*parts):
    """Return the text of a file of the source tree."""
    with open(os.path.join(ROOT, *parts), encoding='utf-8') as file:
        return file.read()


def version():
    """Read the version without importing the package."""
    return re.search(r"^__version__ = '([^']+)'", read('hime_mm', 'version.py'), re.M).group(1)


def requirements(name):
    """Return the requirements of ``requirements/<name>.txt``, comments dropped."""
    text = read('requirements', f'{name}.txt')
    return [line for line in (line.split('#')[0].strip() for line in text.splitlines()) if line]


def check_resources():
    """Refuse to build a package whose ``.mim`` would be incomplete."""
    missing = [name for name in MIM_RESOURCES if not os.path.exists(os.path.join(ROOT, name))]
    if missing:
        raise FileNotFoundError(
            f'hime_mm/.mim cannot be built: {", ".join(missing)} missing in {ROOT}; '
            'build from a complete checkout or source distribution'
        )


class BuildPy(build_py):
    """Copies the resources to ``hime_mm/.mim`` of the build."""

    def run(self):
        if not self.editable_mode:
            check_resources()
            # build/ outlives a build: what was renamed or deleted since must not be packed again.
            shutil.rmtree(os.path.join(self.build_lib, 'hime_mm'), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for target, source in self.mim_files().items():
                self.mkpath(os.path.dirname(target))
                self.copy_file(source, target)

    def mim_files(self):
        """Return the resources as ``{path in the build: path in the source tree}``."""
        sources = [name for name in MIM_RESOURCES if os.path.isfile(name)]
        for name in MIM_RESOURCES:
            for folder, _, files in os.walk(name):
                if os.path.basename(folder) != '__pycache__':
                    sources += [os.path.join(folder, file) for file in files]
        target = os.path.join(self.build_lib, 'hime_mm', '.mim')
        return {os.path.join(target, source): source for source in sorted(sources)}

    def get_output_mapping(self):
        # What a strict editable install links.
        return {**super().get_output_mapping(), **self.mim_files()}


class EditableWheel(editable_wheel):
    """Links the resources into ``hime_mm/.mim`` of the source tree.

    Here and not in :class:`BuildPy`, whose errors setuptools turns into warnings during an editable
    build.
    """

    def run(self):
        check_resources()
        folder = os.path.join(ROOT, 'hime_mm', '.mim')
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for name in MIM_RESOURCES:
            link = os.path.join(folder, name)
            source = os.path.join(ROOT, name)
            try:
                os.symlink(os.path.join('..', '..', name), link, os.path.isdir(source))
            except OSError:  # Windows without the right to make links
                warnings.warn(
                    f'hime_mm/.mim/{name} is a copy: install again after changing {name}',
                    stacklevel=2,
                )
                (shutil.copytree if os.path.isdir(source) else shutil.copyfile)(source, link)
        super().run()


setup(
    name='hime-mm',
    version=version(),
    description='Human-imperceptible, machine-recognizable images for OpenMMLab: train '
    'classifiers and detectors on perceptually obfuscated images',
    long_description=read('README.md') if os.path.exists(os.path.join(ROOT, 'README.md')) else '',
    long_description_content_type='text/markdown',
    author='hime_mm contributors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, perceptual obfuscation, OpenMMLab, classification, detection',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['hime_mm', 'hime_mm.*']),
    # The package says its types: py.typed. What leaks is quoted from figures.json.
    package_data={
        'hime_mm': ['py.typed', 'ciphers/figures.json', 'visualization/templates/*'],
    },
    include_package_data=True,
    install_requires=requirements('core'),
    # `mim` and `mminstall`: the names that openmim and onedl-mim look for.
    extras_require={
        'mminstall': requirements('mminstall'),
        'mim': requirements('mminstall'),
        'tests': requirements('tests'),
        'docs': requirements('docs'),
        # For `hime audit`.
        'audit': requirements('audit'),
        # For what it has read faces, text and objects.
        'readers': requirements('readers'),
        # For `hime boxes --view`.
        'view': requirements('view'),
        # For `hime eval`.
        'eval': requirements('eval'),
        # For data sets at URLs, such as s3://bucket/data.
        'stores': requirements('stores'),
        # For `hime encrypt ... --ray`.
        'ray': requirements('ray'),
        # For hime_mm.TIMMPEViT.
        'timm': requirements('timm'),
    },
    entry_points={'console_scripts': ['hime = hime_mm.cli:main']},
    cmdclass={'build_py': BuildPy, 'editable_wheel': EditableWheel},
    zip_safe=False,
)
