"""Muon for the matrices inside the blocks, AdamW for everything else.

Muon replaces the momentum of a matrix by the nearest orthogonal one, so that rare directions (a colour, a shape) move
as fast as common ones. Matrices of one shape are orthogonalised together: a few dozen kernels a step, whatever the
depth. Sources: Muon, K. Jordan and others 2024; its scale beside AdamW, arXiv 2502.16982. N matrices, R rows,
C columns, R <= C.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
UPDATE_RMS = 0.2


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Push all singular values to about 1 by five Newton-Schulz rounds in bfloat16.

    Args:
        matrices_NRC: Any scale, not more rows than columns.
    """
    a, b, c = NEWTON_SCHULZ
    x_NRC = matrices_NRC.bfloat16()
    x_NRC = x_NRC / (x_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = torch.baddbmm(x_NRC, torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c), x_NRC, beta=a)
    return x_NRC


class Muon:
    """Steps matrices by orthogonalised Nesterov momentum.

    Args:
        weights: Matrices; one with three times as many rows as columns counts as three square ones.
        momentum: Decay of the gradient's average.
        weight_decay: Decoupled, times the learning rate.
    """

    def __init__(self, weights: Iterable[nn.Parameter], *, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        groups: defaultdict[tuple[int, int], list[tuple[nn.Parameter, int]]] = defaultdict(list)
        for weight in weights:
            parts = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
            rows, columns = weight.shape[0] // parts, weight.shape[1]
            groups[min(rows, columns), max(rows, columns)] += [(weight, part) for part in range(parts)]
        self.groups = dict(groups)
        self.averages = {
            shape: torch.zeros(len(members), *shape, device=members[0][0].device)
            for shape, members in self.groups.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every matrix; gradients are read and kept."""
        for (rows, columns), members in self.groups.items():
            gradients_NRC = torch.stack([self._cut(weight, part, weight.grad) for weight, part in members])
            average_NRC = self.averages[rows, columns].lerp_(gradients_NRC, 1 - self.momentum)
            update_NRC = orthogonalise(gradients_NRC.lerp(average_NRC, self.momentum)).float()
            targets = [self._cut(weight, part, weight.data) for weight, part in members]
            torch._foreach_mul_(targets, 1 - learning_rate * self.weight_decay)
            torch._foreach_add_(targets, update_NRC.unbind(), alpha=-learning_rate * UPDATE_RMS * columns**0.5)

    @staticmethod
    def _cut(weight: nn.Parameter, part: int, values: Tensor | None) -> Tensor:
        """One square of a fused matrix, or a matrix laid on its side, as a view."""
        assert values is not None
        rows, columns = weight.shape
        if rows == 3 * columns:
            return values[part * columns : (part + 1) * columns]
        return values.mT if rows > columns else values


def split_for_muon(module: nn.Module, prefixes: Sequence[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters as (matrices of linear layers whose names begin with a prefix, all others)."""
    inside = {
        id(layer.weight)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(tuple(prefixes))
    }
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [p for p in parameters if id(p) in inside], [p for p in parameters if id(p) not in inside]
