"""The heads that NeuroSTORM's published task models put on the encoder's tokens.

Features of this program are the encoder's; the heads are here so that a fine-tuned checkpoint can be checked to the
number. Names are those of the state dicts, without the wrappers that came and went between generations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own habit)


class MeanHead(nn.Module):
    """Classification v1 and regression: one linear layer on the mean token."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, outputs)

    def features(self, tokens: Tensor) -> Tensor:
        """Return the mean [B,C] of tokens [B,C,X,Y,Z,T]."""
        return tokens.flatten(2).mean(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,C,X,Y,Z,T] -> [B,outputs]."""
        out: Tensor = self.head(self.features(tokens))
        return out


class HiddenHead(nn.Module):
    """Classification v2: two linear layers on the mean token, with nothing between them."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.head = nn.Linear(4 * width, outputs)

    def features(self, tokens: Tensor) -> Tensor:
        """Return the hidden vector [B,4C] of tokens [B,C,X,Y,Z,T]."""
        out: Tensor = self.hidden(tokens.flatten(2).mean(-1))
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,C,X,Y,Z,T] -> [B,outputs]."""
        out: Tensor = self.head(self.features(tokens))
        return out


class TransformerHead(nn.Module):
    """Classification v3: a class token attends to all tokens through post-norm transformer layers.

    Parameters
    ----------
    width, tokens, outputs
        C, tokens of a clip, classes.
    heads, layers
        Of the transformer; 8 and 6 as published.
    """

    def __init__(self, width: int, tokens: int, outputs: int, heads: int = 8, layers: int = 6) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def features(self, tokens: Tensor) -> Tensor:
        """Return the class token [B,C] after attending to tokens [B,C,X,Y,Z,T]."""
        x = tokens.flatten(2).transpose(1, 2)  # [B,C,X,Y,Z,T] -> [B,N,C]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        out: Tensor = self.norm(self.transformer_encoder(x)[:, 0])
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,C,X,Y,Z,T] -> [B,outputs]."""
        out: Tensor = self.head(self.features(tokens))
        return out


class ContrastiveHead(nn.Module):
    """A normed projection of the mean token, for re-identification."""

    def __init__(self, width: int, outputs: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, outputs, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,C,X,Y,Z,T] -> [B,outputs], of length 1."""
        return F.normalize(self.bn1(self.fc1(tokens.flatten(2).mean(-1))), dim=1)
