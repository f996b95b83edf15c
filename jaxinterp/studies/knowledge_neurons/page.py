"""The study as one page, and its charts as files for papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.studies.knowledge_neurons.charts import effect_charts, neuron_charts
from jaxinterp.studies.knowledge_neurons.results import Results
from jaxinterp.studies.knowledge_neurons.tables import asked_shown, effects_shown, neurons_shown, relations_shown

REPORT = "report.html"
LEAD = (
    "The experiment of “Knowledge Neurons in Pretrained Transformers” (Dai et al. 2021). Integrated gradients say "
    "which feed-forward neurons carry each answer. They are switched off and doubled, and the answer's probability is "
    "compared with what happens to it when the neurons are those with the highest activation, those of other facts, "
    "or random ones.",
    "Neurons of a fact are chosen in two ways: by the paper's rule, those that most of a fact's prompts have in "
    "common, or a fixed number for each token of the answer.",
)


def write_page(
    out: Path, results: Results, neurons: Mapping[str, Sequence[Mapping]], examples: Sequence[Mapping]
) -> None:
    """Writes `REPORT` to `out`, and every chart to its folder charts as .svg and .png.

    Args:
      out: folder of the study.
      results: its numbers.
      neurons: of each protocol, as `described_neurons` gives them.
      examples: facts with their neurons, as `jaxinterp.api.reported.shown_facts` gives them.
    Raises:
      UserError: if a file cannot be written.
    """
    sections = [
        Section("asked", "What was asked", asked_shown(results)),
        Section("effects", "What the neurons do", effects_shown(results), effect_charts(results)),
        Section("neurons", "The neurons", neurons_shown(results), neuron_charts(results, neurons)),
        Section("relations", "By relation", relations_shown(results)),
    ]
    for section in sections:
        for name, chart in section.charts.items():
            if chart is not None:
                save_chart(chart, out / "charts", name)
    where_from = {**results.provenance, "config": results.config}
    write_sections(out / REPORT, f"Knowledge neurons of {results.model['name']}", LEAD, sections, where_from, examples)
