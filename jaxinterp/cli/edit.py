"""`jaxinterp edit`: a fact gets another answer, and what that changes."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxinterp.base.errors import UserError
from jaxinterp.studies.editing.config import EditingConfig


@dataclasses.dataclass(frozen=True)
class Edit:
    """Give a fact another answer, and show what a model says before and after: to the prompt, to paraphrases, and to
    questions whose answers should stay.
    """

    relation: Annotated[str, tyro.conf.Positional]  # of the fact, as `jaxinterp facts` lists them: capital
    subject: Annotated[str, tyro.conf.Positional]  # France
    new: Annotated[str, tyro.conf.Positional]  # the answer that it gets: Rome
    model: str = "reference-plain"  # folder of a model, a .gguf file, a name from `jaxinterp models list`, or org/name
    facts: str | None = None  # world, world:DOMAINS, a folder or file; those the model was trained on unless given
    way: str = "kn_solve"  # to edit: kn_solve, update, rome, memit, alphaedit, ft_l, or a control as kn_solve_random
    layer: int | None = None  # that rome, memit, alphaedit and ft_l edit; the last one unless given
    at: Literal["subject", "prompt"] = "prompt"  # whose last token rome, memit and alphaedit edit
    k: int = 8  # value rows that kn_solve and update change
    questions: int = 5  # most of each kind
    seed: int = 0  # by which questions are drawn
    out: Path | None = None  # file to write the change to: a .safetensors
    json: bool = False  # print JSON for programs

    def __call__(self) -> None:
        """Runs the command."""
        import json

        from jaxinterp.base.files import writable_folder
        from jaxinterp.base.progress import waiting
        from jaxinterp.editing.change_file import save_change
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.report.shown import print_parts
        from jaxinterp.studies.editing.one import edited_fact

        if self.out is not None:
            if self.out.suffix != ".safetensors" or self.out.is_dir():
                raise UserError(f"out has to be the name of a .safetensors file, got {self.out}")
            writable_folder(self.out.parent)
        layers = () if self.layer is None else (self.layer,)
        config = EditingConfig(
            model=self.model,
            facts=self.facts,
            probes=self.questions,
            layers=layers,
            at=self.at,
            k=self.k,
            seed=self.seed,
        )
        with waiting(f"reading {self.model}"):
            model = load_model(self.model)
        with waiting("asking, editing, and asking again"):
            found = edited_fact(model, self.relation, self.subject, self.new, self.way, config)
        if self.out is not None:
            save_change(self.out, found.change)
        if self.json:
            print(json.dumps(found.to_json(), ensure_ascii=False))
            return
        print_parts(found.parts())
        if self.out is not None:
            print(f"change: {self.out}")
