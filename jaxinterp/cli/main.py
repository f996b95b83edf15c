"""The command line `jaxinterp`. JAX is imported by the commands, not here, so that `--help` answers at once."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jaxinterp.attribution.config import IntegralConfig
from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.cli.doctor import Doctor
from jaxinterp.cli.edit import Edit
from jaxinterp.cli.facts import Facts
from jaxinterp.cli.metrics import Metrics
from jaxinterp.cli.models import Models
from jaxinterp.cli.neuron import Neuron
from jaxinterp.cli.options import Defaults
from jaxinterp.cli.plan import Plan
from jaxinterp.cli.replay import Replay
from jaxinterp.cli.run import experiment
from jaxinterp.cli.runs import Runs
from jaxinterp.cli.study import Study
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.training.config import TrainConfig

REFERENCE = "reference-suppressable"


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a language model on facts, plainly or to be suppressable."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/run")  # folder of the run
    # Continue the run in that folder from its newest checkpoint. The folder is enough: options that are not given are
    # the run's own. --steps may be larger than before, also of a run that is done
    resume: bool = False
    of_processes: ClassVar[bool] = True  # several may run it together

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.training.data import training_data
        from jaxinterp.training.loop import train

        train(self.config, training_data(self.config.data), self.out, resume=self.resume)
        print(f"model: {self.out / 'model'}   metrics: {self.out / 'metrics.jsonl'}")


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measure a model: one of ours on the four sets of facts it was trained with, any model on any facts."""

    config: Annotated[MeasureConfig, tyro.conf.arg(name="")]
    model: str = REFERENCE  # folder of a model, a .gguf file, a name from `jaxinterp models list`, or org/name of a hub
    facts: str | None = None  # world, world:DOMAINS, pararel, a folder of ParaRel or LAMA, a .json, .jsonl or .csv
    json: Path | None = None  # file to write all numbers to, as results.json has them

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.api.measured import measure
        from jaxinterp.base.files import writable_folder, write_json
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.models.mesh import make_mesh, placement
        from jaxinterp.report.shown import print_parts

        if self.json is not None:
            writable_folder(self.json.parent)
            if self.json.is_dir():
                raise UserError(f"cannot write to {self.json}: it is a folder; give the name of a file")
        name = self.model.rstrip("/").rsplit("/", 1)[-1]
        model = load_model(self.model, placement=placement(make_mesh()))
        measured = measure(model, self.facts, self.config, name=name)
        print_parts(measured.parts())
        if self.json is not None:
            write_json(self.json, measured.to_json())
            print(f"numbers: {self.json}")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Show the neurons that carry one answer, and what switching them off or doubling them does."""

    # Text that ends just before the answer; for a masked model, text with its mask, "[MASK]", in its place. It is read
    # as it stands
    prompt: str
    answer: str  # what should follow, as it stands: " Paris" with its space after "The capital of France is"
    model: str = REFERENCE  # folder of a model, a .gguf file, a name from `jaxinterp models list`, or org/name of a hub
    k: int = 8  # neurons of the answer, and of each of its tokens, out of all layers
    integral: Annotated[IntegralConfig, tyro.conf.arg(name="")] = IntegralConfig()
    path: Literal["per_layer", "joint"] = "per_layer"  # of integrated gradients
    chat: bool = False  # the prompt is a message to a model that converses, put into its own chat template
    special_tokens: bool = False  # control tokens that prompt and answer spell out, as "<|im_end|>", are meant
    json: bool = False  # print JSON for programs

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.api.attribute import attribute
        from jaxinterp.base.progress import waiting
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.models.mesh import make_mesh, placement
        from jaxinterp.report.shown import print_parts

        with waiting(f"reading {self.model}"):
            # A single text has nothing to divide, so that only a mesh that is asked for counts.
            model = load_model(self.model, placement=placement(make_mesh(auto=lambda n: "one")))
        with waiting("compiling, and following the answer's probability along the path"):
            attributed = attribute(
                model,
                self.prompt,
                self.answer,
                k=self.k,
                **dataclasses.asdict(self.integral),
                path=self.path,
                chat=self.chat,
                control_tokens=self.special_tokens,
            )
        with waiting("switching neurons off, together and one by one"):
            shown = json.dumps(attributed.to_json(), indent=1, ensure_ascii=False) if self.json else attributed.parts()
        print(shown) if isinstance(shown, str) else print_parts(shown)


@dataclasses.dataclass(frozen=True)
class Report:
    """Measure any models and write one page about them: tables, charts, and a few facts with their neurons."""

    # Folders of models or of runs (whose training is shown, too), .gguf files, names from `jaxinterp models list`
    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    config: Annotated[MeasureConfig, tyro.conf.arg(name="")]
    out: Path = Path("report.html")  # file to write; it opens offline
    facts: str | None = None  # as of `measure`; needed by models that were not trained here
    examples: int = 3  # facts that are shown with their neurons

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.api.reported import named, write_report
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.models.mesh import make_mesh, placement

        places, lies = named(self.models), placement(make_mesh())
        write_report(
            {of.name: load_model(of.place, placement=lies) for of in places},
            self.out,
            self.facts,
            self.config,
            histories={of.name: of.history for of in places if of.history},
            examples=self.examples,
        )
        print(f"report: {self.out}")


COMMANDS = {
    "train": Train,
    "measure": Measure,
    "attribute": Attribute,
    "neuron": Neuron,
    "edit": Edit,
    "report": Report,
    "facts": Facts,
    "models": Models,
    "metrics": Metrics,
    "runs": Runs,
    "study": Study,
    "replay": Replay,
    "plan": Plan,
    "doctor": Doctor,
}


def _saved(parsed: object) -> Defaults | None:
    """A run that is to be continued, with the config that its folder has; None if that is not what is asked."""
    if not isinstance(parsed, Train) or not parsed.resume or not (parsed.out / "config.json").is_file():
        return None
    place = parsed.out / "config.json"
    config = from_json(TrainConfig, read_json(place).get("config", {}), str(place))
    return Defaults("train", Train, {**vars(parsed), "config": config})


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `jaxinterp`."""
    experiment(COMMANDS, arguments, prog="jaxinterp", saved=_saved)
