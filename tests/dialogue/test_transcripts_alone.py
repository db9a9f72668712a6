"""The transcripts of tests/transcripts once more, without an event loop: none of them needs a TLS handshake."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from tests import test_extension_transcripts as extensions
from tests import test_transcripts as smtp
from trio_smtp import Config
from trio_smtp.testing import Cut

from .transcript_support import play_alone

CUTS: tuple[Cut, ...] = ("whole", "line", "octet", "random")


@pytest.mark.parametrize("path", smtp.TRANSCRIPTS, ids=[path.stem for path in smtp.TRANSCRIPTS])
def test_transcripts_of_the_protocol(path: Path) -> None:
    transcript = path.read_text(encoding="utf-8")
    fields = smtp.config_of(transcript)
    for cut in CUTS:
        app = smtp.transcript_app(auth="allow_insecure_auth" in fields)
        seed = random.SystemRandom().randrange(2**32)
        logging.getLogger(__name__).warning("seed=%d cut=%s", seed, cut)  # shown when the test fails
        play_alone(app, transcript, Config(**{"hostname": "mx.example"} | fields), cut=cut, seed=seed)


@pytest.mark.parametrize("path", sorted(extensions.TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcripts_of_extensions(path: Path) -> None:
    transcript = path.read_text(encoding="utf-8")
    config = Config(**{"hostname": "mx.example"} | extensions.config_of(transcript))
    for cut in CUTS:
        peer = extensions.peer_of(transcript)
        play_alone(extensions.make_app(), transcript, config, cut=cut, seed=9422, peer=peer)
