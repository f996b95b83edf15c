"""Noise in training, what stands in for it, and training against the worst noise; imports no JAX."""

import dataclasses
from typing import Literal, get_args

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers

# Names of `jaxinterp.models.places` with one vector for each token; embed stands once, the others in every layer.
TokenPlace = Literal["embed", "resid_pre", "attn_out", "resid_mid", "mlp_pre", "mlp_post", "mlp_out", "resid_post"]


@dataclasses.dataclass(frozen=True)
class DropoutConfig:
    """Dropout in the forward of language modelling, or both parts of its effect on neurons without it."""

    # Rates q, in [0, 1): a number is 0 with probability q, and divided by 1 − q otherwise
    ffn: float = 0.0  # of the neurons (mlp_post)
    attention: float = 0.0  # of attention weights (attn_pattern)
    residual: float = 0.0  # of what attention and FFN add (attn_out, mlp_out), and of embeddings (embed)
    # Independent masks in a step, whose losses are averaged. 1 is dropout; many leave little but its explicit part
    masks: int = 1
    rate: float = 0.0  # q of the two parts below, in [0, 1); the forward is without dropout then
    explicit: float = 0.0  # weight of the penalty that dropout of neurons is on average, at least 0; 1 is its own size
    # Weight of the noise that dropout of neurons puts on the gradient, at least 0; 1 is its own size
    implicit: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "dropout.")
        for field in ("ffn", "attention", "residual", "rate"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"dropout.{field} must be at least 0 and below 1, got {getattr(self, field)}")
        for field in ("explicit", "implicit"):
            if getattr(self, field) < 0:
                raise UserError(f"dropout.{field} must be at least 0, got {getattr(self, field)}")
        if self.masks < 1:
            raise UserError(f"dropout.masks must be at least 1, got {self.masks}")
        if self.masks > 1 and not self.drops:
            raise UserError(
                f"dropout.masks is {self.masks}, but nothing is dropped; set dropout.ffn, attention or residual"
            )
        if bool(self.rate) != bool(self.explicit or self.implicit):
            raise UserError(
                "dropout.rate is that of dropout.explicit and dropout.implicit: set it with one of them above 0, or "
                f"none, got rate {self.rate}, explicit {self.explicit} and implicit {self.implicit}"
            )
        if self.rate and self.drops:
            raise UserError(
                "dropout.explicit and dropout.implicit stand in for dropout: leave out dropout.ffn, attention and "
                f"residual, got {self.ffn}, {self.attention} and {self.residual}"
            )

    @property
    def drops(self) -> bool:
        """Whether a forward drops anything."""
        return bool(self.ffn or self.attention or self.residual)


@dataclasses.dataclass(frozen=True)
class RobustConfig:
    """Adversarial training: the loss where activations are moved a little in the direction in which it rises most."""

    # Length of the move, as a share of the length of each token's vector, at least 0. 0: off
    radius: float = 0.0
    place: TokenPlace = "embed"  # what is moved; in all layers at once
    share: float = 0.5  # of language modelling's loss that is taken there, in (0, 1]; the rest without the move

    def __post_init__(self) -> None:
        check_numbers(self, "robust.")
        if self.radius < 0:
            raise UserError(f"robust.radius must be at least 0 (0 is off), got {self.radius}")
        if self.place not in get_args(TokenPlace):
            raise unknown("robust.place", self.place, get_args(TokenPlace))
        if not 0 < self.share <= 1:
            raise UserError(f"robust.share must be above 0 and at most 1, got {self.share}")


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Both, as a step needs them."""

    dropout: DropoutConfig = DropoutConfig()
    robust: RobustConfig = RobustConfig()

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return bool(self.dropout.drops or self.dropout.rate or self.robust.radius)


NO_NOISE = NoiseConfig()
