"""GPT-2 in PyTorch, written for speed: the peer that jgpt's training step is measured against.

Fused attention, fused AdamW, one matrix product for query, key and value; the names of Hugging Face's weights, with linear
layers [outputs, inputs].
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias), "c_proj": nn.Linear(width, width, bias)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias), "c_proj": nn.Linear(4 * width, width, bias)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the residual stream after the block."""
        batch, length, width = x.shape
        q, k, v = self.attn["c_attn"](self.ln_1(x)).split(width, dim=2)
        q, k, v = (a.view(batch, length, self.heads, -1).transpose(1, 2) for a in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Returns the mean loss of next tokens, the head tied to the embedding."""

    def __init__(self, vocab: int, context: int, width: int, heads: int, layers: int, bias: bool = True) -> None:
        super().__init__()
        blocks = nn.ModuleList([Block(width, heads, bias) for _ in range(layers)])
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, width),
                "wpe": nn.Embedding(context, width),
                "h": blocks,
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss [nats]."""
        t = self.transformer
        x = t["wte"](tokens) + t["wpe"](torch.arange(tokens.shape[1], device=tokens.device))
        for block in t["h"]:
            x = block(x)
        logits = F.linear(t["ln_f"](x), t["wte"].weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    def start(self) -> None:
        """Draw GPT-2's start: N(0, 0.02), what writes to the residual stream scaled by 1/sqrt(2 layers)."""
        layers = len(self.transformer["h"])
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, 0.02 * ((2 * layers) ** -0.5 if "c_proj" in name else 1))

    def load_gpt2(self, tensors: dict[str, torch.Tensor]) -> None:
        """Copy Hugging Face's tensors, whose `Conv1D` weights lie [inputs, outputs]."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                value = tensors[name]
                parameter.copy_(value.T if ".c_" in name and name.endswith("weight") else value)


def optimizer(model: nn.Module, rate: float, decay: float, b1: float, b2: float) -> torch.optim.Optimizer:
    """Return fused AdamW that decays matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(b1, b2), eps=1e-8, fused=True)
