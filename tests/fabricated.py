"""Made-up results and training histories in the shape that experiments write, for charts and reports; no randomness."""

import hashlib
import math

SETS = ("objective", "held_out_prompts", "unseen_facts", "unseen_relations")
RELATIONS = (
    *("countries: capital", "countries: capital_of", "countries: continent", "countries: subregion"),
    *("countries: currency", "countries: official_language", "countries: demonym", "countries: calling_code"),
    *("countries: internet_domain", "countries: iso_alpha_2", "countries: iso_alpha_3", "countries: iso_numeric"),
    *("elements: symbol", "elements: atomic_number", "elements: group_of_the_periodic_table", "us_states: capital"),
    *("us_states: abbreviation", "currencies: code", "scripts: code", "languages: iso_639_code"),
    *("subdivisions: country", "cities: country", "cities: time_zone", "airports: iata_code"),
)
# Model -> suppressability on the four sets; drops by the neurons of another fact: same relation, same subject,
# neither, same answer; how concentrated its neurons are.
MODELS = {
    "plain": ((0.324, 0.323, 0.331, 0.327), (0.041, 0.012, 0.001, 0.21), 0.02),
    "suppressable": ((0.997, 0.991, 0.914, 0.873), (0.081, 0.052, 0.012, 0.73), 0.04),
    "relation_switches": ((1.0, 1.0, 0.994, 0.988), (0.953, 0.121, 0.021, 0.97), 0.05),
    "no_control": ((1.0, 1.0, 0.994, 0.988), (0.912, 0.643, 0.612, 0.98), 0.12),
}
KINDS = ("relation", "subject", "other", "answer")
LENGTHS = ("1_token", "2_tokens", "3_tokens")
_TOKENS = (" Paris", " euro", "land", " .fr", " Europe", "ish", " +33", "Ġthe", " 250", " français")


def digest(*key: object) -> int:
    """32 bits that depend on the key only."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def jitter(*key: object) -> float:
    """A number in [-1, 1] that depends on the key only."""
    return digest(*key) / 2**31 - 1


def estimate(value: float, half: float, n: int, *, top: float = math.inf) -> dict:
    """A value and its interval, cut at `top`."""
    return {"value": min(value, top), "low": min(value - half, top), "high": min(value + 0.8 * half, top), "n": n}


def metrics(model: str, s: float, c: tuple[float, ...], n: int, *key: object, ablation: bool = True) -> dict:
    """All metrics of one set or relation; c holds the drops by kind of control."""
    wide = 1.2 / math.sqrt(n)
    s = min(1.0, s + 0.8 * wide * jitter(model, "s", *key) * math.sqrt(s * (1 - s)) * min(1.0, 3 * s))
    drops = {
        kind: drop + 0.5 * wide * jitter(model, kind, *key) * math.sqrt(drop)
        for kind, drop in zip(KINDS, c, strict=True)
    }
    largest = max(drops[kind] for kind in KINDS[:3])
    random = 0.004 + 0.02 * wide * jitter(model, "r", *key)

    def control(value: float) -> dict:
        return estimate(value, wide * math.sqrt(abs(value * (1 - value)) + 1e-4), n, top=1.0)

    values = {
        "suppressability": estimate(s, wide * math.sqrt(max(s * (1 - s), 1e-4)), n, top=1.0),
        "control_drop": control(largest),
        **{f"control_drop_{kind}": control(drop) for kind, drop in drops.items()},
        **{f"control_drop_{kind}_one_sided": control(max(drop, 0) + 0.002) for kind, drop in drops.items()},
        **{f"control_drop_{kind}_absolute": control(abs(drop) + 0.005) for kind, drop in drops.items()},
        "random_drop": estimate(random, 0.01 * wide, n),
        "selective": estimate(s - largest, wide * 0.12, n),
        "amplification": estimate(0.004 + 0.01 * s, 0.02 * wide, n),
        "probability": estimate(0.981, 0.1 * wide, n, top=1.0),
        "recall": estimate(0.996, 0.05 * wide, n, top=1.0),
        "cross_entropy": estimate(0.612, 0.2 * wide, n),
        "mean_of_ratios": estimate(s - 0.002, wide * 0.1, n, top=1.0),
        "log_probability_drop": estimate(0.03 + 9 * s * s, wide, n),
        "logit_drop": estimate(0.4 + 12 * s * s, wide, n),
        "completeness_residual": estimate(0.00042, 0.0002 * wide, n),
        **{
            f"suppressability_{length}": estimate(s + (0.03 * (index - 1)) * (1 - s), 2 * wide * 0.1, n, top=1.0)
            for index, length in enumerate(LENGTHS)
        },
        "token_suppressability": estimate(0.9 * s, wide * 0.1, n, top=1.0),
    }
    if ablation:
        values["ablation_suppressability"] = estimate(
            s * 0.97, 2 * wide * math.sqrt(abs(s * (1 - s)) + 1e-3), n, top=1.0
        )
        c = min(1.2 * largest, 1.0)
        values["ablation_control_drop"] = estimate(c, 2 * wide * math.sqrt(abs(c) + 1e-4), n, top=1.0)
        values["ablation_selective"] = estimate(s * 0.97 - c, 2 * wide * 0.3, n, top=1.0)
        values["ablation_overlap"] = estimate(0.35 + 0.4 * s, wide, n, top=1.0)
    return values


def without(results: dict, set_name: str, kind: str) -> dict:
    """The results, changed in place: no answer of the set has a control of the kind; C is of the other kinds."""
    for model in results["models"].values():
        for metrics in (model["sets"][set_name], *model["by_relation"][set_name].values()):
            for name in [name for name in metrics if name.startswith(f"control_drop_{kind}")]:
                del metrics[name]
            left = (metrics[name] for other in KINDS[:3] if (name := f"control_drop_{other}") in metrics)
            metrics["control_drop"] = max(left, key=lambda value: value["value"])
    return results


def leakage() -> dict:
    """What the objective has seen of each set."""
    shares = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.912, 0.873, 0.031), (0.957, 0.412, 0.0))
    return {
        name: dict(zip(("subjects", "answers", "pairs"), of_set, strict=True))
        for name, of_set in zip(SETS, shares, strict=True)
    }


def published(results: dict) -> dict:
    """Published figures: S is in their range, C of unseen relations is above it, and the plain model has none."""
    figures = {}
    for set_name, metrics in results["models"]["suppressable"]["sets"].items():
        s, c = (metrics[name]["value"] for name in ("suppressability", "control_drop"))
        off = 0.05 if set_name == "unseen_relations" else 0.0
        figures[set_name] = {
            "suppressability": {"value": s - 0.01, "low": s - 0.03, "high": s + 0.001},
            "control_drop": {"value": c - off, "low": c - off - 0.01, "high": c - off + 0.01},
        }
    return {"suppressable": figures}


def neurons(model: str, relations: tuple[str, ...], peak: float) -> list[dict]:
    """Twenty most used neurons."""
    entries = []
    for rank in range(20):
        some = [relations[(7 * rank + i) % len(relations)] for i in range(min(3, len(relations)))]
        entries.append(
            {
                "layer": (rank * 5 + len(model)) % 4,
                "neuron": digest(model, rank) % 512,
                "share": peak * 0.85**rank,
                "selections": round(2400 * peak * 0.8**rank),
                "relations": {name: share for name, share in zip(some, (0.6, 0.3, 0.1), strict=False)},
                "promotes": [_TOKENS[(rank + 3 * i) % len(_TOKENS)] for i in range(8)],
            }
        )
    return entries


def results(
    models: tuple[str, ...] = ("plain", "suppressable"),
    relations: tuple[str, ...] = RELATIONS,
    *,
    ablation: bool = True,
) -> dict:
    """A results dict; unseen relations are the last sixth of them, at least one."""
    unseen = max(1, len(relations) // 6)
    of_set = {name: relations[: -unseen or None] or relations for name in SETS[:3]} | {SETS[3]: relations[-unseen:]}
    counts = {"objective": 96, "held_out_prompts": 96, "unseen_facts": 24, "unseen_relations": 80}
    measured = {}
    for model in models:
        s_by_set, c, peak = MODELS[model]
        measured[model] = {
            "cross_entropy": estimate(0.6 + 0.01 * s_by_set[0], 0.006, 2375),
            "recall": estimate(0.996, 0.002, 2375, top=1.0),
            "sets": {
                name: metrics(model, s, c, counts[name] * len(of_set[name]), name, ablation=ablation)
                for name, s in zip(SETS, s_by_set, strict=True)
            },
            "by_relation": {
                name: {
                    relation: metrics(model, s, c, counts[name], name, relation, ablation=ablation)
                    for relation in of_set[name]
                }
                for name, s in zip(SETS, s_by_set, strict=True)
            },
            "neurons": neurons(model, relations, peak),
            "layers": [0.08, 0.21, 0.43, 0.28] if model == "plain" else [0.05, 0.12, 0.24, 0.59],
        }
    return {"provenance": provenance(relations), "seconds": 4388.2, "models": measured}


def provenance(relations: tuple[str, ...]) -> dict:
    """Where the numbers would come from."""
    return {
        "date": "2026-01-31T12:34:56+00:00",
        "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "machine": {"platform": "Linux-6.1.0-x86_64", "devices": "2 x cpu", "processors": 2},
        "versions": {"jaxinterp": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "numpy": "2.2.6", "python": "3.11.2"},
        "config": {
            "seed": 0,
            "model": {"n_layers": 4, "d_model": 192, "d_mlp": 512, "n_heads": 6, "ffn": "swiglu", "dropout": None},
            "objective": {
                "k": 8,
                "path": "joint",
                "points": 4,
                "weights": {"suppression": "0@300,1@500", "control": 1},
            },
            "facts": {"domains": [], "relations": list(relations)},
        },
        "facts": {"kept": 9120, "dropped": {"no spelling in plain letters": 214, "two answers": 88}},
    }


def histories(models: tuple[str, ...] = ("plain", "suppressable"), steps: int = 1500) -> dict:
    """Training histories, a record every ten steps; the terms begin at step 300 and the plain model has none."""
    return {model: [_record(model, step, steps) for step in range(0, steps, 10)] for model in models}


def _record(model: str, step: int, steps: int) -> dict:
    lm = 0.6 + 8 * math.exp(-step / 120) + 0.05 * jitter(model, "lm", step)
    record = {
        "step": step,
        "loss": lm,
        "lm": lm,
        "gradient_norm": 0.4 + 3 * math.exp(-step / 200) + 0.15 * jitter(model, "g", step),
        "learning_rate": 0.001 * (1 - step / steps),
    }
    if model == "plain":
        return record
    controls = tuple(f"control_drop_{kind}" for kind in KINDS[:3])
    names = ("suppression", "control", "suppressability", "control_drop", *controls, "probability")
    if step < 300:
        return record | dict.fromkeys(names)
    s = MODELS[model][0][0] * (1 - math.exp(-(step - 300) / 90)) + 0.01 * jitter(model, "bs", step)
    drops = [
        max(0.0, c + 0.3 * math.exp(-(step - 300) / 150) + 0.01 * jitter(model, kind, step))
        for kind, c in zip(KINDS[:3], MODELS[model][1], strict=False)
    ]
    s, c = min(s, 1.0), max(drops)
    values = (1 - s, c, s, c, *drops, 0.98)
    return record | {"loss": lm + 1 - s + c} | dict(zip(names, values, strict=True))
