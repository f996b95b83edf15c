"""Ways for neurons to carry facts, by name; they stand in `jaxinterp.groundtruth.plants`."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.registry import Registry
from jaxinterp.groundtruth.circuit import Circuit, Concepts, Planted, assembled
from jaxinterp.groundtruth.table import FactTable, fact_table

FOLDER = "jaxinterp.groundtruth.plants"
GRID_D_MLP = 256  # neurons per layer of the plants of a grid
# Of their weak neurons beside banks and fact neurons, a quarter of other plants'. Measures switch off or edit a fixed
# number of neurons, more than a fact here has: what fills it up is to be next to silent, so that the truth is clear.
QUIET = 0.1

Build = Callable[[Concepts, np.random.Generator], Circuit]
GridBuild = Callable[[Concepts, np.random.Generator, int], Circuit]


@dataclasses.dataclass(frozen=True)
class Plant:
    """A way for neurons to carry facts."""

    name: str
    title: str  # for people
    provokes: str  # what a method has to get right, in a few words
    build: Build  # (concepts, rng) -> circuit


@dataclasses.dataclass(frozen=True)
class GridPlant:
    """A way to carry a grid of facts."""

    title: str  # for people
    build: GridBuild  # (concepts, rng, neurons per layer) -> circuit


PLANTS: Registry[Plant] = Registry("plant", FOLDER)
GRID_PLANTS: Registry[GridPlant] = Registry("plant of a grid", FOLDER)


def plant(name: str, *, title: str, provokes: str) -> Callable[[Build], Build]:
    """Registers a function (concepts, rng) -> circuit; its docstring says how the facts are carried."""

    def register(build: Build) -> Build:
        PLANTS.add(name, Plant(name, title, provokes, build), build.__module__)
        return build

    return register


def grid_plant(name: str, *, title: str) -> Callable[[GridBuild], GridBuild]:
    """Registers a function (concepts, rng, neurons per layer) -> circuit of a grid of facts."""

    def register(build: GridBuild) -> GridBuild:
        GRID_PLANTS.add(name, GridPlant(title, build), build.__module__)
        return build

    return register


def planted(name: str, seed: int) -> Planted:
    """The named plant with a fact table, rotation, places and weak neurons of its own.

    All plants with the same softcap have the same config, so that what is compiled for one serves for the others.

    Raises:
      UserError: if the name is unknown.
    """
    build = PLANTS[name].build
    table = fact_table(seed)
    rng = np.random.default_rng([seed, *name.encode()])
    return assembled(table, build(Concepts(table), rng), rng)


def grid_planted(name: str, table: FactTable, seed: int, *, d_mlp: int = GRID_D_MLP) -> Planted:
    """The named plant of a table; rotation, places, numbers, shares and weak neurons are the seed's.

    All plants of a table have the same config, so that what is compiled for one serves for the others.

    Args:
      name: of `GRID_PLANTS`.
      table: the facts; no two may share an answer, see `jaxinterp.groundtruth.grid.grid_table`.
      seed: of everything that is drawn.
      d_mlp: neurons a layer.
    Raises:
      UserError: if the name is unknown, two facts share an answer, or a layer has more neurons than places.
    """
    if len(set(table.answer_N.tolist())) < len(table):
        raise UserError("two facts of the table share an answer; plants of a grid need a table of `grid_table`")
    rng = np.random.default_rng([seed, *name.encode()])
    return assembled(table, GRID_PLANTS[name].build(Concepts(table), rng, d_mlp), rng, d_mlp=d_mlp, noise_read=QUIET)
