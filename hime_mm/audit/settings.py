# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How an audit is made."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AuditSettings:
    """How an audit is made.

    Args:
        num_pictures (int): How many are attacked. Defaults to 40.
        seed (int): Of the sample, the encryption and the attacks. Defaults
            to 0.
        public (str, optional): Folder of pictures of others, for the
            adversary to learn from; the classes of its folders count where
            they are called as those of the source. None takes those that come
            with scikit-image. Defaults to None.
        num_public (int): How many of them. Defaults to 80.
        attacks (Sequence[str]): Names of attacks and readers; empty takes
            all. Defaults to ().
        people (str, optional): Folder with a folder of pictures for each
            person whom the adversary knows; on a picture of the source is who
            its folder is called after. None takes the faces of the originals.
            Defaults to None.
        onnx (Sequence[str]): Files of models that read pictures, too. Defaults
            to ().
        budget (float, optional): Seconds; what is not reached by then is
            named. Defaults to None.
        workers (int): Processes. Defaults to 0, this one.
        progress (bool): Show progress bars. Defaults to True.
    """

    num_pictures: int = 40
    seed: int = 0
    public: str | None = None
    num_public: int = 80
    attacks: Sequence[str] = ()
    people: str | None = None
    onnx: Sequence[str] = ()
    budget: float | None = None
    workers: int = 0
    progress: bool = True

    @property
    def what(self) -> dict[str, Any]:
        """dict: Those that the result depends on."""
        left = ('budget', 'workers', 'progress')
        said = {name: value for name, value in asdict(self).items() if name not in left}
        return {**said, 'attacks': sorted(self.attacks)}
