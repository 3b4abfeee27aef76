# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from encryption_parts import KEY, coco, folder
from owner_data import SECRET, forms_of_key, forms_of_permutation, found, tree

from hime_mm.ciphers import InvalidKey
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import EncryptionError


class TestSecrets:
    def test_nothing_of_the_key_or_of_a_permutation(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        coco(own_src, out, views=2)
        contents = list(tree(out).values())  # with the work folder
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        coco(own_src, out, views=2)
        contents += tree(out).values()
        assert not found(forms_of_key(SECRET), contents)
        manifest = Manifest.load(out)
        for entry in manifest.files.values():
            permutation = manifest.secret_layout(entry, KEY).permutation
            assert len(permutation) >= 16
            assert not found(forms_of_permutation(permutation), contents)
        # The search finds what there is.
        assert found(forms_of_key(SECRET), [b'..' + SECRET + b'..'])
        assert found(forms_of_permutation(permutation), [json.dumps(permutation.tolist()).encode()])
        assert found(
            forms_of_permutation(permutation),
            [b'x' + np.argsort(permutation).astype('<u2').tobytes()],
        )

    @pytest.mark.parametrize(
        'text', [SECRET.hex(), f'hime-key-v1:{SECRET.hex()}', SECRET.hex()[:50]]
    )
    def test_a_key_is_no_id(self, coco_src, tmp_path, text):
        """The id is handed over."""
        for function, src in ((coco, coco_src), (folder, coco_src / 'val2017')):
            with pytest.raises(InvalidKey) as error:
                function(src, tmp_path / 'out', dataset_id=text)
            assert text not in str(error.value)
        assert not (tmp_path / 'out').exists()

    def test_an_id_is_text(self, coco_src, tmp_path):
        with pytest.raises(EncryptionError, match='UTF-8'):
            coco(coco_src, tmp_path / 'out', dataset_id='a\udcff')
        assert not (tmp_path / 'out').exists()
