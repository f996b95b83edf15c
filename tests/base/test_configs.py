"""Configs out of their JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.finetune_config import FinetuneConfig, TextConfig


@pytest.mark.parametrize(
    "config",
    [
        *(PLAIN, SUPPRESSABLE, TrainConfig(), FinetuneConfig(), AuditConfig()),
        FinetuneConfig(text=TextConfig(folder=Path("a/b"))),
    ],
)
def test_what_is_written_is_read(config):
    fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    assert from_json(type(config), fields, "file") == config


def test_fields_that_are_missing_have_their_defaults():
    assert from_json(TrainConfig, {"steps": 7}, "file") == TrainConfig(steps=7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 7}, "run/config.json does not hold a config of this version: TrainConfig has no step"),
        ({"steps": "7"}, "int was expected, got '7'"),
        ({"steps": True}, "int was expected, got True"),
        ({"data": 3}, "DataConfig must be an object, got 3"),
        ({"data": {"domains": "countries"}}, "a list was expected, got 'countries'"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_what_is_no_config(fields, message):
    with pytest.raises(UserError, match=message):
        from_json(TrainConfig, fields, "run/config.json")
