"""``python -m trio_smtp``: the same as the command ``trio-smtp``."""

from trio_smtp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
