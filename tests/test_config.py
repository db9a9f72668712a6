"""Config: the names and defaults of the contract, and that what cannot be is refused by name."""

from __future__ import annotations

import inspect
import math
import re
import socket
import ssl
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import attrs
import pytest

from trio_smtp import Config

#: Every field and its default.
DEFAULTS: dict[str, object] = {
    "host": "127.0.0.1", "port": 8025, "unix_path": None, "unix_mode": None, "backlog": None,
    "hostname": socket.gethostname(), "banner": "ESMTP", "lmtp": False,
    "ssl_context": None, "implicit_tls": False, "starttls_required": False, "tls_handshake_timeout": 30,
    "auth_mechanisms": ("PLAIN", "LOGIN"), "auth_required": False, "allow_insecure_auth": False,
    "auth_required_message": "Authentication required", "scram_lookup": None, "max_auth_failures": 6,
    "auth_failure_delay": 0,
    "max_message_size": 33_554_432, "max_recipients": 1000, "max_command_line": 2048, "max_auth_line": 12_288,
    "max_data_line": None, "max_transactions": None, "spool_memory": 1_048_576, "spool_directory": None,
    "command_timeout": 300, "data_timeout": 180, "min_data_rate": 100, "handler_timeout": 600, "send_timeout": 60,
    "session_timeout": None, "drain_timeout": 30, "lifespan_timeout": 30, "greeting_delay": 0,
    "max_connections": 1000, "max_connections_per_host": None, "max_errors": 10, "error_delay": 0,
    "max_unauthenticated_commands": None,
    "disabled_commands": frozenset(), "hide_extensions": frozenset(), "bare_newline": "normalize",
    "legacy_clients": (), "local_domain": None,
    "strict_addresses": True, "unknown_parameters": "reject",
    "dsn": False, "requiretls": False, "smtputf8": True, "chunking": True, "binarymime": False, "deliver_by": None,
    "mt_priority": False, "future_release": None,
    "proxy_protocol": (), "xclient": (), "xforward": (), "proxy_timeout": 5,
    "reverse_dns": False, "reverse_dns_timeout": 1.5,
}  # fmt: skip


def test_the_fields_are_those_of_the_contract() -> None:
    assert set(attrs.fields_dict(Config)) == set(DEFAULTS)


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_each_field_has_its_default_and_is_documented(name: str) -> None:
    assert getattr(Config(), name) == DEFAULTS[name]
    documented = inspect.cleandoc(Config.__doc__ or "").partition("Attributes:")[2]
    assert re.search(rf"^    {name}: ", documented, re.MULTILINE)


def test_a_config_is_frozen_and_takes_keywords_only() -> None:
    config = Config(port=25)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.port = 26  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config("127.0.0.1")  # type: ignore[call-arg]
    assert attrs.evolve(config, port=26).port == 26
    assert config == Config(port=25)


def seconds(*names: str, least: object) -> list[tuple[str, object]]:
    return [(name, value) for name in names for value in (least, "5", None, True, math.nan)]


def counts(*names: str, optional: bool = False) -> list[tuple[str, object]]:
    return [(name, value) for name in names for value in (0, -1, 1.5, "5", True, *(() if optional else (None,)))]


REFUSED: list[tuple[str, object]] = [
    *seconds("tls_handshake_timeout", "command_timeout", "data_timeout", "handler_timeout", "send_timeout",
             "lifespan_timeout", "proxy_timeout", "reverse_dns_timeout", least=0),
    *seconds("auth_failure_delay", "min_data_rate", "drain_timeout", "greeting_delay", "error_delay", least=-1),
    ("session_timeout", 0), ("session_timeout", "5"), ("session_timeout", True),
    *counts("max_auth_failures", "max_recipients", "max_connections", "max_errors"),
    *counts("backlog", "max_message_size", "max_data_line", "max_transactions", "max_connections_per_host",
            "max_unauthenticated_commands", "future_release", optional=True),
    ("deliver_by", -1), ("deliver_by", 1_000_000_000), ("future_release", 1_000_000_000),
    ("max_command_line", 511), ("max_auth_line", 511), ("max_command_line", None),
    ("port", -1), ("port", 65_536), ("port", "25"), ("port", None), ("port", True),
    ("unix_mode", 0o1000), ("unix_mode", "600"), ("host", 8025), ("host", b"127.0.0.1"), ("unix_path", 5),
    ("spool_memory", -1), ("spool_memory", None), ("spool_directory", 5), ("spool_directory", b"/tmp"),
    *((name, value) for value in (1, None, "no") for name, default in DEFAULTS.items()
      if isinstance(default, bool) and name != "mt_priority"),
    ("mt_priority", 1), ("mt_priority", ""), ("mt_priority", "two words"), ("mt_priority", None),
    *(("hostname", value) for value in ("", "mx example", "mx\r\n", "mx\n", "ä.example", "x" * 256, None)),
    ("banner", "two\r\nlines"), ("banner", "\x1b[2J"), ("banner", "ä"), ("banner", "x" * 401), ("banner", None),
    ("auth_required_message", "two\nlines"),
    ("auth_mechanisms", "PLAIN"), ("auth_mechanisms", ["PLAIN", "SECRET-SAUCE"]), ("auth_mechanisms", ["PLAIN"] * 2),
    ("disabled_commands", "VRFY"), ("disabled_commands", {"VRFY", "FROB"}), ("hide_extensions", "SIZE"),
    ("bare_newline", "accept"), ("bare_newline", None), ("unknown_parameters", "ignore"), ("unknown_parameters", True),
    *((name, value) for name in ("proxy_protocol", "xclient", "xforward")
      for value in ("10.0.0.0/8", ["10.0.0.1/8"], ["localhost"], ["10.0.0.0/8", "::/129"])),
]  # fmt: skip


def shown(value: object) -> str:
    """The same in every process, which the order of a set is not."""
    return f"{{{', '.join(map(repr, sorted(value)))}}}" if isinstance(value, set) else repr(value)


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=shown)
def test_a_value_that_cannot_be_is_a_value_error_that_names_the_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"\A{name}\b"):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["auth_mechanisms", "disabled_commands", "hide_extensions", "proxy_protocol"])
@pytest.mark.parametrize("value", [None, 5])
def test_what_should_be_several_and_is_none_at_all_is_an_error_that_names_the_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"\A{name}\b"):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0), ("port", 65_535), ("backlog", 1), ("host", None), ("max_message_size", None),
        ("max_message_size", 1), ("command_timeout", 0.001), ("command_timeout", math.inf), ("session_timeout", 0.5),
        ("min_data_rate", 0), ("drain_timeout", 0), ("max_command_line", 512), ("max_auth_line", 512),
        ("banner", "ESMTP ready; be brief"), ("banner", ""), ("hostname", "[192.0.2.1]"), ("auth_mechanisms", ()),
        ("deliver_by", 0), ("future_release", 1), ("mt_priority", True), ("mt_priority", "MIXER"), ("unix_mode", 0o600),
    ],
)  # fmt: skip
def test_the_edges_of_what_can_be(name: str, value: object) -> None:
    changes: dict[str, Any] = {name: value}
    assert getattr(Config(**changes), name) == value


def test_names_are_taken_in_any_case_from_any_collection() -> None:
    names: dict[str, Any] = {
        "disabled_commands": ["vrfy", "Expn"],
        "hide_extensions": {"size", "x-own"},
        "auth_mechanisms": ["login", "Plain"],
    }
    config = Config(**names)
    assert config.disabled_commands == {"VRFY", "EXPN"}
    assert config.hide_extensions == {"SIZE", "X-OWN"}
    assert config.auth_mechanisms == ("LOGIN", "PLAIN")


def test_networks_are_objects_or_strings() -> None:
    networks: Any = ["10.0.0.0/8", "2001:db8::/32", IPv4Network("192.0.2.1")]
    assert Config(proxy_protocol=networks).proxy_protocol == (
        IPv4Network("10.0.0.0/8"),
        IPv6Network("2001:db8::/32"),
        IPv4Network("192.0.2.1/32"),
    )


def test_the_allowed_names_are_listed_when_one_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"disabled_commands: unknown FROB; allowed are .*VRFY"):
        Config(disabled_commands=frozenset({"frob"}))


def test_an_ssl_context_must_be_one_and_is_not_in_the_repr(server_ssl_context: ssl.SSLContext) -> None:
    with pytest.raises(TypeError, match="ssl_context"):
        Config(ssl_context="cert.pem")  # type: ignore[arg-type]
    config = Config(ssl_context=server_ssl_context)
    assert config.ssl_context is server_ssl_context
    assert "SSLContext" not in repr(config)


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"implicit_tls": True}, "implicit_tls", "ssl_context"),
        ({"starttls_required": True}, "starttls_required", "ssl_context"),
        ({"auth_required": True, "disabled_commands": {"AUTH"}}, "auth_required", "disabled_commands"),
        ({"auth_required": True, "auth_mechanisms": ()}, "auth_required", "auth_mechanisms"),
        ({"auth_mechanisms": ("SCRAM-SHA-256",)}, "auth_mechanisms", "scram_lookup"),
        ({"binarymime": True, "chunking": False}, "binarymime", "chunking"),
        ({"binarymime": True, "disabled_commands": {"BDAT"}}, "binarymime", "disabled_commands"),
    ],
)
def test_a_contradiction_names_both_fields(changes: dict[str, Any], first: str, second: str) -> None:
    with pytest.raises(ValueError, match=f"{first}.*{second}"):
        Config(**changes)


def test_starttls_cannot_be_required_and_disabled(server_ssl_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match=r"starttls_required.*disabled_commands"):
        Config(ssl_context=server_ssl_context, starttls_required=True, disabled_commands=frozenset({"STARTTLS"}))
