"""Numbers that no config and no option takes: NaN, infinities, and zero with a minus."""

import dataclasses
import importlib
import pkgutil
import typing

import numpy as np
import pytest

import jaxinterp
from jaxinterp.attribution.quadrature import integral
from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_number, check_numbers, check_text
from jaxinterp.base.schedule import parse_schedule

BAD = (float("nan"), float("inf"), -float("inf"), -0.0)


def configs():
    """Every dataclass that is called a config, and two that are not."""
    found = {}
    for module in pkgutil.walk_packages(jaxinterp.__path__, "jaxinterp."):
        if module.name.rpartition(".")[2] != "__main__":
            for name, one in vars(importlib.import_module(module.name)).items():
                known = dataclasses.is_dataclass(one) and isinstance(one, type) and one.__module__ == module.name
                if known and (name.endswith("Config") or name in ("Criteria", "Situation", "RopeScaling")):
                    found[name] = one
    return found


CONFIGS = configs()
NUMBERS = [
    (name, field)
    for name, one in CONFIGS.items()
    for field, kind in typing.get_type_hints(one).items()
    if kind in (float, int, int | None, float | None)
]


def test_the_configs_are_found():
    assert {"MeasureConfig", "TrainConfig", "OptimiserConfig", "ObjectiveConfig", "FinetuneConfig"} <= set(CONFIGS)
    assert {"KnowledgeNeuronsConfig", "AuditConfig", "Criteria", "EnsembleConfig", "FactsConfig"} <= set(CONFIGS)
    assert ("MeasureConfig", "tolerance") in NUMBERS and ("MeasureConfig", "k") in NUMBERS


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_no_number_of_a_config_is_not_finite(name, field):
    for value in BAD:
        # Not by the constructor, whose types are checked in tests, and would keep NaN out of an int.
        config = object.__new__(CONFIGS[name])
        for one in dataclasses.fields(config):
            made = one.default_factory is not dataclasses.MISSING
            object.__setattr__(config, one.name, one.default_factory() if made else one.default)
        object.__setattr__(config, field, value)
        with pytest.raises(UserError, match=f"{field} must be a finite number, and 0 without a minus, got {value}"):
            config.__post_init__()


def test_deeper_numbers():
    @dataclasses.dataclass(frozen=True)
    class Deep:
        pairs: tuple[tuple[float, float], ...] = ((1.0, 2.0),)
        named: typing.Mapping[str, float] = dataclasses.field(default_factory=dict)
        other: object = None
        flag: bool = False

    check_numbers(Deep())
    check_numbers(Deep(named={"nan": 0.0}, other="nan", flag=True))
    for bad in BAD:
        with pytest.raises(UserError, match=r"mine\.pairs must be"):
            check_numbers(Deep(pairs=((1.0, bad),)), "mine.")
        with pytest.raises(UserError, match=r"named\.x must be"):
            check_numbers(Deep(named={"x": np.float32(bad)}))
        with pytest.raises(UserError, match=r"other\.named\.x must be"):
            check_numbers(Deep(other=Deep(named={"x": bad})))
    check_number("n", 10**400)  # no float holds it, and none need
    check_text("name", "relu")
    with pytest.raises(UserError, match=r"model\.norm_eps must be a finite number"):
        check_text("model.norm_eps", "Infinity")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-0", "0@0,nan@9", "0@0,1@inf", "0@nan,1@3", "-0@0,1@3"])
def test_schedules(text):
    with pytest.raises(UserError, match=r"every number of the schedule .* must be a finite number"):
        parse_schedule(text)


def test_tolerance_of_an_integral():
    for bad in BAD:
        with pytest.raises(UserError, match="the tolerance of an adaptive attribution must be"):
            integral("adaptive", 20, bad)
