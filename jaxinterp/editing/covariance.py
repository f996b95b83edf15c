"""The second moment of a layer's keys, C = E[kkᵀ]: which neurons are active together, over any text."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.files import load_arrays, save_arrays
from jaxinterp.editing.places import check_layers
from jaxinterp.editing.solutions import factor
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.models.windows import padded, windows_of

TOKENS = 2048  # of a batch: all layers' activations at them, or their logits, are in memory
HELD = 256  # windows out of which those of about one length are read together


@dataclasses.dataclass(frozen=True, eq=False)
class KeyCovariance:
    """C of one layer. A key is what W_out multiplies at a token: the layer's F neurons ("mlp_post")."""

    model: str  # digest of the model that read the texts
    layer: int
    n_tokens: int
    mean_FF: Float[np.ndarray, "F F"]  # E[kkᵀ] over all tokens, in float64
    ridge: float = 0.0  # what is added to the diagonal when C is inverted, in units of the diagonal's mean

    def spread(self, keys_NF: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "F N"]:
        """C⁻¹Kᵀ.

        Raises:
          UserError: if C is singular.
        """
        return scipy.linalg.cho_solve(self._factor, np.asarray(keys_NF, np.float64).T)

    @functools.cached_property
    def eigen(self) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "F F"]]:
        """Eigenvalues of C, the lowest first, and its eigenvectors as columns."""
        return tuple(np.linalg.eigh(self.mean_FF))

    @functools.cached_property
    def _factor(self) -> tuple[np.ndarray, bool]:
        diagonal = np.diagonal(self.mean_FF)
        size, n_dead = len(diagonal), int((diagonal == 0).sum())
        dead = f", {n_dead} of them never active" if n_dead else ""
        return factor(
            self.mean_FF + self.ridge * diagonal.mean() * np.eye(size),
            f"the key covariance of layer {self.layer} is singular: {size} neurons{dead}, {self.n_tokens} tokens; read "
            "more text, or set its ridge, as with dataclasses.replace(covariance, ridge=1e-4)",
        )


def key_covariances(
    model: LanguageModel, texts: Iterable[str], layers: Sequence[int], *, ridge: float = 0.0
) -> dict[int, KeyCovariance]:
    """C of layers, over every token of texts, those that the model expects around a text included.

    Texts are read in windows of the model's context. Sums are in float64, whatever the model's type.

    Args:
      model: a causal one.
      texts: any, at least one; they are read one after the other and not kept.
      layers: which.
      ridge: see `KeyCovariance`.
    Raises:
      UserError: if there is no text, a text cannot be encoded, or a layer does not exist.
    """
    check_layers(model, layers)
    if ridge < 0:
        raise UserError(f"the ridge of a covariance must be at least 0, got {ridge}")
    total, n_tokens = np.zeros((len(layers), model.config.d_mlp, model.config.d_mlp)), 0
    for tokens_BT, length_B in text_batches(model, texts):
        keys_LBTF = np.asarray(_keys(model.model, tokens_BT, tuple(layers))).astype(np.float64)
        read_BT = np.arange(tokens_BT.shape[1])[None] < length_B[:, None]
        for sum_FF, keys_BTF in zip(total, keys_LBTF, strict=True):
            sum_FF += keys_BTF[read_BT].T @ keys_BTF[read_BT]
        n_tokens += int(length_B.sum())
    if not n_tokens:
        raise UserError("there is no text to take a key covariance over; give at least one")
    digest = model.digest()
    return {
        layer: KeyCovariance(digest, layer, n_tokens, sum_FF / n_tokens, ridge)
        for layer, sum_FF in zip(layers, total, strict=True)
    }


def save_covariance(path: Path, covariance: KeyCovariance) -> None:
    """Writes a covariance to a safetensors file; UserError if it cannot be written."""
    said = {name: getattr(covariance, name) for name in ("model", "layer", "n_tokens", "ridge")}
    save_arrays(path, "key covariance", {"mean": covariance.mean_FF}, said)


def load_covariance(path: Path) -> KeyCovariance:
    """Reads what `save_covariance` wrote; UserError if the file is missing, damaged, or something else."""
    arrays, said = load_arrays(path, "key covariance")
    return KeyCovariance(mean_FF=arrays["mean"], **said)


@functools.partial(jax.jit, static_argnums=2)
def _keys(model: Model, tokens_BT: Array, layers: tuple[int, ...]) -> Float[Array, "L B T F"]:
    return forward(model, tokens_BT, capture=("mlp_post",)).activations["mlp_post"][np.array(layers)]


def text_batches(
    model: LanguageModel, texts: Iterable[str]
) -> Iterator[tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]]:
    """Windows of texts in batches of about `TOKENS` tokens, windows of about one length together, in no order."""
    waiting: list[list[int]] = []
    for text in texts:
        waiting += windows_of(model.tokenizer, text, model.config.n_ctx)
        if len(waiting) >= HELD:
            yield from _batches(model, waiting)
            waiting = []
    yield from _batches(model, waiting)


def _batches(model: LanguageModel, windows: list[list[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    by_width: dict[int, list[list[int]]] = {}
    for window in windows:
        # Few widths, for each of which a program is compiled.
        width = min(8 << max(0, (len(window) - 1).bit_length() - 3), model.config.n_ctx)
        by_width.setdefault(width, []).append(window)
    for width, own in sorted(by_width.items()):
        rows = max(1, TOKENS // width)
        for start in range(0, len(own), rows):
            part = own[start : start + rows]
            # Few numbers of rows, too. A window of padding alone counts for nothing, but it is computed.
            yield padded(part, width, model.tokenizer.pad, min(rows, 1 << (len(part) - 1).bit_length()))
