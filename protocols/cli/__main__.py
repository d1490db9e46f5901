"""`python -m interlock.protocols.cli`: the same as `interlock`."""

from . import main

main()
