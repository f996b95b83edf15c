"""Runs that learn text beside facts: their batches, losses, logs, and what a changed text does."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import SyntheticConfig, SyntheticFacts
from tiny import tiny_config, tiny_params
from training_facts import DATA, SMALL_EVALUATION, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.measure import Measurement
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import loop
from jaxinterp.training.config import DataConfig, TrainConfig
from jaxinterp.training.data import batch_at, data_of_facts, text_windows
from jaxinterp.training.loop import batch_of, train
from jaxinterp.training.routing import Routing
from jaxinterp.training.step import loss
from jaxinterp.training.texts import _is_held_out

SIZES = {"n_sequences": 6, "n_subjects": 3, "n_rows": 30}
FACTS = SyntheticFacts(SyntheticConfig(n_subjects=12, n_relations=6, n_answers=8, n_prompts=5)).fact_set()
LENGTH = 12
TINY = {"n_layers": "2", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"}


def written(folder, word="w"):
    """Ten documents of 30 words each, all different; words say in which document they stand."""
    folder.mkdir(exist_ok=True)
    for document in range(10):
        words = [f"{word}{document}x{place}" for place in range(30)]
        (folder / f"{document}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("text") / "documents")


@pytest.fixture(scope="module")
def data(folder):
    return data_of_facts(FACTS, dataclasses.replace(DATA, text=str(folder), text_length=LENGTH))


def words(data, window):
    return [data.tokenizer.token(int(token)) for token in window]


def in_training(data, made):
    """The number of each of a batch's windows of text."""
    rows = made.tokens_BT[made.text_B > 0][:, :LENGTH]
    same = (rows[:, None] == data.text.training_NT[None]).all(2)
    assert (same.sum(1) == 1).all()
    return same.argmax(1).tolist()


def test_no_held_out_document_is_trained_on(data):
    aside = {str(number) for number in range(10) if _is_held_out(f"{number}.txt")}
    of = {word[1:].split("x")[0] for window in data.text.training_NT for word in words(data, window)[1:]}
    held_out = {word[1:].split("x")[0] for window in data.text.held_out_NT for word in words(data, window)[1:]}
    assert held_out == aside and of == {str(number) for number in range(10)} - aside
    assert "<unk>" not in {word for window in data.text.held_out_NT for word in words(data, window)}
    assert data.text.training_NT.shape == (2 * (10 - len(aside)), LENGTH)  # 22 of 30 words each


def test_a_batch_is_sentences_and_then_windows(data):
    for step in (0, 3, 11):
        plain = batch_at(data, seed=0, step=step, **SIZES)
        made = batch_at(data, seed=0, step=step, n_windows=4, **SIZES)
        width = plain.tokens_BT.shape[1]
        assert plain.text_B is None and made.text_B.tolist() == [0] * 6 + [1] * 4
        assert made.tokens_BT.shape == (10, max(width, LENGTH))
        for name in ("tokens_BT", "token_weight_BT"):
            np.testing.assert_array_equal(getattr(made, name)[:6, :width], getattr(plain, name))
            assert (getattr(made, name)[:6, width:] == (data.tokenizer.pad if name == "tokens_BT" else 0)).all()
        jax.tree.map(np.testing.assert_array_equal, (made.rows, made.answers), (plain.rows, plain.answers))
        # All tokens of a window are predicted but the one that begins it.
        place = np.arange(made.tokens_BT.shape[1])
        np.testing.assert_array_equal(made.token_weight_BT[6:], np.tile((place > 0) & (place < LENGTH), (4, 1)))
        assert in_training(data, made) == in_training(data, batch_at(data, seed=0, step=step, n_windows=4, **SIZES))


@pytest.mark.parametrize("n", [4, 50])
def test_every_window_comes_once_an_epoch(data, n):
    """Also where a batch has more windows than there are."""
    total = len(data.text.training_NT)
    read = [text_windows(data, 0, step, n).tokens_NT for step in range(-(-3 * total // n))]
    read = np.concatenate(read)[: 3 * total].reshape(3, total, -1)
    for epoch in read:
        np.testing.assert_array_equal(np.unique(epoch, axis=0), np.unique(data.text.training_NT, axis=0))
    assert not np.array_equal(read[0], read[1])
    assert not np.array_equal(read[0][:4], text_windows(data, 1, 0, 4).tokens_NT)


def test_windows_give_rows_where_every_token_is_a_fact(data):
    places = set()
    for step in range(8):
        made = batch_at(data, seed=0, step=step, n_windows=4, text_rows=True, **SIZES)
        row = np.flatnonzero((made.answers.weight_R > 0) & (made.rows.sequence_R >= 6))
        assert sorted(made.rows.sequence_R[row]) == [6, 7, 8, 9]  # there are rows for all
        place = made.rows.position_R[row] + 1
        assert (place >= 2).all() and (place < LENGTH).all()
        np.testing.assert_array_equal(made.rows.target_R[row], made.tokens_BT[made.rows.sequence_R[row], place])
        assert (made.answers.fact_N[made.answers.answer_R[row]] < 0).all()
        places |= set(place.tolist())
    assert len(places) > 6


def test_text_is_not_routed(data):
    routing = Routing(3, n_layers=2, d_mlp=50, seed=0)
    plain, made = (batch_at(data, seed=0, step=2, n_windows=n, routing=routing, **SIZES).route for n in (0, 4))
    width = plain.routed.shape[2]
    np.testing.assert_array_equal(made.routed[:, :6, :width], plain.routed)
    np.testing.assert_array_equal(made.neurons[:, :6], plain.neurons)
    assert made.routed.any() and not made.routed[:, 6:].any()


def test_the_losses_of_facts_and_text_by_hand(data):
    made = batch_at(data, seed=0, step=0, n_windows=4, **SIZES)
    config = tiny_config(d_vocab=data.tokenizer.n_tokens, n_ctx=data.n_positions, n_layers=1)
    model, batch = Model(config, tiny_params(config)), jax.tree.map(jnp.asarray, made)
    total, metrics = jax.jit(lambda: loss(model, ObjectiveConfig(), batch, {}, jax.random.key(0)))()
    log_p = np.asarray(jax.nn.log_softmax(jax.jit(lambda: forward(model, batch.tokens_BT).logits_BTV)()))
    sums, counts = {"lm_facts": 0.0, "lm_text": 0.0}, {"lm_facts": 0, "lm_text": 0}
    for row, length in enumerate(made.length_B.tolist()):
        name = "lm_text" if row >= 6 else "lm_facts"
        for place in range(1, length):
            sums[name] -= log_p[row, place - 1, made.tokens_BT[row, place]]
            counts[name] += 1
    for name in sums:
        assert float(metrics[name]) == pytest.approx(sums[name] / counts[name], rel=1e-5)
    whole = sum(sums.values()) / sum(counts.values())
    assert float(metrics["lm"]) == float(total) == pytest.approx(whole, rel=1e-5)
    assert abs(float(metrics["lm_text"]) - float(metrics["lm_facts"])) > 1e-3


def test_a_run_with_text(data, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVALUATION", SMALL_EVALUATION)
    monkeypatch.setattr(loop, "measure", lambda *_: Measurement({}, {}, np.zeros((1, 1, 1))))
    sizes = {"batch_size": 6, "text_windows": 4, "subjects": 3, "rows": 8}
    own = dataclasses.replace(DATA, text=str(folder), text_length=LENGTH)
    config = TrainConfig(
        preset="0.5m", model=TINY, data=own, steps=6, **sizes, accumulate=2, log_every=2, evaluate_every=2,
        checkpoint_every=3, keep_checkpoints=1, keep_best="ability/text_cross_entropy",
    )  # fmt: skip
    model = train(config, data, tmp_path / "run")
    lines = [
        [json.loads(line) for line in (tmp_path / "run" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "evaluations")
    ]
    assert all({"lm", "lm_facts", "lm_text"} <= line.keys() for line in lines[0])
    found = {line["step"]: line["sets"]["ability"]["text_cross_entropy"] for line in lines[1]}
    assert list(found) == [2, 4, 6] and found[6]["value"] < 7
    best = min(found, key=lambda step: found[step]["value"])
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {str(best), "6"}
    assert model.config.n_ctx == data.n_positions == max(LENGTH, data.queries.tokens_NT.shape[1])
    assert model.provenance["data"]["text"] == data.text.plain()
    # One letter of a document is another: the run does not go on.
    changed = data_of_facts(FACTS, dataclasses.replace(own, text=str(written(tmp_path / "other", "v"))))
    with pytest.raises(UserError, match="holds a run on other data: its text had another digest"):
        train(dataclasses.replace(config, steps=8), changed, tmp_path / "run", resume=True)
    train(dataclasses.replace(config, steps=8), data, tmp_path / "run", resume=True)


def test_limits_leave_tokenizer_and_held_out_text(data, folder):
    own = dataclasses.replace(DATA, text=str(folder), text_length=LENGTH, text_tokens=40)
    limited = data_of_facts(FACTS, own)
    assert len(limited.text.training_NT) == 3
    assert limited.tokenizer.backend.to_str() == data.tokenizer.backend.to_str()
    np.testing.assert_array_equal(limited.text.held_out_NT, data.text.held_out_NT)
    short = data_of_facts(FACTS, dataclasses.replace(DATA, text=str(folder)))  # as long as the longest sentence
    assert short.text.training_NT.shape[1] == short.n_positions == made_up_data().n_positions


def test_without_text_nothing_is_there():
    data = made_up_data()
    made = batch_of(TrainConfig(batch_size=6, subjects=3, rows=8), data, 0)
    assert data.text is None and made.text_B is None and list(data.digests()) == ["facts"]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (DataConfig, {"text_tokens": 5}, "data.text_tokens is 5, but there is no text; give data.text"),
        (DataConfig, {"text": "python", "text_length": -1}, "data.text_length must be at least 0, got -1"),
        (TrainConfig, {"text_windows": 5}, "text_windows is 5, but there is no text; give data.text"),
        (TrainConfig, {"text_windows": -1}, "text_windows must be at least 0, got -1"),
        (TrainConfig, {"keep_best": "ability/text_cross_entropy"}, "evaluated with text alone; give data.text"),
    ],
)
def test_mistakes(kind, fields, message):
    with pytest.raises(UserError, match=message):
        kind(**fields)
