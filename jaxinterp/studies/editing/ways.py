"""Ways to edit, with the settings and controls of a study: each makes a change of some requests."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinterp.editing.change import Change, change_of
from jaxinterp.editing.covariance import KeyCovariance, key_covariances, load_covariance, save_covariance
from jaxinterp.editing.edit import edit
from jaxinterp.editing.methods.alphaedit import AlphaEditConfig
from jaxinterp.editing.methods.emmet import EmmetConfig
from jaxinterp.editing.methods.ft_l import FtlConfig
from jaxinterp.editing.methods.kn_solve import KnSolveConfig
from jaxinterp.editing.methods.memit import MemitConfig
from jaxinterp.editing.methods.rome import RomeConfig
from jaxinterp.editing.methods.update import UpdateConfig
from jaxinterp.editing.protocol.controls import Plan, active_neurons, control_change
from jaxinterp.editing.registry import METHODS, Given
from jaxinterp.editing.request import Request
from jaxinterp.editing.specific import specific_neurons
from jaxinterp.editing.target import Target, TargetConfig, targets
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.editing.posed import Posed

AHEAD = 32  # targets that are searched side by side


class Tools:
    """What ways to edit read beside the requests; made when first asked for."""

    def __init__(self, posed: Posed, out: Path | None = None) -> None:
        """Of a study and its folder, where covariances are kept; None keeps none."""
        self.posed, self.config, self.out = posed, posed.config, out
        self.layers = self.config.layers or (posed.model.config.n_layers - 1,)
        self._targets: dict[int, list[Target]] = {}
        self.earlier: Mapping[int, np.ndarray] = {}
        self.target = TargetConfig(
            at=self.config.at, clamp=self.config.clamp, weight_decay=self.config.weight_decay, essence=""
        )

    def with_earlier(self, keys: Mapping[int, np.ndarray]) -> "Tools":
        """The same with keys of earlier edits, for AlphaEdit."""
        _ = self.threshold, self.covariances  # made once, for all copies
        other = copy.copy(self)
        other.earlier = keys
        return other

    @functools.cached_property
    def covariances(self) -> dict[int, KeyCovariance]:
        """Of the layers that are edited."""
        model, paths = self.posed.model, {}
        if self.out is not None:
            paths = {layer: self.out / "covariances" / f"{layer}.safetensors" for layer in self.layers}
        if paths and all(path.exists() for path in paths.values()):
            found = {layer: load_covariance(path) for layer, path in paths.items()}
            if all(one.model == model.digest() for one in found.values()):
                return found
        found = key_covariances(model, self.posed.texts.keys, self.layers, ridge=self.config.ridge)
        for layer, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_covariance(path, found[layer])
        return found

    @functools.cached_property
    def threshold(self) -> float:
        """Of AlphaEdit: the eigenvalue below which all together are a share of the trace."""
        value_F = self.covariances[self.layers[-1]].eigen[0]
        n_null = int((np.cumsum(np.maximum(value_F, 0)) <= self.config.null * value_F.sum()).sum())
        return float(value_F[min(max(n_null, 1), len(value_F) - 1)])

    def targets(self, numbers: Sequence[int]) -> list[Target]:
        """Targets of cases in the untouched model, in the last layer."""
        return [self._target(number) for number in numbers]

    def _target(self, number: int) -> Target:
        part = number // AHEAD
        if part not in self._targets:
            requests = [one.request for one in self.posed.cases[part * AHEAD : (part + 1) * AHEAD]]
            self._targets[part] = targets(self.posed.model, requests, self.layers[-1], self.target)
        return self._targets[part][number % AHEAD]

    def rephrased(self, numbers: Sequence[int]) -> list[tuple[Request, ...]] | None:
        """Other prompts of cases that are edited as well, if there are any."""
        return [self.posed.rephrased(self.posed.cases[n]) for n in numbers] if self.config.rephrased else None

    def given(self, method: str, model: LanguageModel, numbers: Sequence[int]) -> Given:
        """What a method reads."""
        reads = METHODS[method].reads
        untouched = model is self.posed.model and (len(numbers) == 1 or not METHODS[method].one_by_one)
        return Given(
            covariances=self.covariances if "covariances" in reads else {},
            targets=self.targets(numbers) if "targets" in reads and untouched else None,
            earlier=self.earlier if "earlier" in reads else {},
            rephrased=self.rephrased(numbers) if "rephrased" in reads else None,
            kept=[prompt for kind in self.posed.kept(numbers[0]) for prompt in kind] if "kept" in reads else (),
        )


class Way(NamedTuple):
    """One row of the study's tables."""

    title: str
    method: str  # of editing
    make: Callable[["Way", Tools, LanguageModel, Sequence[int]], Change]  # (tools, model to edit, numbers of cases)
    several: bool = True  # whether it edits several at once, or one after the other


def settings_of(method: str, tools: Tools) -> object:
    """Of a method, in a study."""
    config, layer, target = tools.config, tools.layers[-1], tools.target
    return {
        "update": lambda: UpdateConfig(k=config.k),
        "kn_solve": lambda: KnSolveConfig(k=config.k, keep=config.keep, enough=config.enough),
        "rome": lambda: RomeConfig(layer, target),
        "emmet": lambda: EmmetConfig(layer, target),
        "memit": lambda: MemitConfig(tuple(tools.layers), config.weight, target),
        "alphaedit": lambda: AlphaEditConfig((layer,), tools.threshold, 1e-2 * tools.threshold, target),
        "ft_l": lambda: FtlConfig(layer, most=config.most, step_size=config.most / 5),
    }[method]()


def plan_of(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Plan:
    """What an edit is made of."""
    requests: tuple[Request, ...] = tuple(tools.posed.cases[number].request for number in numbers)
    return Plan(requests, way.method, settings_of(way.method, tools), tools.given(way.method, model, numbers))


def _edited(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Change:
    plan = plan_of(way, tools, model, numbers)
    return edit(model, plan.requests, plan.method, plan.settings, plan.given, unknown_too=True)


def _control(name: str) -> Callable[[Way, Tools, LanguageModel, Sequence[int]], Change]:
    def make(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Change:
        plan = plan_of(way, tools, model, numbers)
        return control_change(name, model, plan, tools.config.seed + int(numbers[0]))

    return make


def _specific(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Change:
    plan = plan_of(way, tools, model, numbers)
    kept = tools.posed.kept(numbers[0])
    rephrased = plan.given.rephrased or [()] * len(plan.requests)
    chosen = [
        specific_neurons(model, one, kept, tools.layers[-1], tools.config.k, rephrased=others)
        for one, others in zip(plan.requests, rephrased, strict=True)
    ]
    given = dataclasses.replace(plan.given, neurons=chosen)
    return edit(model, plan.requests, plan.method, plan.settings, given, unknown_too=True)


def _random_of_layer(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Change:
    plan = plan_of(way, tools, model, numbers)
    sizes = [tools.config.k] * len(plan.requests)
    chosen = active_neurons(model, plan.requests, sizes, tools.config.seed + int(numbers[0]), tools.layers[-1])
    given = dataclasses.replace(plan.given, neurons=chosen)
    return edit(model, plan.requests, plan.method, plan.settings, given, unknown_too=True)


def _nothing(way: Way, tools: Tools, model: LanguageModel, numbers: Sequence[int]) -> Change:
    return change_of(model, [], [{"control": "no_op"}])


WAYS: Mapping[str, Way] = {
    "no_op": Way("no edit", "kn_solve", _nothing),
    "kn_solve": Way("KN-solve, knowledge neurons", "kn_solve", _edited, False),
    "kn_solve_specific": Way("KN-solve, specific neurons", "kn_solve", _specific, False),
    "kn_solve_active": Way("KN-solve, most active neurons", "kn_solve", _control("most_active"), False),
    "kn_solve_random": Way("KN-solve, random active neurons", "kn_solve", _control("random_active"), False),
    "kn_solve_random_layer": Way("KN-solve, random neurons of the layer", "kn_solve", _random_of_layer, False),
    "update": Way("update of Dai et al.", "update", _edited, False),
    "rome": Way("ROME", "rome", _edited, False),
    "emmet": Way("EMMET", "emmet", _edited),
    "memit": Way("MEMIT", "memit", _edited),
    "alphaedit": Way("AlphaEdit", "alphaedit", _edited),
    "ft_l": Way("FT-L", "ft_l", _edited),
}
