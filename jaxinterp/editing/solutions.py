"""The closed forms of linear edits: the change of an FFN's value rows that costs least and gives new outputs to keys.

A layer's FFN writes k W to the residual stream, with k its F neurons and the rows of W [F, D] their value vectors. Most
published edits, and ours, look for the ΔW that gives the keys K [N, F] of N requests R [N, D] more, and that is cheap:

    minimise  tr(ΔWᵀ A ΔW) + ‖K ΔW − R‖² / λ        or, for λ → 0,        tr(ΔWᵀ A ΔW)  subject to  K ΔW = R,

for which ΔW = A⁻¹Kᵀ (λ I + K A⁻¹Kᵀ)⁻¹ R. They differ in what is dear, A, and in λ:

    ROME       A = C, the second moment E[kkᵀ] of keys; one request; λ = 0           Meng et al. 2022, eq. 2
    EMMET      A = C; N requests; λ = 0                                              Gupta et al. 2024
    MEMIT      A = C; N requests; λ > 0                                              Meng et al. 2023
    AlphaEdit  A = l2 I + K_pᵀK_p in the null space of C, ∞ outside of it; λ = 1     Fang et al. 2025
    KN-solve   A = I + w · mean kkᵀ of kept prompts, of a fact's own neurons; λ = 0  ours

The papers write columns where rows stand here. MEMIT's (λC + KᵀK)⁻¹KᵀR is the same by Woodbury's identity, which also
gives AlphaEdit's. Everything is computed in the dtype of the arguments, on the host.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from jaxinterp.base.errors import UserError

Matrix = Float[np.ndarray, "F F"]


class Factors(NamedTuple):
    """ΔW = left · right."""

    left_FN: Float[np.ndarray, "F N"]
    right_ND: Float[np.ndarray, "N D"]


def cheapest(
    spread_FN: Float[np.ndarray, "F N"],
    keys_NF: Float[np.ndarray, "N F"],
    residual_ND: Float[np.ndarray, "N D"],
    weight: float = 0.0,
) -> Factors:
    """ΔW = S (λ I + K S)⁻¹ R with S = A⁻¹Kᵀ.

    Args:
      spread_FN: S.
      keys_NF: K.
      residual_ND: R, what each key is to give more than it does.
      weight: λ, at least 0: what a squared unit of R that is not reached counts, in units of cost, is 1 / λ.
    Raises:
      UserError: if λ is 0 and keys depend on each other, or one of them has nothing that may change.
    """
    gram_NN = keys_NF @ spread_FN
    gram_NN = (gram_NN + gram_NN.T) / 2 + weight * np.eye(len(gram_NN), dtype=gram_NN.dtype)
    what = "the requests' keys depend on each other, or have nothing that may be changed"
    return Factors(
        spread_FN, solved(gram_NN, residual_ND, f"{what}; leave out requests, or take MEMIT's weight above 0")
    )


def solved(matrix_NN: Float[np.ndarray, "N N"], right: Float[np.ndarray, "N D"], otherwise: str) -> np.ndarray:
    """matrix⁻¹ · right of a symmetric positive definite matrix, by Cholesky's factors.

    Raises:
      UserError: `otherwise`, if the matrix is singular to its precision.
    """
    return scipy.linalg.cho_solve(factor(matrix_NN, otherwise), right)


def factor(matrix_NN: Float[np.ndarray, "N N"], otherwise: str) -> tuple[np.ndarray, bool]:
    """Cholesky's factor, for `scipy.linalg.cho_solve`; raises as `solved`."""
    size = np.abs(matrix_NN).sum(0).max()
    if not np.isfinite(size):
        raise UserError(otherwise)
    try:
        cholesky = scipy.linalg.cho_factor(matrix_NN, lower=True)
    except np.linalg.LinAlgError:
        raise UserError(otherwise) from None
    (condition,) = scipy.linalg.get_lapack_funcs(("pocon",), (matrix_NN,))
    reciprocal, _ = condition(cholesky[0], size, uplo="L")
    if reciprocal < len(matrix_NN) * np.finfo(matrix_NN.dtype).eps:
        raise UserError(otherwise)
    return cholesky


def null_space(value_F: Float[np.ndarray, " F"], vector_FF: Matrix, threshold: float) -> Float[np.ndarray, "F J"]:
    """The eigenvectors of C whose eigenvalue is below the threshold, as columns: directions that keys hardly have.

    Args:
      value_F, vector_FF: as `numpy.linalg.eigh` gives them.
      threshold: of eigenvalues.
    Raises:
      UserError: if there is none.
    """
    basis_FJ = vector_FF[:, value_F < threshold]
    if not basis_FJ.shape[1]:
        raise UserError(
            f"no eigenvalue of the key covariance is below the threshold of {threshold:g}; the lowest is "
            f"{value_F[0]:.3g}, the median {np.median(value_F):.3g}; take a higher threshold"
        )
    return basis_FJ


def null_space_spread(
    basis_FJ: Float[np.ndarray, "F J"],
    keys_NF: Float[np.ndarray, "N F"],
    earlier_PF: Float[np.ndarray, "P F"],
    l2: float,
) -> Float[np.ndarray, "F N"]:
    """S = A⁻¹Kᵀ of AlphaEdit: U (l2 I + Uᵀ K_pᵀK_p U)⁻¹ Uᵀ Kᵀ, with U the null space of C.

    The paper's l2 is 1. Its P (K_pᵀK_p P + KᵀK P + I)⁻¹ Kᵀ, with P = U Uᵀ, is `cheapest` of this with λ = 1.

    Args:
      basis_FJ: U.
      keys_NF: K.
      earlier_PF: K_p, keys of earlier edits, whose outputs are to stay.
      l2: weight of ‖ΔW‖², above 0.
    """
    own_PJ = earlier_PF @ basis_FJ
    cost_JJ = own_PJ.T @ own_PJ + l2 * np.eye(basis_FJ.shape[1], dtype=basis_FJ.dtype)
    return basis_FJ @ np.linalg.solve(cost_JJ, basis_FJ.T @ keys_NF.T)


def kept_spread(
    keys_PK: Float[np.ndarray, "P K"], kept_OK: Float[np.ndarray, "O K"], weight: float
) -> Float[np.ndarray, "K P"]:
    """S = A⁻¹Kᵀ of KN-solve, A = I + w/O · Σ_o a_o a_oᵀ; for w = ∞, the part of each key that no kept prompt has.

    ΔW then minimises ‖ΔW‖² + w · mean_o ‖a_o ΔW‖² subject to K ΔW = R; for w = ∞, ‖ΔW‖² subject to that and a_o ΔW = 0
    for every kept prompt.

    Args:
      keys_PK: activations of the K chosen neurons where the requests are read.
      kept_OK: a_o, activations of the same neurons at prompts whose outputs are to stay.
      weight: w, at least 0.
    """
    if np.isinf(weight):
        _, size_J, rows_JK = np.linalg.svd(kept_OK, full_matrices=False)
        rows_JK = rows_JK[size_J > max(kept_OK.shape, default=0) * np.finfo(size_J.dtype).eps * size_J.max(initial=0)]
        free_KP = keys_PK.T - rows_JK.T @ (rows_JK @ keys_PK.T)
        # What rounding leaves of a key without a part of its own is nothing.
        own_P = np.linalg.norm(free_KP, axis=0) > 1e3 * np.finfo(free_KP.dtype).eps * np.linalg.norm(keys_PK.T, axis=0)
        return free_KP * own_P[None]
    cost_KK = np.eye(keys_PK.shape[1], dtype=keys_PK.dtype) + weight * second_moment(kept_OK)
    return np.linalg.solve(cost_KK, keys_PK.T)


def second_moment(keys_NF: Float[np.ndarray, "N F"]) -> Matrix:
    """E[kkᵀ] over N keys; 0 if there is none."""
    return keys_NF.T @ keys_NF / max(len(keys_NF), 1)
