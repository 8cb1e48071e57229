"""Thalweg: training methods as PyTorch components, raced fairly on your own model.

Import what you need and nothing else: ``from thalweg.optim import Muon``.
"""

__version__ = "0.1.0"
