"""The command line: help, one-line errors, and the commands on the reference models."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from knowing import N_RELATIONS, knowing, table
from tiny import ARCHITECTURES, masked_tokenizer, tiny_config, tiny_params

from jaxinterp.cli import main as cli
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.model import Model
from jaxinterp.models.sources.fetch import resolve
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import TrainConfig

ROOT = Path(__file__).parent.parent


def status(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def unboxed(text):
    """The words in a box that is as wide as the terminal."""
    return " ".join(re.sub("[│─╭╮╰╯]", " ", text).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Paths of a tiny model that knows some facts, of these facts, and of a tiny masked model."""
    folder = tmp_path_factory.mktemp("made")
    pretrained, facts = knowing()
    save_model(folder / "pretrained", pretrained)
    (folder / "facts.csv").write_text(table(facts))
    tokenizer = masked_tokenizer(["a b c d e ."])
    config = tiny_config(n_layers=2, d_vocab=tokenizer.n_tokens, **ARCHITECTURES["bert"])
    save_model(folder / "masked", LanguageModel(Model(config, tiny_params(config)), tokenizer, {}))
    return {"pretrained": folder / "pretrained", "facts": folder / "facts.csv", "masked": folder / "masked"}


@pytest.mark.parametrize("command", ["train", "measure", "attribute", "facts", "models list", "models export"])
def test_help_explains_every_field(command, capsys):
    code, out, _ = status([*command.split(), "--help"], capsys)
    assert code == 0
    assert "(default: " in out or "(required)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --preset 9m", "unknown preset '9m'; known: 0.5m, 0.7m"),
        ("train --data.domains planets", "unknown domain 'planets'; known:"),
        ("train --data.relations capitol", "unknown relation 'capitol'; known:"),
        ("train --data.split.unseen-relations capitol", "unknown relation 'capitol'; known:"),
        ("train --data.split.unseen-facts 1", "unseen_facts must lie between 0 and 1"),
        (
            "train --objective.weights suppresion 1",
            "unknown objective 'suppresion'; known: activity, balance, concentration, control, ",
        ),
        ("train --objective.weights suppression x", "a schedule is a number"),
        ("train --objective.k 100000", "k must be at least 1 and below the model's number of neurons (1152)"),
        ("train --model n_ctx 3", "model.n_ctx is 3, but the longest"),
        ("train --data.vocab-size 10", "above vocab_size = 10; raise it or use bpe"),
        ("train --model d_vocab 9", "model.d_vocab is the tokenizer's number of tokens"),
        ("train --seed -1", "seed must be at least 0, got -1"),
        ("measure --model {model} --tolerance nan", "measure.tolerance must be a finite number, and 0 without a minus"),
        ("measure --model {model} --tolerance inf", "measure.tolerance must be a finite number"),
        ("train --optimiser.learning-rate nan", "optimiser.learning_rate must be a finite number"),
        ("train --optimiser.weight-decay -0.0", "optimiser.weight_decay must be a finite number"),
        ("train --objective.temperature inf", "objective.temperature must be a finite number"),
        (
            "train --objective.weights suppression 0@0,nan@9",
            "every number of the schedule '0@0,nan@9' must be a finite",
        ),
        ("train --model norm_eps nan", "model.norm_eps must be a finite number"),
        ("attribute --model {model} --prompt a --answer b --tolerance nan", "tolerance must be a finite number"),
        ("train --rows 1", "an answer has 5 tokens, above rows = 1; raise rows"),
        ("measure --model {model} --json {tmp}", "it is a folder; give the name of a file"),
        ("train --resume", "holds no run to resume"),
        ("measure --model {tmp}", "holds no model: config.json is missing"),
        ("measure --model {model} --k 100000", "k must be at least 1 and below"),
        (
            "measure --model {model} --metrics supressability",
            "unknown metric 'supressability'; did you mean suppressability",
        ),
        (
            "attribute --model {model} --prompt 'The capital of Atlantis is' --answer ' Oslo'",
            "does not know 'Atlantis' in 'The",
        ),
        ("attribute --model {model} --prompt '' --answer Paris", "neither prompt nor answer may be empty"),
        (
            "attribute --model {model} --prompt 'The capital of Norway is' --answer ' Oslo' --k 0",
            "k must be at least 1",
        ),
        (f"attribute --model {{model}} --prompt '{'the ' * 40}' --answer ' Oslo'", "above the model's context"),
        (
            "attribute --model {masked} --prompt 'a b c' --answer d",
            "with [MASK] in place of the answer, once; the prompt",
        ),
        ("attribute --model {masked} --prompt '[MASK] b [MASK]' --answer d", "'[MASK] b [MASK]' has it 2 times"),
        ("attribute --model {masked} --prompt 'a [MASK]' --answer z", "does not know 'z' in 'a z'"),
        ("attribute --model {masked} --prompt '[MASK]' --answer a", "neither prompt nor answer may be empty"),
        (
            "attribute --model modle --prompt a --answer b",
            "there is no model 'modle': no such folder or .gguf file is here",
        ),
        ("measure --model modle", "it is not a name of the catalogue ("),
        ("measure --model {pretrained}", "is a pretrained model: say with --facts what to measure it on"),
        (
            "measure --model {pretrained} --facts nothere.csv",
            "no facts at 'nothere.csv': no such file or folder; accepted",
        ),
        ("measure --model {pretrained} --facts world:planets", "unknown domain 'planets'; known:"),
        ("measure --model {pretrained} --facts {facts} --k 12", "k must be at least 1 and below"),
        ("facts show --facts nothere", "no facts at 'nothere': no such file or folder; accepted"),
        ("models verify modle", "modle"),
        ("models export {model} {masked}", "exists and has files; give a new folder"),
        ("models export {model} {tmp}/new --family lama", "unknown family 'lama'; known: bert, distilbert, gemma2"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(arguments, message, made, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(arguments.format(tmp=tmp_path, model="reference-suppressable", **made))
    code, _, err = status(words, capsys)
    assert code == 2
    # A config within another one is checked while tyro parses, which puts the same sentence into its box.
    assert message in unboxed(err) and "Traceback" not in err, err
    told = [line for line in err.splitlines() if not re.fullmatch(r"measure .*: 0/\d+", line)]  # progress that began
    assert "For full helptext, see" in err or (len(told) == 1 and told[0].startswith("error: ")), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --objective.path diagonal", "'--objective.path'. Expected one of ('joint', 'per_layer')"),
        ("train --objective.kk 3", "Unrecognized options: --objective.kk, 3"),
        ("train --steps many", "Error parsing --steps: invalid literal for int() with base 10: 'many'"),
        ("attribute --rule simpson --prompt a --answer b", "invalid choice 'simpson' for argument '--rule'"),
        ("trian", "Unrecognized options: trian"),
        ("attribute --answer Paris", "Missing from jaxinterp attribute: --prompt STR"),
    ],
)
def test_arguments_that_are_none_are_told_by_tyro(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = status(arguments.split(), capsys)
    assert code == 2 and message in unboxed(err) and "--help" in err, err
    assert "Traceback" not in err and not out and not list(tmp_path.iterdir())


def test_the_shell_sees_the_status():
    script = Path(sys.executable).with_name("jaxinterp")
    result = subprocess.run([script, "train", "--steps", "0"], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "steps must be at least 1, got 0" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_output_to_a_full_disk_or_to_nobody_is_no_traceback():
    code = "import sys; from jaxinterp.cli.run import run; sys.exit(run(lambda: print('x')))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that the last line is written at the end
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: No space left on device; make room\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_output_encoding_will_do(encoding, tmp_path):
    """As on Windows, where redirected output is of a code page; every byte of it can be read back."""
    table = tmp_path / "ß.CSV"
    table.write_text("relation,subject,answer,prompt\n首都,Česko,Prāha,The capital of {subject} is\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    code = "import sys; from jaxinterp.cli.main import main; main(sys.argv[1:])"
    for arguments, status, shown in (
        (["facts", "show", "--facts", str(table)], 0, "首都"),
        (["metrics", "list", "--json"], 0, "−"),
        (["metrics", "show", "selective"], 0, "−"),
        (["models", "list"], 0, "smollm2"),
        (["train", "--help"], 0, "usage"),
        (["facts", "show", "--facts", str(tmp_path / "首都")], 2, "首都"),
    ):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, env=environment, check=False)
        out, err = result.stdout.decode(encoding), result.stderr.decode(encoding)
        assert result.returncode == status and "Traceback" not in err, err
        escaped = shown.encode(encoding, "backslashreplace").decode(encoding)
        assert escaped in out + err


def test_a_run_goes_on_from_its_folder_alone(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("jaxinterp.training.data.training_data", lambda config: None)
    monkeypatch.setattr(
        "jaxinterp.training.loop.train", lambda config, data, out, resume: asked.append((config, resume))
    )
    own = dataclasses.replace(
        TrainConfig(), steps=700, batch_size=8, objective=ObjectiveConfig(weights={"control": "1"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"config": dataclasses.asdict(own)}))
    out = ["--out", str(tmp_path)]
    assert status(["train", "--resume", *out], capsys)[0] == 0
    assert status(["train", "--resume", *out, "--steps", "900"], capsys)[0] == 0
    assert asked == [(own, True), (dataclasses.replace(own, steps=900), True)]
    # Without --resume the folder does not count.
    assert status(["train", *out], capsys)[0] == 0 and asked[-1] == (TrainConfig(), False)
    (tmp_path / "config.json").write_text('{"config": {"stps": 1}}')
    code, _, err = status(["train", "--resume", *out], capsys)
    assert code == 2 and "config.json does not hold a config of this version: TrainConfig has no stps" in err


def test_attribute_on_the_reference_model(capsys):
    arguments = [
        "attribute",
        "--model",
        "reference-suppressable",
        "--prompt",
        "The internet domain of Brazil is",
    ]
    code, out, _ = status([*arguments, "--answer", " .br", "--json"], capsys)
    assert code == 0
    found = json.loads(out)
    assert found["probability"] > 0.5 and found["suppressed"] < 0.2 and found["random"] > 0.7
    (token,) = found["tokens"]
    assert token["token"] == token["predicted"] == ".br" and len(token["neurons"]) == 8
    assert abs(token["completeness_residual"]) < 0.05
    scores = [neuron["score"] for neuron in token["neurons"]]
    assert scores == sorted(scores, reverse=True)
    assert found["read"] == {
        "tokens": ["<bos>", "The", "internet", "domain", "of", "Brazil", "is", ".br"],
        "answer": [7, 8],
    }
    code, out, _ = status([*arguments, "--answer", " .br"], capsys)
    assert code == 0 and "read as '<bos>' 'The'" in out and "promotes" in out and "own neurons off" in out


def test_measure_on_the_reference_models(capsys, tmp_path):
    small = [
        "--queries",
        "48",
        "--ability-queries",
        "64",
        "--ablation-queries",
        "0",
        "--replicates",
        "50",
        "--rows",
        "16",
        "--metrics",
        "suppressability",
        "control_drop",
    ]
    results = {}
    for name in ("plain", "suppressable"):
        path = tmp_path / f"{name}.json"
        code, out, _ = status(["measure", "--model", f"reference-{name}", *small, "--json", str(path)], capsys)
        assert code == 0 and "objective" in out
        results[name] = json.loads(path.read_text())
    for name in ("objective", "held_out_prompts", "unseen_facts"):
        plain, trained = (results[model]["sets"][name] for model in ("plain", "suppressable"))
        assert trained["suppressability"]["value"] > 0.6 > 0.4 > plain["suppressability"]["value"]
        assert trained["control_drop"]["value"] < 0.25


def test_measure_on_a_relation_whose_answers_have_no_probability(capsys, tmp_path):
    rows = [
        f"{relation},{subject},{answer},The {relation if relation != 'motto' else 'capital'} of {{subject}} is"
        for relation, answers in (
            ("capital", ("Lima", "Nairobi", "Oslo")),
            ("continent", ("South America", "Africa", "Europe")),
            ("motto", (" ".join(["Asia"] * 14),) * 2),
        )
        for subject, answer in zip(("Peru", "Kenya", "Norway"), answers, strict=False)
    ]
    table = tmp_path / "facts.csv"
    table.write_text("\n".join(["relation,subject,answer,prompt", *rows]), encoding="utf-8")
    small = ["--ablation-queries", "0", "--replicates", "50", "--points", "2", "--controls", "1"]
    path = tmp_path / "numbers.json"
    arguments = ["--model", "reference-plain", "--facts", str(table), *small, "--json", str(path)]
    code, out, err = status(["measure", *arguments], capsys)
    assert code == 0, err
    assert "facts: 1 relation left out: motto (P = 0)" in out

    def refused(constant):
        raise AssertionError(constant)

    results = json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)
    assert results["left_out_relations"] == {"facts": {"motto": "P = 0"}}
    inside, overall = results["by_relation"]["facts"], results["sets"]["facts"]
    for name in ("suppressability", "control_drop", "selective", "random_drop"):
        assert overall[name]["value"] is not None and overall[name]["n"] <= 6
        assert inside["motto"][name]["value"] is None
        for relation in ("capital", "continent"):
            assert inside[relation][name]["low"] < inside[relation][name]["value"] < inside[relation][name]["high"]


def test_measure_on_facts_of_ones_own(made, capsys, tmp_path):
    small = ["--queries", "6", "--ability-queries", "0", "--ablation-queries", "0", "--replicates", "10", "--rows", "8"]
    path = tmp_path / "numbers.json"
    arguments = ["--model", str(made["pretrained"]), "--facts", str(made["facts"]), "--k", "2", "--points", "1"]
    code, out, err = status(["measure", *arguments, *small, "--json", str(path)], capsys)
    assert code == 0, err
    assert f"left out: {N_RELATIONS} prompt whose answer does not come last" in out and "known facts" in out
    results = json.loads(path.read_text())
    assert results["left_out"] == {"prompt whose answer does not come last": N_RELATIONS}
    assert tuple(results["sets"]) == ("facts", "known_facts")
    assert results["sets"]["known_facts"]["recall"]["value"] == 1 > results["recall"]["value"] > 0.3
    about = results["provenance"]
    assert about["facts"] == str(made["facts"]) and about["model"] == {"made": "for tests"}
    assert about["measure"]["points"] == 1 and "revision" in about


def test_attribute_on_a_masked_model(made, capsys):
    arguments = ["--model", str(made["masked"]), "--k", "2", "--points", "2", "--answer", "d e", "--json"]
    code, out, err = status(["attribute", *arguments, "--prompt", "a b [MASK] c ."], capsys)
    assert code == 0, err
    found = json.loads(out)
    assert [token["token"] for token in found["tokens"]] == ["d", "e"]
    probability = [token["probability"] for token in found["tokens"]]
    assert found["probability"] == pytest.approx(probability[0] * probability[1]) and 0 < found["probability"] < 1
    assert all(len(token["neurons"]) == 2 for token in found["tokens"])
    # What follows the answer is read too.
    _, out, _ = status(["attribute", *arguments, "--prompt", "a b [MASK] a ."], capsys)
    assert json.loads(out)["probability"] != pytest.approx(found["probability"])


def test_fields_that_nobody_read_are_told_and_leave_json_alone(made, capsys, tmp_path):
    model = shutil.copytree(made["masked"], tmp_path / "model")
    (model / "digests.json").unlink()
    (model / "provenance.json").write_text(
        json.dumps(json.loads((model / "provenance.json").read_text()) | {"fields_not_read": ["window_of_the_future"]})
    )
    arguments = ["--k", "2", "--points", "2", "--answer", "d", "--json", "--prompt", "a b [MASK] c ."]
    code, out, err = status(["attribute", "--model", str(model), *arguments], capsys)
    assert code == 0 and json.loads(out)["answer"] == "d"
    told = f"{model}: these fields of its config are not known here and were not read: window_of_the_future"
    assert [line for line in err.splitlines() if not line.endswith(" …")] == [told]  # beside what takes a while


def test_every_command_loads_models_by_the_function_that_tells():
    """What is not read is printed by `load_model`; nothing outside `models` gets round it."""
    for path in (ROOT / "jaxinterp").rglob("*.py"):
        if "models" not in path.relative_to(ROOT).parts:
            assert not re.search(r"\b(load_pretrained|pretrained_parameters)\b", path.read_text()), path


def test_models_export_writes_what_models_are_loaded_from(made, capsys, tmp_path):
    code, out, err = status(["models", "export", str(made["masked"]), str(tmp_path / "new")], capsys)
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'new'}: bert, 42 tensors, float32\n"
    assert load_model(tmp_path / "new").digest() == load_model(made["masked"]).digest()


def test_models_list_needs_no_network(capsys, tmp_path, monkeypatch):
    import socket

    def refused(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, out, err = status(["models", "list", "--folder", str(tmp_path)], capsys)
    assert code == 0, err
    for name in ("smollm2-135m-instruct-q4", "gemma3-270m-q4", "bert-base-cased", "gpt2", "pythia-70m"):
        assert sum(re.search(rf"^│ {re.escape(name)} +│", line) is not None for line in out.splitlines()) == 1
    assert str(tmp_path) in out.replace("\n", "")


def test_measuring_other_facts_is_refused(capsys, tmp_path):
    shutil.copytree(resolve("reference-plain"), tmp_path / "model")
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    provenance["data"]["sha256"] = "another"
    (tmp_path / "model" / "provenance.json").write_text(json.dumps(provenance))
    (tmp_path / "model" / "digests.json").unlink()
    code, _, err = status(["measure", "--model", str(tmp_path / "model")], capsys)
    assert code == 2 and "install the data packages" in err and "countryinfo" in err


def test_imports_no_jax():
    code = "import sys, jaxinterp.cli.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
