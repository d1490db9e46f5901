"""What can go wrong with arrays.

KernelError
  NonFinite     a value is NaN or infinite
  OutOfRange    a value, shape or parameter is outside what the format holds
  NotExact      a product could round: the bound on its partial sums fails
"""


class KernelError(ValueError):
    """Base of all errors of `interlock.kernels`."""


class NonFinite(KernelError):
    """A value is NaN or infinite."""


class OutOfRange(KernelError):
    """A value, shape or parameter is outside what the format holds."""


class NotExact(KernelError):
    """An integer product in float64 could round."""
