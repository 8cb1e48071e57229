"""Matrix tools that several seams share."""

from thalweg.linalg.conjugate_gradients import Solved, conjugate_gradients
from thalweg.linalg.convex_kernels import KERNELS, ConvexKernel, convex_kernel, register_kernel
from thalweg.linalg.haar import haar
from thalweg.linalg.infeasible import InfeasibleError
from thalweg.linalg.lanczos import Ritz, lanczos
from thalweg.linalg.min_norm_point import MinNormPoint, min_norm_point

__all__ = [
    "KERNELS",
    "ConvexKernel",
    "InfeasibleError",
    "MinNormPoint",
    "Ritz",
    "Solved",
    "conjugate_gradients",
    "convex_kernel",
    "haar",
    "lanczos",
    "min_norm_point",
    "register_kernel",
]
