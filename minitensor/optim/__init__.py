"""Optimizers with torch's arguments and defaults, a derivation each, and the clipping of gradients."""

from minitensor.optim.adam import Adam, AdamW
from minitensor.optim.clipping import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from minitensor.optim.muon import Muon
from minitensor.optim.optimizer import Optimizer
from minitensor.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Muon", "Optimizer", "clip_grad_norm_", "clip_grads_with_norm_", "get_total_norm"]
