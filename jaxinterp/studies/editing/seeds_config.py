"""Whether attribution informs edits, and whether suppressable models edit better, over seeds; imports no JAX."""

import dataclasses
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.studies.editing.config import EditingConfig


@dataclasses.dataclass(frozen=True)
class InformsConfig:
    """Edits of neurons that carry more or less of what attribution finds."""

    facts: int = 30  # of each model; 0: none
    k: int = 4  # neurons that are edited, of one layer
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)  # of them that are the layer's first by attribution; the rest is drawn
    method: str = "integrated_gradients"  # a name of `jaxinterp.attribution.registry.METHODS`
    shuffles: int = 100  # of attributions among the edits of a layer, for what chance would explain

    def __post_init__(self) -> None:
        check_numbers(self, "informs.")
        if self.k < 1 or self.shuffles < 1:
            raise UserError(f"informs.k and informs.shuffles must be at least 1, got {self.k} and {self.shuffles}")
        if self.facts and self.facts < 3:
            raise UserError(f"informs.facts must be 0 or at least 3, so that facts can differ, got {self.facts}")
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise UserError(f"informs.shares must be numbers from 0 to 1, got {list(self.shares)}")


@dataclasses.dataclass(frozen=True)
class EditingSeedsConfig:
    """Groups of models that differ by seed alone, and what is asked of each model."""

    # Each holds folders of models that are called <group>-seed<n> or seed<n>, as `experiments/seeds.py` leaves them;
    # the group of the latter is called as the folder that holds them, or as that one's own if it is called models. The
    # first group is the one that others are compared with, seed by seed
    folders: tuple[Path, ...] = (Path("checkpoints/seeds/models"),)
    edits: EditingConfig = EditingConfig(
        edits=60, ways=("no_op", "kn_solve", "kn_solve_specific", "kn_solve_random", "rome")
    )
    informs: InformsConfig = InformsConfig()
    legible: int = 300  # facts whose knowledge neurons' values are read, by the norm-folded lens; 0: none
    level: float = 0.95  # of intervals

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.folders:
            raise UserError("there are no models; give their folders")
        if self.legible < 0:
            raise UserError(f"legible must be at least 0, got {self.legible}")
        if not 0 < self.level < 1:
            raise UserError(f"level must lie between 0 and 1, got {self.level}")
