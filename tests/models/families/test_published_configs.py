"""Configs of well-known models are read whole: no field of theirs is one that nobody reads."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.models.families.common import refuse_what_no_family_has
from jaxinterp.models.families.family import TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.registry import FAMILIES, hf_family

# For each family a config that its models share, and what each changes of it and expects of ours; from the models'
# published config.json files, written down by hand.
FILE = json.loads(Path(__file__).with_name("published_configs.json").read_text(encoding="utf-8"))
MODELS = {
    name: (group["base"] | model["config"], model["expect"])
    for group in FILE.values()
    for name, model in group["models"].items()
}


def read(config):
    family = hf_family(config, "config.json")
    fields = Fields(config, "config.json", aliases=family.hf.aliases)
    found = family.hf.config(fields, TensorFile())
    refuse_what_no_family_has(fields, found.attention)
    return found, fields.unread()


def test_there_are_enough_of_them():
    assert len(MODELS) >= 70
    assert {config["model_type"] for config, _ in MODELS.values()} >= {
        model_type for family in FAMILIES for model_type in family.model_types
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_a_published_config_is_read(name):
    config, expected = MODELS[name]
    found, unread = read(config)
    assert unread == ()
    values = dataclasses.asdict(found)
    for field, value in expected.items():
        if isinstance(value, dict):
            assert {key: values[field][key] for key in value} == value
        elif isinstance(value, float):
            assert values[field] == pytest.approx(value, rel=1e-15)
        else:
            assert values[field] == (tuple(value) if isinstance(value, list) else value), field


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "rope_interleaved", True),
        ("Qwen/Qwen2.5-0.5B", "use_mrope", True),
        ("google/gemma-2-9b", "sliding_window_size", 2048),
        ("google/gemma-3-1b-pt", "_sliding_window_pattern", 3),
    ],
)
def test_a_field_that_published_configs_have_with_one_value_only_is_not_passed_over(name, field, value):
    with pytest.raises(UserError, match=f"{field} is {value}, which is not supported"):
        read(MODELS[name][0] | {field: value})
