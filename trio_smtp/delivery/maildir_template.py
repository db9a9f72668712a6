"""Maildirs whose paths hold the recipient: ``/var/mail/{domain}/{local_part}``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import trio

from trio_smtp import Address, App, DataContext, Plugin, RcptToContext

from ._files import is_directory, make_directory
from ._refusing import refusal
from .maildir import folder_part, maildir

__all__ = ["maildir_template"]

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("domain", "local_part")


def maildir_template(root: str | os.PathLike[str], *, create: bool = False) -> Plugin:
    """Store messages in the recipients' Maildirs, whose paths a template gives.

    Args:
        root: A path with ``{domain}`` and ``{local_part}`` in it, each escaped as `folder_part` does. A domain or a
            local part that is ``.`` or ``..``, or empty, has no Maildir. What stands before the first component with
            a field must be there, or is made with `create`.
        create: Make the Maildir of every recipient, with its parents; otherwise a recipient who has none is refused
            with 550 5.1.1, and everybody with 451 4.3.0 while the directory of all is missing.

    Returns:
        A plugin; see `maildir`.

    Raises:
        ValueError: The template has another field, a brace that is none, or no field.

    Example:
        >>> app.use(maildir_template("/var/mail/{domain}/{local_part}"))
    """
    components = Path(root).absolute().parts
    first = next((number for number, part in enumerate(components) if "{" in part), None)
    _check(os.fspath(root), components)
    if first is None:
        raise ValueError(f"root has neither {{domain}} nor {{local_part}} in it: {os.fspath(root)!r}")
    template = _Template(Path(*components[:first]), components[first:], create=create)

    def install(app: App) -> None:
        if create:
            app.on_data(template.make_parents)
        maildir(template.base, folder=template.folder, create=create)(app)

    return install


def _check(text: str, components: tuple[str, ...]) -> None:
    for part in components:
        fields = _FIELD.findall(part)
        if set(fields) - set(_FIELDS) or _FIELD.sub("", part).strip("{}") != _FIELD.sub("", part):
            raise ValueError(f"root may have {{domain}} and {{local_part}} in it, and no other braces, not {text!r}")


class _Template:
    """Gives the folder of an address.

    Args:
        base: The directory that all Maildirs are in.
        components: The path below, with fields.
        create: Every address has a folder.
    """

    def __init__(self, base: Path, components: tuple[str, ...], *, create: bool) -> None:
        self.base = base
        self._components = components
        self._create = create

    async def folder(self, address: Address, _: RcptToContext | DataContext) -> Path | None:
        """The Maildir of a recipient; None: there is none."""
        path = self._path(address)
        if path is None or self._create:
            return path
        try:
            return await trio.to_thread.run_sync(self._existing, path)
        except OSError as error:
            raise refusal(error) from error

    def _existing(self, path: Path) -> Path | None:
        if is_directory(str(path / "new")):
            return path
        self.base.stat()  # without it nobody has a Maildir for now, and none is to be told that for good
        return None

    async def make_parents(self, ctx: DataContext) -> None:
        """Make what is missing above the Maildirs of the message's recipients."""
        found = [self._path(recipient) for recipient in ctx.envelope.rcpt_to]
        parents = {each.parent for each in found if each is not None}

        def make() -> None:
            for parent in sorted(parents):
                missing = [each for each in (parent, *parent.parents) if each.is_relative_to(self.base)]
                for directory in reversed(missing):
                    if not is_directory(str(directory)):
                        make_directory(str(directory))

        try:
            await trio.to_thread.run_sync(make)
        except OSError as error:
            raise refusal(error) from error

    def _path(self, address: Address) -> Path | None:
        values = {"domain": address.domain, "local_part": address.local_part}
        path = self.base
        for component in self._components:
            for field in _FIELD.findall(component):
                if values[field].strip('"') in {"", ".", ".."}:
                    return None
            path /= _FIELD.sub(lambda match: folder_part(values[match[1]]), component)
        return path
