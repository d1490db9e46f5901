"""Executable specs: state a protocol in about 50 lines, run it, and read the counterexample.

Start with `specs.halting`, the worked example, and `Spec`. `interlock spec check` runs specs: in a model, in the real
code in virtual time, or as real processes.
"""

from .schedule import Schedule
from .spec import Spec, action, always, eventually, rate, sometimes

__all__ = ["Schedule", "Spec", "action", "always", "eventually", "rate", "sometimes"]
