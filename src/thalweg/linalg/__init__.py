"""Matrix tools that several seams share."""

from thalweg.linalg.haar import haar
from thalweg.linalg.lanczos import Ritz, lanczos

__all__ = ["Ritz", "haar", "lanczos"]
