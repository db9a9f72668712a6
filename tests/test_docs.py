"""The documentation is true: the names it gives exist, its code runs, its pages are up to date."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_smtp
import trio_smtp.testing
from trio_smtp.cli import main
from trio_smtp.testing import CapturedMessage

from .conftest import CertificateFiles

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}

# What the session objects, handlers and options of the peers are made of: none may be missing from the page.
SMTP_SERVER = """
    onConnect onSecure onAuth onMailFrom onRcptTo onData onClose id secure servername localAddress localPort
    remoteAddress remotePort clientHostname openingCommand hostNameAppearsAs xClient xForward transmissionType
    tlsOptions standardName user transaction envelope mailFrom rcptTo bodyType smtpUtf8 requireTLS dsn ret envid
    notify orcpt error address args method username password accessToken challenge challengeResponse
    validatePassword data byteLength sizeExceeded needsUpgrade key cert ca sniOptions SNICallback name banner
    heloResponse size hideSize hidePIPELINING hide8BITMIME hideSMTPUTF8 hideSTARTTLS hideENHANCEDSTATUSCODES hideDSN
    hideREQUIRETLS authMethods authOptional allowInsecureAuth authRequiredMessage disabledCommands maxClients
    maxAllowedUnauthenticatedCommands useXClient useXForward useProxy ignoredHosts disableReverseLookup resolver
    socketTimeout closeTimeout lmtp logger listen close updateSecureContext connections responseCode
    rejectOversized maxRecipients maxCommandLength lenientAddressParsing pfx authcid authzid isWizard
"""
FUMI = """
    Fumi use Plugin Middleware next onConnect onAuth onMailFrom onRcptTo onData onClose listen close session reject
    accept credentials method username password validatePassword address args stream sizeExceeded SMTPError Session
    Envelope denylist logger maxSize rcptFilter requireTls senderBlock
"""
BUN_SMTP = (
    "DataStream byteLength sizeExceeded bodyType hideDSN hideREQUIRETLS hideENHANCEDSTATUSCODES updateSecureContext"
)
AIOSMTPD = """
    handle_HELO handle_EHLO handle_AUTH handle_MAIL handle_RCPT handle_DATA handle_VRFY handle_RSET handle_NOOP
    handle_QUIT handle_STARTTLS handle_PROXY handle_exception smtp_EXPN auth_MECHANISM auth_mechanism peer ssl
    host_name extended_smtp authenticated auth_data login_data loop proxy_data mail_from mail_options rcpt_tos
    rcpt_options content original_content smtp_utf8 handler data_size_limit enable_SMTPUTF8 decode_data hostname
    server_hostname ident tls_context require_starttls timeout auth_required auth_require_tls auth_exclude_mechanism
    authenticator auth_callback AuthResult LoginPassword command_call_limit proxy_protocol_timeout line_length_limit
    local_part_limit LMTP Controller start stop ssl_context ready_timeout UnixSocketController unix_socket
"""
HARAKA = """
    init_master init_child init_http init_wss connect_init lookup_rdns connect capabilities unrecognized_command
    disconnect helo ehlo quit vrfy noop rset mail rcpt rcpt_ok data data_post max_data_exceeded queue queue_outbound
    queue_ok reset_transaction deny get_mx deferred bounce delivered send_email log register_hook next CONT DENY
    DENYSOFT DENYDISCONNECT DENYSOFTDISCONNECT DISCONNECT OK NEXT_HOOK DELAY uuid remote ip port host is_private local
    greeting hello notes transaction relaying current_line last_response remote_close results mail_from rcpt_to
    message_stream data_bytes add_data add_leading_header add_header remove_header header parse_body body
    attachment_hooks discard_data set_banner add_body_filter user original loglevel log_timestamps databytes plugins
    listen_address inactivity_time nodes group ignore_bad_plugins daemonize daemon_log_file daemon_pid_file spool_dir
    spool_after me deny_includes_uuid banner_include_uuid early_talker_delay plugin_timeout cluster_modules
    smtpgreeting max_received_count max_line_length max_data_line_length concurrency_max disabled bounce_message
    haproxy_hosts strict_rfc1869
"""
MAILPIT = """
    MP_DATABASE MP_DISABLE_WAL MP_COMPRESSION MP_TENANT_ID MP_LABEL MP_MAX_MESSAGES MP_MAX_AGE MP_USE_MESSAGE_DATES
    MP_IGNORE_DUPLICATE_IDS MP_LOG_FILE MP_QUIET MP_VERBOSE MP_UI_BIND_ADDR MP_WEBROOT MP_UI_AUTH_FILE MP_UI_AUTH
    MP_UI_TLS_CERT MP_UI_TLS_KEY MP_API_CORS MP_BLOCK_REMOTE_CSS_AND_FONTS MP_ENABLE_SPAMASSASSIN
    MP_ALLOW_UNTRUSTED_TLS MP_DISABLE_HTTP_COMPRESSION MP_HIDE_DELETE_ALL_BUTTON MP_SEND_API_AUTH_FILE MP_SEND_API_AUTH
    MP_SEND_API_AUTH_ACCEPT_ANY MP_SMTP_BIND_ADDR MP_SMTP_AUTH_FILE MP_SMTP_AUTH MP_SMTP_AUTH_ACCEPT_ANY
    MP_SMTP_TLS_CERT MP_SMTP_TLS_KEY MP_SMTP_REQUIRE_STARTTLS MP_SMTP_REQUIRE_TLS MP_SMTP_AUTH_ALLOW_INSECURE
    MP_SMTP_STRICT_RFC_HEADERS MP_SMTP_MAX_RECIPIENTS MP_SMTP_ALLOWED_RECIPIENTS MP_SMTP_DISABLE_RDNS
    MP_SMTP_RELAY_CONFIG MP_SMTP_RELAY_ALL MP_SMTP_RELAY_MATCHING MP_SMTP_RELAY_HOST MP_SMTP_FORWARD_CONFIG
    MP_SMTP_FORWARD_HOST MP_ENABLE_CHAOS MP_CHAOS_TRIGGERS MP_POP3_BIND_ADDR MP_POP3_AUTH_FILE MP_POP3_AUTH
    MP_POP3_TLS_CERT MP_POP3_TLS_KEY MP_TAG MP_TAGS_CONFIG MP_TAGS_TITLE_CASE MP_TAGS_DISABLE MP_WEBHOOK_URL
    MP_WEBHOOK_LIMIT MP_DEMO_MODE MP_DATA_FILE sendmail
"""
SMTPDFIX = """
    hostname port messages reset start stop use_starttls use_ssl login_username login_password enforce_auth
    auth_require_tls ssl_cert_files ready_timeout host SMTPD_HOST SMTPD_PORT SMTPD_READY_TIMEOUT SMTPD_LOGIN_NAME
    SMTPD_LOGIN_PASSWORD SMTPD_ENFORCE_AUTH SMTPD_AUTH_REQUIRE_TLS SMTPD_SSL_CERTIFICATE_FILE SMTPD_SSL_KEY_FILE
    SMTPD_USE_STARTTLS SMTPD_USE_SSL SMTPD_USE_TLS AuthController Authenticator AuthMessage Config SMTPDFix smtpd
"""


@attrs.frozen
class Row:
    """A row of a table, in the section of its page."""

    section: str
    cells: tuple[str, ...]

    def names(self, column: int) -> list[str]:
        """What stands in backticks."""
        return re.findall(r"`([^`]+)`", self.cells[column])


def rows(page: str) -> Iterator[Row]:
    """The rows of all tables of a page, their heads left out."""
    section, head = "", True
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("|"):
            head = True
        elif re.fullmatch(r"[|-]+", line):
            head = False
        elif not head:
            yield Row(section, tuple(cell.strip() for cell in line[1:-1].split(" | ")))


@functools.cache
def help_of(command: str) -> str:
    """What ``trio-smtp COMMAND --help`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue()


def exists(name: str) -> bool:
    """Whether a dotted name is a public one of trio_smtp, or an attribute of one, or a name in one of its modules.

    An option is one of ``trio-smtp inbox``, and ``trio-smtp NAME`` a command.
    """
    if name.startswith("--"):
        return re.search(rf"(?<![\w-]){name}(?![\w-])", help_of("inbox")) is not None
    if name.startswith("trio-smtp "):
        return name in help_of(name.split()[1])
    if name.startswith("trio_smtp."):
        module, _, name = name.rpartition(".")
        return name in importlib.import_module(module).__all__
    first, *rest = name.split(".")
    if first not in trio_smtp.__all__:
        return False
    found = getattr(trio_smtp, first)
    # Attributes that __init__ makes are known by their documentation alone.
    return not rest or hasattr(found, rest[0]) or re.search(rf"^ +{rest[0]}: ", found.__doc__, re.MULTILINE) is not None


MIGRATING = list(rows("migrating.md"))


@pytest.mark.parametrize("row", MIGRATING, ids=lambda row: f"{row.section}: {row.cells[0]}")
def test_what_it_is_called_here_exists(row: Row) -> None:
    theirs, ours, remark = row.cells
    assert re.search("`|^[a-z]", theirs)
    if ours == "none":
        assert remark
        return
    assert row.names(1)
    assert [name for name in row.names(1) if not exists(name)] == []


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("nodemailer's smtp-server", SMTP_SERVER),
        ("bun-smtp", BUN_SMTP),
        ("Fumi", FUMI),
        ("aiosmtpd", AIOSMTPD),
        ("Haraka", HARAKA),
        ("Mailpit", MAILPIT),
    ],
)
def test_nothing_of_theirs_is_missing(section: str, names: str) -> None:
    shown = " ".join(row.cells[0] for row in MIGRATING if row.section == section)
    assert set(names.split()) - set(re.findall(r"\w+", shown)) == set()


def test_the_fixtures_of_others_are_all_told() -> None:
    table = [row for row in rows("testing-mail.md") if row.section == "Coming from elsewhere"]
    shown = " ".join(row.cells[0] for row in table if re.search("smtpd|SMTPD|Auth|X-", row.cells[0]))
    assert set(SMTPDFIX.split()) - set(re.findall(r"\w+", shown)) == set()
    ours = [name for row in table for name in row.names(1)]
    made: set[str] = set()
    for owner, name in re.findall(r"\b(mailserver|server|mail)\.(\w+)", " ".join(ours)):
        if owner != "mail":
            assert hasattr(trio_smtp.testing.MailServer, name), name
        else:
            assert hasattr(CapturedMessage, name) or f" {name}: " in str(CapturedMessage.__doc__), name
        made.add(name)
    assert {"wait_for", "fail", "ca_file", "envelope"} <= made
    marks = [re.findall(r"mailserver\((.*)\)$", name)[0] for name in ours if name.startswith("@pytest.mark")]
    assert len(marks) > 4
    for arguments in marks:
        with eval(f"trio_smtp.testing.MailServer({arguments.replace('port=2525', 'port=0')})"):
            pass


def test_every_field_of_ours_that_a_client_fills_is_named_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    fields = [
        f"{each.__name__}.{field.name}"
        for each in (trio_smtp.Session, trio_smtp.Envelope, trio_smtp.ProxyHeader)
        for field in attrs.fields(each)
    ]
    assert [field for field in fields if f"`{field}`" not in text and field not in UNNAMED] == []


#: Told by their classes' documentation alone.
UNNAMED = {"Session._app", "Session.auth_mechanism", "Session.lmtp"}


@pytest.mark.parametrize("page", PAGES)
def test_names_in_backticks_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL)
    classes = "|".join(name for name in trio_smtp.__all__ if name[0].isupper())
    tables = re.sub(r"(?m)^\| (.*?) \| ", "", text)  # the first column is of other projects
    wrong = [name for name in re.findall(rf"`((?:{classes})\.\w+)`", tables) if not exists(name)]
    assert wrong == []


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert exists("Session.tls")
    assert exists("SMTPServer.stats")
    assert exists("trio_smtp.plugins.denylist")
    assert not exists("Session.nothing")
    assert not exists("SMTPServer.nothing")
    assert not exists("Nothing")
    assert not exists("trio_smtp.plugins.nothing")
    assert exists("--max-age")
    assert not exists("--max")
    assert not exists("trio-smtp nothing")


@attrs.frozen
class Block:
    """A block of Python in a page."""

    name: str
    code: str


def blocks() -> Iterator[Block]:
    for page, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield Block(f"{page}:{text[: match.start()].count(chr(10)) + 1}", match[1])


BLOCKS = list(blocks())

#: Their programs serve until they are told to end, and are run by tests of their own.
RUN_ELSEWHERE = (
    "docs/operations.md",
    "docs/testing-mail.md",
)


@pytest.fixture
def office(
    tmp_path: Path, certificate_files: CertificateFiles, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Works in a directory that has the files a block of code names."""
    monkeypatch.chdir(tmp_path)

    def furnish(code: str) -> None:
        for name in re.findall(r'"([\w-]+\.(?:pem|key))"', code):
            source = certificate_files.key if "key" in name else ca_file if "ca" in name else certificate_files.cert
            shutil.copy(source, name)
        if "password_file(" in code:
            Path("users").touch(mode=0o600)

    return furnish


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_the_code_runs(block: Block, office: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    if "django" in block.code:
        pytest.importorskip("django")
    if "redis_stream" in block.code:
        pytest.importorskip("coredis")
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(trio_smtp, "run", lambda *args: served.append(args))
    office(block.code)
    program = compile(block.code, block.name, "exec")
    if block.name.startswith(RUN_ELSEWHERE):
        return
    exec(program, {"__name__": "__main__"})
    assert len(served) == len(re.findall(r"^    run\(", block.code, re.MULTILINE))
    assert all(isinstance(app, trio_smtp.App) and isinstance(config, trio_smtp.Config) for app, config in served)


def test_links_lead_somewhere() -> None:
    wrong = [
        f"{page}: {target}"
        for page, path in PAGES.items()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert wrong == []


def test_every_page_is_linked() -> None:
    linked = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [
        path.name for path in DOCS.glob("*.md") if path.name != "README.md" and f"]({path.name})" not in linked
    ] == []


def test_the_state_machine_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "print_state_machine.py"))
    assert (DOCS / "state-machine.md").read_text(encoding="utf-8") == script["page"]()


def test_the_state_machine_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(DOCS / "print_state_machine.py"), run_name="__main__")
    assert capsys.readouterr().out == (DOCS / "state-machine.md").read_text(encoding="utf-8")
