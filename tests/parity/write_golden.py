"""Writes the golden files from the reference: `python tests/parity/write_golden.py`, in an environment with torch."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import published
from brute_force import attribution
from reference import build, file_shapes, logits

DIGITS = 12


def record(name: str) -> dict:
    """What a golden file holds: the config, tensors, logits at what is not padding; attributions for some."""
    config = published.CASES[name]
    model = build(config, "float64")
    shapes, layers = file_shapes(config), model.config.get_text_config().num_hidden_layers
    found = logits(model, "float64")
    rows = [found[i, :length] for i, length in enumerate(published.LENGTHS)]
    result = {"config": config, "layers": layers, "tensors": _templates(shapes, layers), "logits": _rounded(rows)}
    if name in published.ATTRIBUTED:
        scores, probability = attribution(model, "float64", points=published.POINTS)
        result |= {"attribution": _rounded(scores), "probability": _rounded([probability])[0]}
    return result


def _templates(shapes: dict[str, tuple[int, ...]], layers: int) -> dict[str, tuple[int, ...]]:
    """Names with "{}" for the layer's number, where all layers have the tensor."""
    templates = {name: re.sub(r"(^|\.)(layers?|h)\.\d+\.", r"\1\2.{}.", name) for name in shapes}
    n_layers = Counter(templates.values())
    return {template if n_layers[template] == layers else name: shapes[name] for name, template in templates.items()}


def _rounded(rows) -> list:
    return [np.round(row, DIGITS).tolist() for row in rows]


if __name__ == "__main__":
    published.GOLDEN.mkdir(exist_ok=True)
    for case in published.CASES:
        text = json.dumps(record(case), separators=(",", ":"))
        (published.GOLDEN / f"{case}.json").write_text(text.replace('],"', '],\n"') + "\n")
        print(f"{case}: {len(text)} bytes")
