"""Interlock: train a model that no participant holds and that its committee can stop.

Start with `interlock.kernels` (arrays in, arrays out), `interlock.vault` (keys and secrets),
`interlock.protocols` (pure roles) or the `interlock` command.
"""

__version__ = "0.1.0"
