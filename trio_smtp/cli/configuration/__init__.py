"""The configuration of the command: a TOML file, or the options of a command line, become Configs and Apps."""

from __future__ import annotations

from .building import Serving as Serving
from .building import build as build
from .checking import Configuration as Configuration
from .checking import Listener as Listener
from .checking import load as load
from .checking import make_config as make_config
from .showing import show_configuration as show_configuration

__all__ = ["Configuration", "Listener", "Serving", "build", "load", "make_config", "show_configuration"]
