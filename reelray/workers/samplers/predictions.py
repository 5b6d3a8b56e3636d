"""What a network's output means, on the path x = (1 - sigma) * x0 + sigma * noise."""

from torch import Tensor

from reelray.proto.recipe import Prediction


def convert_to_x0(prediction: Tensor, latents: Tensor, sigma: float, kind: Prediction) -> Tensor:
    """Estimate the clean latents.

    Args:
        prediction: Output of the network, any shape.
        latents: The noisy input, same shape.
        sigma: Noise level of the input; below 1 for an epsilon prediction.
        kind: What the network predicts: flow is noise - x0, v is (1 - sigma) * noise - sigma * x0.

    Returns:
        x0, shape of `latents`.
    """
    alpha = 1 - sigma
    match kind:
        case Prediction.FLOW:
            return latents - sigma * prediction
        case Prediction.X0:
            return prediction
        case Prediction.EPSILON:
            return (latents - sigma * prediction) / alpha
        case Prediction.V:
            # alpha^2 + sigma^2 is 1 on a variance-preserving path only.
            return (alpha * latents - sigma * prediction) / (alpha**2 + sigma**2)


def convert_to_flow(prediction: Tensor, latents: Tensor, sigma: float, kind: Prediction) -> Tensor:
    """Estimate noise - x0; `sigma` is above 0. Arguments as in `convert_to_x0`."""
    if kind is Prediction.FLOW:
        return prediction
    return (latents - convert_to_x0(prediction, latents, sigma, kind)) / sigma
