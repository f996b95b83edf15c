"""Editing a model: requests in, a change out."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.base.errors import UserError
from jaxinterp.editing.answers import answered
from jaxinterp.editing.change import Change, apply, change_of, stack
from jaxinterp.editing.keys import check_causal
from jaxinterp.editing.registry import METHODS, Given
from jaxinterp.editing.request import Request, described
from jaxinterp.models.language_model import LanguageModel

EACH = ("neurons", "targets", "rephrased")  # what is given for each request


def edit(
    model: LanguageModel,
    requests: Request | Sequence[Request],
    method: str,
    settings: object | None = None,
    given: Given | None = None,
    *,
    unknown_too: bool = False,
) -> Change:
    """The change of the model's weights by which prompts get new answers; the model itself stays as it is.

    Args:
      model: a language model.
      requests: one or several.
      method: a name out of `jaxinterp.editing.registry.METHODS`.
      settings: of the method; None is its defaults.
      given: what else the method reads.
      unknown_too: whether to edit facts whose old answer is not what the model says.
    Returns:
      One change for all requests.
    Raises:
      UserError: if the method or a layer does not exist, something that the method needs is missing or cannot be used,
        a text cannot be encoded, an answer has no token, or the model does not know a fact.
    """
    requests = [requests] if isinstance(requests, Request) else list(requests)
    if not requests:
        raise UserError("there is nothing to edit; give at least one request")
    found, given = METHODS[method], given or Given()
    if not found.masked:
        check_causal(model, method)
    settings = _settings(found.settings, method, settings)
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        if value is not None and len(value) and field.name not in found.reads:
            reads = ", ".join(sorted(found.reads)) or "nothing"
            raise UserError(f"{method} does not read {field.name}; it reads {reads}; leave the rest out")
    for field in EACH:
        if (own := getattr(given, field)) is not None and len(own) != len(requests):
            raise UserError(f"there are {field} of {len(own)} requests for {len(requests)}; give one each")
    if not unknown_too:
        _check_known(model, requests)
    if not found.one_by_one:
        return _one(model, requests, method, settings, given)
    changes = []
    for number, request in enumerate(requests):
        each = {field: [value[number]] for field in EACH if (value := getattr(given, field)) is not None}
        own = dataclasses.replace(given, **each)
        if changes:
            model = apply(changes[-1], model)
        changes.append(_one(model, [request], method, settings, own))
    return stack(changes)


def _one(model: LanguageModel, requests: list[Request], method: str, settings: object, given: Given) -> Change:
    about = {"method": method, "settings": dataclasses.asdict(settings), "requests": described(requests)}
    return change_of(model, METHODS[method].deltas(model, requests, settings, given), [about])


def _settings(kind: type, method: str, settings: object | None) -> object:
    """The settings, or the defaults."""
    if settings is None:
        needed = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
        if needed:
            raise UserError(f"{method} needs settings: {kind.__name__}({', '.join(f'{name}=…' for name in needed)})")
        return kind()
    if type(settings) is not kind:
        raise UserError(f"the settings of {method} are a {kind.__name__}, got {type(settings).__name__}")
    return settings


def _check_known(model: LanguageModel, requests: Sequence[Request]) -> None:
    for request, knows in zip(requests, answered(model, requests), strict=True):
        if not knows:
            raise UserError(
                f"the model does not answer {request.prompt + '…' + request.after!r} with {request.old!r}, so that "
                "there is no such fact to edit; leave the request out, or say unknown_too=True"
            )
