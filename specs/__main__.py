"""`python -m interlock.specs`: the same as `interlock spec`."""

from interlock.protocols.cli.app import run

from .cli import app

run(None, app, name="interlock spec")
