"""Several small models trained in one program: `vmap` over seeds and, if they are studied, objective weights.

For models that are small against the device. The members share architecture, data and the order of the data, so that
only what is studied differs. A member is the model that training it alone would give up to rounding: a batched matrix
product sums in another order (about 6e-8 of a value a step, which training then amplifies), so that results are not
equal bit for bit, and an ensemble has to be resumed as an ensemble.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Int, Shaped

from jaxinterp.base.files import delete_partial
from jaxinterp.base.processes import one_process
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.mesh import along_all, everywhere, make_mesh, placement
from jaxinterp.models.model import Model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import any_active, term_weights
from jaxinterp.training.beginning import never_began
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData
from jaxinterp.training.diagnosis import AGAIN, first_non_finite
from jaxinterp.training.driver import Job, NotFinite, Places, plain_line, run
from jaxinterp.training.ensemble_config import EnsembleConfig, Member
from jaxinterp.training.kept_steps import kept_step
from jaxinterp.training.loop import (
    arithmetic,
    batch_of,
    cadence,
    check_run,
    evaluated,
    run_provenance,
)
from jaxinterp.training.state import TrainState, initial_state, step_key
from jaxinterp.training.step import update

EnsembleMetrics = Mapping[str, Shaped[Array, " E"]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an ensemble has become."""

    models: Mapping[Member, LanguageModel]  # those that are finite to the end
    failed: Mapping[Member, str]  # the others, and where they stopped
    never_began: Mapping[Member, str]  # those of `models` whose objective waited in vain, so that they are plain


def ensemble_step(
    model: ModelConfig, config: EnsembleConfig
) -> Callable[[TrainState, QueryBatch, int], tuple[TrainState, EnsembleMetrics]]:
    """The jitted step of all members, `(states, batch, number) -> (states, metrics)`; the states are donated.

    The arrays of states and metrics have a leading axis E, in the order of `config.members`; the batch is shared. A
    member whose loss or gradient is not finite stays as it was from then on (see `gradient_step`).

    Whether the terms are computed is one condition for all members, outside `vmap`: inside, it would compute both
    branches at every step. So a member whose weights are 0, or which has not begun, has metrics of the terms too, while
    others' weights are not 0.
    """
    run = config.run
    step = update(model, run.objective, run.optimiser, run.steps, noise=run.noise)
    in_axes = (0, None, None, 0, None)

    def scheduled(states: TrainState, batch: QueryBatch, number: Int[Array, ""]) -> tuple[TrainState, EnsembleMetrics]:
        weights = member_weights(config, states.begun)
        active = any_active(weights) if weights else None
        return jax.vmap(step, in_axes=in_axes)(states, batch, number, weights, active)

    return jax.jit(scheduled, donate_argnums=0)


def member_weights(config: EnsembleConfig, begun_E: Int[Array, " E"]) -> dict[str, Array]:
    """The weight [E] of every term, for members that began so many steps ago, without those that are always 0."""
    schedules = term_weights(config.run.objective, begun_E)
    if not config.weights:
        return schedules
    factors = {
        name: np.array([getattr(member, name) for member in config.members]) for name in config.run.objective.weights
    }
    return {
        name: value * jnp.asarray(factors[name], value.dtype)
        for name, value in schedules.items()
        if factors[name].any()
    }


def stacked(states: Sequence[TrainState]) -> TrainState:
    """States as one, with a leading axis E."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState, index: int) -> TrainState:
    """The state of one member."""
    one = jax.tree.map(lambda leaf: leaf[index], states._replace(key=jax.random.key_data(states.key)))
    return one._replace(key=jax.random.wrap_key_data(one.key))


def train_ensemble(
    config: EnsembleConfig,
    data: TrainingData,
    out: Path,
    *,
    resume: bool = False,
    title: str = "train",
    mesh: str | None = None,
) -> Trained:
    """Trains E models at once; what they leave behind stands in `out`.

    What `jaxinterp.training.driver.run` leaves, with a line per member, and at the end `models/NAME/` for each.

    Args:
      config: the members.
      data: as from `training_data(config.run.data)`; batches are those of `config.run.seed`.
      out: the ensemble's folder.
      resume: continue from the newest checkpoint in `out`; the result is that of an uninterrupted run, bit for bit.
      title: of the progress bar.
      mesh: the devices that share the work, see `jaxinterp.models.mesh.make_mesh`; members are divided among them.
    Returns:
      The models. A member that stops being finite is reported, left out, and does not disturb the others.
    Raises:
      UserError: as `jaxinterp.training.loop.train`.
      NotFinite: if no member is finite.
    """
    one_process("an ensemble")
    model = check_run(config.run, data)
    devices = make_mesh(mesh)
    members = _Members(config, model, data)
    folders = {member: out / "models" / member.name for member in config.members}

    def finish(states: TrainState) -> None:
        members.note_failed(states, config.run.steps)
        for member, bundle in members.finite(states):
            delete_partial(folders[member])
            if not (folders[member] / "config.json").exists():
                save_model(folders[member], bundle)

    job = Job(
        config=dataclasses.asdict(config),
        start=members.start,
        inputs=lambda step: batch_of(config.run, data, step),
        step=members.step,
        objective=config.run.objective,
        cadence=cadence(config.run),
        lines=members.lines,
        evaluate=members.evaluate,
        data=data.digests(),
        # A member is on one device, if there are as many as devices or a multiple: they have nothing to tell another.
        places=devices and Places(lambda of: along_all(devices, of), lambda batch: everywhere(devices, batch)),
        finish=finish,
    )
    run(job, out, resume=resume, title=title)
    models, never = {}, {}
    for member, folder in folders.items():
        if member in members.failed:
            continue
        models[member] = load_model(folder, placement=placement(devices))
        sentence = never_began(member.name, models[member].provenance["beginning"])
        if sentence and member.has_terms:
            never[member] = sentence
            print(sentence, flush=True)
    return Trained(models, members.failed, never)


@dataclasses.dataclass(frozen=True)
class _Members:
    """What a job needs to know of an ensemble."""

    config: EnsembleConfig
    model: ModelConfig
    data: TrainingData
    failed: dict[Member, str] = dataclasses.field(default_factory=dict)  # those that stand still; grows

    def start(self) -> TrainState:
        run = self.config.run
        seeds = [member.seed for member in self.config.members]
        return stacked([initial_state(self.model, run.optimiser, run.steps, seed) for seed in seeds])

    def step(self, objective: ObjectiveConfig) -> Wrapped:
        run = self.config.run
        # What decides the step, without what does not: points of a study share it.
        noise = {"dropout": run.dropout, "robust": run.robust}
        same = TrainConfig(objective=objective, optimiser=run.optimiser, steps=run.steps, **noise)
        return kept_step(ensemble_step, arithmetic(self.model, run), dataclasses.replace(self.config, run=same))

    def lines(self, states: TrainState, pending: Sequence[EnsembleMetrics], number: int) -> list[dict]:
        """A line per member; one that stands still has finite = false."""
        self.note_failed(states, number)
        values = jax.device_get(pending[-1])
        return [
            {"step": number, "member": member.name, "finite": bool(values["finite"][index])}
            | plain_line({name: value[index] for name, value in values.items()})
            for index, member in enumerate(self.config.members)
        ]

    def evaluate(self, states: TrainState, number: int) -> list[dict]:
        return [
            {"step": number, "member": member.name, "sets": evaluated(bundle, self.data)}
            for member, bundle in self.finite(states)
        ]

    def note_failed(self, states: TrainState, number: int) -> None:
        """Adds the members that stand still, and the first array that was not finite in each, and prints them."""
        run = self.config.run
        for index, step in enumerate(np.asarray(states.step).tolist()):
            member = self.config.members[index]
            if step == number or member in self.failed:
                continue
            state = unstacked(states, index)
            weights = {name: value[index] for name, value in member_weights(self.config, states.begun).items()}
            bad = state.params, batch_of(run, self.data, step), weights, step_key(state)
            name = first_non_finite(arithmetic(self.model, run), run.objective, *bad, noise=run.noise) or AGAIN
            self.failed[member] = f"step {step + 1} is not finite; the first bad array is {name}"
            print(f"{member.name} (seed {member.seed}) stands still: {self.failed[member]}", flush=True)
        if len(self.failed) == len(self.config.members):
            raise NotFinite(f"no member is finite: {next(iter(self.failed.values()))}")

    def finite(self, states: TrainState) -> Iterator[tuple[Member, LanguageModel]]:
        """The models of the members that do not stand still, one after another."""
        for index, member in enumerate(self.config.members):
            if member not in self.failed:
                state = unstacked(states, index)
                about = {"member": dataclasses.asdict(member), "data_seed": self.config.run.seed}
                made = run_provenance(self.config.run, self.data, state) | about
                yield member, LanguageModel(Model(self.model, jax.device_get(state.params)), self.data.tokenizer, made)
