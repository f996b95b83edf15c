"""Every reader of files that users bring or runs leave, with small real files for it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mutations import Gguf
from small_models import (
    HF,
    TOKENIZERS,
    Files,
    files_of,
    gguf_file,
    hf_tokenizer_files,
    own_model,
    published_model,
    sharded_model,
)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, and files that it reads whole."""

    opened: Callable[[Path], object]  # the folder with the files -> what is in them
    cases: Sequence[Files]
    damaged: tuple[str, ...]  # files that get damaged, one at a time; those of them that a case has


def readers() -> dict[str, Callable[[], Reader]]:
    """What makes each reader, by its name in tables."""
    return {
        "run config (--config)": _run_config,
        "own model config": lambda: Reader(_model, [own_model()], ("config.json",)),
        "own model's other JSON": lambda: Reader(
            _model, [own_model(), own_model(pinned=True)], ("frame.json", "provenance.json", "digests.json")
        ),
        "own tokenizer.json": lambda: Reader(_tokenizer, [own_model()], ("tokenizer.json", "frame.json")),
        "HF config.json": lambda: Reader(_parameters, [published_model(config) for config in HF], ("config.json",)),
        "HF tokenizer": lambda: Reader(_hf_tokenizer, [hf_tokenizer_files()], tuple(hf_tokenizer_files())),
        "safetensors": lambda: Reader(_parameters, [published_model(HF[0])], ("model.safetensors",)),
        "safetensors index": lambda: Reader(_parameters, [sharded_model()], ("model.safetensors.index.json",)),
        "GGUF": lambda: Reader(_gguf, [{"model.gguf": gguf_file()}], ("model.gguf",)),
        "GGUF tokenizer": lambda: Reader(
            _gguf_tokenizer, [{"model.gguf": Gguf(tuple(pairs), (), b"")} for pairs in TOKENIZERS], ("model.gguf",)
        ),
        "facts .csv": lambda: _facts({"facts.csv": _csv()}, "facts.csv"),
        "facts .jsonl": lambda: _facts({"facts.jsonl": _jsonl(ROWS)}, "facts.jsonl"),
        "facts of ParaRel": lambda: _facts(_pararel(), "", *_pararel()),
        "facts of LAMA": lambda: _facts(_lama(), "", *_lama()),
        "facts of CounterFact": lambda: _facts({"facts.json": json.dumps(_counterfact()).encode()}, "facts.json"),
        "logs": lambda: Reader(_log, [{"metrics.jsonl": _sealed(STEPS)}], ("metrics.jsonl",)),
        "records": lambda: Reader(_record, [{"done.jsonl": _sealed(DONE)}], ("done.jsonl",)),
        "config.json of a run": lambda: Reader(_claim, [_claimed()], ("config.json",)),
        "list of runs": lambda: Reader(_listed, [_claimed()], ("config.json", "metrics.jsonl")),
        "published figures": lambda: Reader(_figures, [{"published.json": _published_figures()}], ("published.json",)),
    }


def _run_config() -> Reader:
    from jaxinterp.cli.main import COMMANDS
    from jaxinterp.cli.options import Given, configured
    from jaxinterp.training.config import TrainConfig

    whole = json.loads(json.dumps(dataclasses.asdict(TrainConfig(model={"d_model": "16"})), default=str))
    yaml = b"steps: 500\nbatch-size: 8\nmodel:\n  d_model: 64\ndata: {split: {n_unseen_relations: 2}}\nout: x\n"

    def opened(folder: Path) -> object:
        return [configured(COMMANDS, Given(["train"], [file])) for file in sorted(folder.iterdir())]

    return Reader(opened, [{"a.json": json.dumps(whole).encode()}, {"a.yaml": yaml}], ("a.json", "a.yaml"))


def _model(folder: Path) -> object:
    from jaxinterp.models.loading.bundle import load_model

    model = load_model(folder)
    return model.tokenizer.encode("a b")


def _parameters(folder: Path) -> object:
    from jaxinterp.models.loading.load import pretrained_parameters

    return pretrained_parameters(folder)


def _gguf(folder: Path) -> object:
    from jaxinterp.models.loading.load import load_pretrained

    return load_pretrained(folder / "model.gguf").tokenizer.encode("he")


def _tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.tokenizer_files import load_tokenizer

    return _used(load_tokenizer(folder / "tokenizer.json"))


def _hf_tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer

    return _used(folder_tokenizer(folder))


def _gguf_tokenizer(folder: Path) -> object:
    from jaxinterp.models.loading.gguf_metadata import read_metadata
    from jaxinterp.models.loading.gguf_tokenizer import gguf_tokenizer

    path = folder / "model.gguf"
    return _used(gguf_tokenizer(read_metadata(path), path))


def _used(tokenizer) -> object:
    ids = tokenizer.encode("a he 東")
    return tokenizer.n_tokens, [tokenizer.token(id) for id in ids]


ROWS = [
    {"relation": name, "subject": f"s{n}", "answer": f"{name}{n % 3}", "prompt": f"the {name} of {{subject}} is"}
    for name in ("capital", "colour")
    for n in range(4)
]


def _facts(files: Files, place: str, *damaged: str) -> Reader:
    from jaxinterp.facts.source import load_facts

    def opened(folder: Path) -> object:
        facts = load_facts(str(folder / place))
        return facts.digest()

    return Reader(opened, [files], damaged or tuple(files))


def _csv() -> bytes:
    return "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]).encode()


def _jsonl(rows: Sequence[Mapping]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _pararel() -> Files:
    patterns = [{"pattern": "[X] is in [Y]."}, {"pattern": "The place of [X] is [Y]."}]
    facts = [{"sub_label": f"s{n}", "obj_label": f"o{n % 2}"} for n in range(4)]
    return {f"templates/{name}.jsonl": _jsonl(patterns) for name in ("P17", "P36")} | {
        f"facts/{name}.jsonl": _jsonl(facts) for name in ("P17", "P36")
    }


def _lama() -> Files:
    trex = [{"obj_label": f"o{n % 2}", "sub_label": f"s{n}", "predicate_id": "P36"} for n in range(4)]
    concept = [
        {"obj_label": "fly", "sub": f"bird{n}", "masked_sentences": [f"a bird{n} can [MASK] ."], "pred": "CapableOf"}
        for n in range(3)
    ]
    templates = [{"relation": "P36", "template": "The capital of [X] is [Y] ."}]
    return {"P36.jsonl": _jsonl(trex), "test.jsonl": _jsonl(concept), "relations.jsonl": _jsonl(templates)}


def _counterfact() -> list[dict]:
    return [
        {
            "case_id": n,
            "requested_rewrite": {
                "prompt": "The mother tongue of {} is",
                "relation_id": "P103",
                "subject": f"s{n}",
                "target_true": {"str": f"o{n % 2}", "id": "Q1"},
                "target_new": {"str": "x", "id": "Q2"},
            },
        }
        for n in range(3)
    ]


STEPS = [{"step": step, "lm": 2.5 / step, "begun": 1.0} for step in range(1, 6)]
DONE = [{"fact": fact, "scores": [0.25, 0.5]} for fact in range(4)]
CONFIG = {"steps": 4, "model": {"d_model": "16"}, "seed": 0}


def _sealed(lines: Sequence[Mapping]) -> bytes:
    from jaxinterp.base.lines import sealed

    return "".join(f"{sealed(line)}\n" for line in lines).encode()


def _claimed() -> Files:
    from jaxinterp.base.run_folder import claim

    return files_of(lambda folder: claim(CONFIG, folder, False, data={"facts": "x"})) | {
        "metrics.jsonl": _sealed(STEPS)
    }


def _published_figures() -> bytes:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "from": 0.3, "to": 0.7, "seeds": 4}
    models = {name: {"objective": {"suppressability": figure}} for name in ("plain", "suppressable")}
    return json.dumps({"seeds": 4, "models": models, "provenance": {"config": {"arm": "x"}}}).encode()


def _log(folder: Path) -> object:
    from jaxinterp.base.run_folder import truncate

    return truncate(folder / "metrics.jsonl", 4, complete=True)


def _record(folder: Path) -> object:
    from jaxinterp.base.records import Record

    return len(Record(folder / "done.jsonl"))


def _claim(folder: Path) -> object:
    from jaxinterp.base.records import claim_recorded
    from jaxinterp.base.run_folder import claim

    claim(CONFIG, folder, True, data={"facts": "x"})
    return claim_recorded(CONFIG, folder)


def _listed(folder: Path) -> object:
    from jaxinterp.training.runs import runs_in

    return [(run.state, run.done, run.last, run.begun, run.steps, run.faults()) for run in runs_in(folder)]


def _figures(folder: Path) -> object:
    from jaxinterp.base.files import read_json
    from jaxinterp.studies.suppressability.compare import single_seeds
    from jaxinterp.studies.suppressability.presets import PLAIN, SUPPRESSABLE

    return single_seeds(read_json(folder / "published.json"), {"plain": PLAIN, "suppressable": SUPPRESSABLE})


def laid_out(files: Files, folder: Path) -> None:
    """Writes the files anew into a folder that is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.written() if isinstance(content, Gguf) else content)
