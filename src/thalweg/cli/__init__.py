"""The command line: every command is one call into the library. Heavy imports happen inside the commands.

One file a family of commands; importing it adds its commands, in the order in which ``--help`` lists them.
"""

from thalweg.cli import race, reading, check, site  # noqa: F401, I001
from thalweg.cli.app import app
from thalweg.cli.entry import main

__all__ = ["app", "main"]
