"""Names of cipher suites, compared with what OpenSSL itself says."""

from __future__ import annotations

import subprocess

import pytest

from trio_smtp.net.ciphers import standard_name

#: Ciphers of today; a build may have others (RC4, SEED) that it only offers when it is told to.
CIPHERS = ("AES", "ARIA", "Camellia", "CHACHA20")


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("DHE-RSA-AES256-SHA", "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
        ("AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("A-SUITE-OF-THE-FUTURE", "A-SUITE-OF-THE-FUTURE"),
    ],
)
def test_the_name_iana_gives_it(name: str, standard: str) -> None:
    assert standard_name(name) == standard


@pytest.mark.program("openssl")
def test_every_suite_that_a_server_with_a_certificate_can_negotiate() -> None:
    listing = subprocess.run(
        ["openssl", "ciphers", "-stdname", "-v", "ALL:@SECLEVEL=0"], capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip(f"this openssl does not know the standard names: {listing.stderr.strip()}")
    expected = {}
    for line in listing.stdout.splitlines():
        standard, _, name, _, *columns = line.split()
        column = dict(part.split("=", 1) for part in columns)
        if (
            column["Kx"] in ("RSA", "DH", "ECDH", "any")
            and column["Au"] in ("RSA", "ECDSA", "any")
            and column["Enc"].startswith(CIPHERS)
        ):
            expected[name] = standard
    assert len(expected) > 20
    assert {name: standard_name(name) for name in expected} == expected
