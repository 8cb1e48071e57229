"""Matrix tools that several seams share."""

from thalweg.linalg.convex_kernels import KERNELS, ConvexKernel, convex_kernel, register_kernel
from thalweg.linalg.haar import haar
from thalweg.linalg.lanczos import Ritz, lanczos

__all__ = ["KERNELS", "ConvexKernel", "Ritz", "convex_kernel", "haar", "lanczos", "register_kernel"]
