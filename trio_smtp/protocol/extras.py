"""Optional libraries, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["scramp"]


def scramp() -> ModuleType:
    """The scramp library, which computes SCRAM.

    Raises:
        ImportError: It is not installed; the text names the extra to install.
    """
    try:
        return importlib.import_module("scramp")
    except ImportError as error:
        raise ImportError("SCRAM needs the extra scram: pip install 'trio-smtp[scram]'") from error
