"""The command `trio-smtp` as it is measured: its built-in application, which stores every message in a Maildir.

python trio_smtp_maildir.py PORT DIRECTORY
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from trio_smtp.cli import main

port, directory = sys.argv[1:]
sys.exit(main(["--host", "127.0.0.1", "--port", port, "--maildir", f"{directory}/mail"]))
