"""Controls: edits that should do nothing, or that leave out what a method says is the reason why it works."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.editing.answers import answer_readout, old_answer
from jaxinterp.editing.change import Change, change_of
from jaxinterp.editing.edit import edit
from jaxinterp.editing.neurons import request_neurons
from jaxinterp.editing.registry import METHODS, Given, Neurons
from jaxinterp.editing.request import Request
from jaxinterp.models.language_model import LanguageModel


class Plan(NamedTuple):
    """All that an edit is made of."""

    requests: tuple[Request, ...]
    method: str
    settings: object | None = None
    given: Given | None = None


@dataclasses.dataclass(frozen=True)
class Control:
    """An edit that is made of another one's plan."""

    about: str  # stands alone
    change: Callable[[LanguageModel, Plan, int], Change]  # (model, plan, seed)


def control_change(name: str, model: LanguageModel, plan: Plan, seed: int = 0) -> Change:
    """The change of a control, in place of that of the plan.

    Args:
      name: one of `CONTROLS`.
      model: what is edited.
      plan: of the edit that it controls; with neurons that are given, as many random or active ones are taken.
      seed: of draws.
    Raises:
      UserError: if there is no such control, it does not fit the method, or as `edit`.
    """
    if name not in CONTROLS:
        raise UserError(f"unknown control {name!r}; known: {', '.join(CONTROLS)}")
    return CONTROLS[name].change(model, plan, seed)


def active_neurons(
    model: LanguageModel, requests: Sequence[Request], ks: Sequence[int], seed: int, layer: int | None = None
) -> list[Neurons]:
    """Neurons of each request, drawn from those that are not 0 at some token where its old answer is read; of one layer
    if it is named.

    Raises:
      UserError: if fewer are active.
    """
    found = []
    for number, (one, k) in enumerate(zip(requests, ks, strict=True)):
        readout, _, _ = answer_readout(model, old_answer(model, one))
        active = np.argwhere((np.asarray(readout.neurons_LRF) != 0).any(1))
        active = active if layer is None else active[active[:, 0] == layer]
        if len(active) < k:
            raise UserError(f"{len(active)} neurons are active after {one.prompt!r}, fewer than {k}; take fewer")
        drawn = np.sort(np.random.default_rng([seed, number]).choice(len(active), k, replace=False))
        found.append(Neurons(active[drawn, 0], active[drawn, 1]))
    return found


def _edit(model: LanguageModel, plan: Plan, **other: object) -> Change:
    plan = plan._replace(**other)
    return edit(model, plan.requests, plan.method, plan.settings, plan.given, unknown_too=True)


def _no_op(model: LanguageModel, plan: Plan, seed: int) -> Change:
    return change_of(model, [], [{"control": "no_op"}])


def _identity(model: LanguageModel, plan: Plan, seed: int) -> Change:
    for one in plan.requests:
        if one.old is None:
            raise UserError(f"the request {one.prompt!r} has no old answer to be edited to; give it")
    return _edit(model, plan, requests=tuple(dataclasses.replace(one, new=one.old) for one in plan.requests))


def _random_active(model: LanguageModel, plan: Plan, seed: int) -> Change:
    chosen = active_neurons(model, plan.requests, _sizes(plan), seed)
    return _edit(model, plan, given=dataclasses.replace(plan.given or Given(), neurons=chosen))


def _most_active(model: LanguageModel, plan: Plan, seed: int) -> Change:
    pairs = zip(plan.requests, _sizes(plan), strict=True)
    chosen = [request_neurons(model, [one], k, "activation")[0] for one, k in pairs]
    return _edit(model, plan, given=dataclasses.replace(plan.given or Given(), neurons=chosen))


def _wrong_layer(model: LanguageModel, plan: Plan, seed: int) -> Change:
    return _edit(model, plan, settings=wrong_layers(model, plan, seed))


def wrong_layers(model: LanguageModel, plan: Plan, seed: int) -> object:
    """Settings with other layers, as many and side by side, drawn from those that the method could edit.

    Those are all of the model's; of a method that reads key covariances, those of which they are given; not the last
    one, where the subject's last token is edited, since nothing reads it there.

    Raises:
      UserError: if the settings name no layer, or there are no other ones.
    """
    settings, given = plan.settings, plan.given or Given()
    own = (settings.layer,) if hasattr(settings, "layer") else getattr(settings, "layers", ())
    if not own:
        raise UserError(f"the settings of {plan.method} name no layer that could be a wrong one; take another control")
    usable = set(range(model.config.n_layers))
    if "covariances" in METHODS[plan.method].reads:
        usable &= set(given.covariances)
    if getattr(getattr(settings, "target", None), "at", None) == "subject":
        usable.discard(model.config.n_layers - 1)
    starts = range(model.config.n_layers - len(own) + 1)
    windows = [tuple(range(start, start + len(own))) for start in starts]
    windows = [one for one in windows if set(one) <= usable - set(own)]
    if not windows:
        raise UserError(
            f"there are no {len(own)} other layers side by side that {plan.method} could edit; give key covariances of "
            "more layers, or edit fewer"
        )
    chosen = windows[int(np.random.default_rng(seed).integers(len(windows)))]
    return dataclasses.replace(settings, **({"layer": chosen[0]} if hasattr(settings, "layer") else {"layers": chosen}))


def _sizes(plan: Plan) -> list[int]:
    """How many neurons of each request the plan edits."""
    if "neurons" not in METHODS[plan.method].reads:
        raise UserError(f"{plan.method} does not edit chosen neurons; take another control")
    if plan.given is not None and plan.given.neurons is not None:
        return [len(own.layer_k) for own in plan.given.neurons]
    settings = plan.settings or METHODS[plan.method].settings()
    return [settings.k] * len(plan.requests)


CONTROLS: Mapping[str, Control] = {
    "no_op": Control("no edit at all: everything is as it was", _no_op),
    "identity": Control("an edit to the answer that the model gives already", _identity),
    "random_active": Control(
        "as many neurons, drawn from those that are active where the answer is read", _random_active
    ),
    "most_active": Control("as many neurons, the most active ones where the answer is read", _most_active),
    "wrong_layer": Control("as many other layers side by side, drawn at random", _wrong_layer),
}
