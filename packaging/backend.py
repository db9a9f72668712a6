"""The build backend: hatchling, and ``TRIO_SMTP_PURE=1`` builds a pure wheel whatever else the environment asks for.

hatchling compiles where ``HATCH_BUILD_HOOK_ENABLE_MYPYC=1`` is set. A source distribution installs pure otherwise.
"""

import os

from hatchling.build import *  # noqa: F403 (the hooks of PEP 517 and PEP 660, whichever this hatchling has)

if os.environ.get("TRIO_SMTP_PURE", "0") not in {"", "0"}:
    os.environ["HATCH_BUILD_NO_HOOKS"] = "true"
