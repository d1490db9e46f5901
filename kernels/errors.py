"""What can go wrong with arrays.

KernelError
  NonFinite     a value is NaN or infinite
  OutOfRange    a value, shape or parameter is outside what the format holds
    Overflow    numbers need a larger exponent, by so many bits
  NotExact      a product could round: the bound on its partial sums fails
"""


class KernelError(ValueError):
    """Base of all errors of `interlock.kernels`."""


class NonFinite(KernelError):
    """A value is NaN or infinite."""


class OutOfRange(KernelError):
    """A value, shape or parameter is outside what the format holds."""


class Overflow(OutOfRange):
    """Numbers do not fit at their exponent; `bits` more would do."""

    def __init__(self, what: str, bits: int) -> None:
        super().__init__(what)
        self.bits = bits


class NotExact(KernelError):
    """An integer product in float64 could round."""
