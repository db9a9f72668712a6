"""A TOML file becomes Configs and Apps: profiles, defaults, plugins and deliveries with their arguments, secrets."""

from __future__ import annotations

import json
import logging
import sys
import tomllib
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import trio_smtp.delivery
from trio_smtp import App, Config
from trio_smtp.cli import main
from trio_smtp.cli.configuration import Serving, build, load, show_configuration
from trio_smtp.cli.configuration.settings import COMMAND, GROUPS, listener_settings
from trio_smtp.cli.configuration.signatures import arguments_of
from trio_smtp.cli.configuration.values import mode, seconds, size
from trio_smtp.cli.errors import CommandError
from trio_smtp.delivery.proxy import proxy
from trio_smtp.testing import open_client

from . import test_cli
from .test_cli import write_app

in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own

#: What a delivery looks like that passes mail on.
FORWARD = '''
"""A delivery."""
from __future__ import annotations
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypedDict, Unpack
from trio_smtp.client import Password

class Options(TypedDict, total=False):
    tls: Literal["required", "none"] | None
    auth: Password | Callable[[], str] | None
    context: ssl.SSLContext | None

MADE = []

def forward(
    url: str,
    *,
    patience: float = 120,
    size: int = 100,
    expire_after: int = 60,
    keep: bool = True,
    spool: Path | None = None,
    names: Iterable[str] = (),
    places: list[Path] = (),
    anything: list = (),
    fields: Mapping[str, str] | None = None,
    hooks: Mapping[str, Callable[[], None]] = {},
    calls: Iterable[Callable[[], None]] = (),
    **options: Unpack[Options],
):
    """Pass mail on.

    Args:
        url: Where to.
    """
    if url.startswith("smtp://wrong"):
        raise ValueError(f"url is wrong, with {options}: {options['auth'].password!r}")
    if url == "smtp://crash":
        raise RuntimeError(f"crashed with {options['auth'].password}")
    if url == "smtp://extra":
        raise ImportError("forward needs the extra forward")
    MADE.append({"url": url, "patience": patience, "size": size, "expire_after": expire_after, "keep": keep,
        "spool": spool, "names": names, "places": places, "fields": fields, **options})

    async def take(ctx):
        await ctx.stream.discard()
        ctx.reply = type(ctx.reply)(250, f"Passed to {url}", "2.0.0")

    return lambda app: app.on_data(take)
'''


@pytest.fixture
def forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A delivery that has landed after the command was written; gives the arguments of each call."""
    # Empty files, to be found; their code is run under another name, so that none of it counts as the library's.
    folder = tmp_path / "deliveries"
    folder.mkdir()
    for name in ("forward", "broken"):
        (folder / f"{name}.py").touch()
    monkeypatch.setattr(trio_smtp.delivery, "__path__", [*trio_smtp.delivery.__path__, str(folder)])
    module = types.ModuleType("trio_smtp.delivery.forward")
    exec(compile(FORWARD, "<forward>", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "trio_smtp.delivery.forward", module)
    monkeypatch.setitem(sys.modules, "trio_smtp.delivery.broken", None)
    made: list[dict[str, Any]] = module.MADE
    return made


def built(toml: str, *, check: bool = False) -> Serving:
    Path("mail.toml").write_text(toml)
    return build(load(Path("mail.toml")), lambda _: None, check=check)


def configs(toml: str) -> list[Config]:
    Path("mail.toml").write_text(toml)
    return [each.config for each in load(Path("mail.toml")).listeners]


async def sent(app: App, *recipients: str) -> list[str]:
    """What the recipients and the message are answered."""
    async with open_client(app) as client:
        await client.command("EHLO client")
        await client.command("MAIL FROM:<a@example.org>")
        replies = [await client.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
        if any(reply.code == 250 for reply in replies):
            await client.command("DATA")
            replies.append(await client.command("Subject: hi\r\n\r\nhello\r\n."))
        return [f"{reply.code} {reply.enhanced} {reply.text}" for reply in replies]


# Values


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1000", 1000), ("64k", 65_536), ("10M", 10 << 20), ("1.5 GiB", 3 << 29), ("2TB", 2 << 40)],
)
def test_sizes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("30", 30), ("2.5", 2.5), ("500ms", 0.5), ("5m", 300), ("1.5h", 5400), ("7 d", 604_800)]
)
def test_times(text: str, number: float) -> None:
    assert seconds(text) == number


@pytest.mark.parametrize("text", ["", "M", "-1", "1e3", "1,5", "10X", "٣", "5m\n"])
def test_what_is_neither(text: str) -> None:
    for read in (size, seconds, mode):
        with pytest.raises(ValueError, match="is not a"):
            read(text)
    with pytest.raises(ValueError, match=r"0\.5 is not a whole number"):
        size("0.5")


@pytest.mark.parametrize(
    ("toml", "field", "value"),
    [
        ("max_message_size = '10M'", "max_message_size", 10 << 20),
        ("max_message_size = 'none'", "max_message_size", None),
        ("min_data_rate = '1k'", "min_data_rate", 1024),
        ("command_timeout = '5m'", "command_timeout", 300),
        ("greeting_delay = '500ms'", "greeting_delay", 0.5),
        ("future_release = '7d'", "future_release", 604_800),
        ("unix_path = 'smtp.sock'\nunix_mode = '0660'", "unix_mode", 0o660),
        ("host = '*'", "host", None),
    ],
)
def test_keys_as_people_write_them(toml: str, field: str, value: object) -> None:
    (config,) = configs(f"{toml}\n[[listen]]\n")
    assert getattr(config, field) == value


def test_what_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--max-message-size", "10M", "--command-timeout", "5m", "--unix-mode", "0660"]) == 0
    assert capsys.readouterr().out == "The command line is right: 1 listener\n"
    assert not Path("mail").exists()


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "mail.toml"
    file.write_text("unix_path = 'smtp.sock'\nspool_directory = '../spool'\n[[listen]]\n")
    (listener,) = load(file).listeners
    assert listener.config.unix_path == str(tmp_path / "etc" / "smtp.sock")
    assert listener.config.spool_directory == str(tmp_path / "etc" / "../spool")


# Defaults and profiles


def test_a_listener_then_its_profile_then_what_is_above() -> None:
    tls = "tls_self_signed = true\n"
    first, second, third, fourth = configs(
        f"""
        {tls} max_recipients = 5
        profile = "mx"
        [[listen]]
        port = 1
        [[listen]]
        port = 2
        profile = "submission"
        [[listen]]
        port = 3
        profile = "submissions"
        max_recipients = 7
        starttls_required = false
        [[listen]]
        port = 4
        max_connections_per_host = "none"
        """
    )
    assert (first.max_recipients, first.max_connections_per_host, first.auth_required) == (5, 20, False)
    assert (second.max_recipients, second.auth_required, second.starttls_required) == (200, True, True)
    assert second.max_unauthenticated_commands == 20
    assert (third.max_recipients, third.implicit_tls, third.starttls_required) == (7, True, False)
    assert fourth.max_connections_per_host is None


# Apps


async def test_plugins_of_all_and_of_one(forward: list[dict[str, Any]]) -> None:
    serving = built(
        """
        [[use]]
        plugin = "recipient_filter"
        domains = ["example.com"]
        [delivery]
        type = "forward"
        url = "smtp://all"
        [[listen]]
        port = 1
        [[listen]]
        port = 2
        [[listen.use]]
        plugin = "sender_block"
        domains = ["example.org"]
        [[listen]]
        port = 3
        [listen.delivery]
        type = "forward"
        url = "smtp://one"
        [[listen]]
        port = 4
        """
    )
    apps = [app for app, _ in serving.pairs]
    assert serving.delivers
    assert [config.port for _, config in serving.pairs] == [1, 2, 3, 4]
    assert apps[0] is apps[3]
    assert len(set(apps)) == 3
    assert [each["url"] for each in forward] == ["smtp://all", "smtp://all", "smtp://one"]
    assert await sent(apps[0], "b@example.com", "c@example.net") == [
        "250 2.1.5 Recipient OK",
        "550 5.7.1 Relay access denied",
        "250 2.0.0 Passed to smtp://all",
    ]
    assert (await sent(apps[1], "b@example.com"))[0].startswith("503")
    assert (await sent(apps[2], "b@example.com"))[1] == "250 2.0.0 Passed to smtp://one"


def test_every_kind_of_argument(forward: list[dict[str, Any]], tmp_path: Path) -> None:
    Path("isp").write_text("smarthost:p:w\n")
    built(
        """
        [[listen]]
        [delivery]
        type = "forward"
        url = "smtp://isp"
        patience = "2m"
        size = "1k"
        expire_after = "1h"
        keep = false
        spool = "spool"
        names = ["a", "b"]
        places = ["x"]
        anything = [1]
        fields = { a = "b" }
        tls = "none"
        auth_file = "isp"
        """
    )
    (made,) = forward
    auth = made.pop("auth")
    assert (auth.username, auth.password) == ("smarthost", "p:w")
    assert made == {
        "url": "smtp://isp",
        "patience": 120,
        "size": 1024,
        "expire_after": 3600,
        "keep": False,
        "spool": tmp_path / "spool",
        "names": ["a", "b"],
        "places": ["x"],
        "fields": {"a": "b"},
        "tls": "none",
    }


def test_options_of_a_proxy_say_what_they_are() -> None:
    printed = show_configuration().partition('type = "proxy"')[2].partition("\n\n")[0]
    # tls has "none" among its words, so that "none" is not what it is without a value.
    assert '# tls = "..."\n#   "required", "opportunistic" or "none" (default: required for smtp://' in printed
    assert '# patience = "..."\n#   Seconds for everything up to the reply to MAIL' in printed
    assert '# auth = "none"\n#   What logs in at the next server' in printed
    assert "true or false" not in printed


def test_a_proxy_without_tls() -> None:
    """The word reaches the client: taken for no value, a proxy would insist on TLS."""
    argument = arguments_of(proxy)["tls"]
    assert argument.from_toml("none", Path()) == "none"
    assert arguments_of(proxy)["announce"].from_toml("none", Path()) is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("tls = 'some'", "tls must be one of 'required', 'none'$"),
        ("context = 'x'", "context cannot be written in a file: set it in Python"),
        ("names = [1]", r"names must be a list, not \[1\]"),
        ("fields = 1", "fields must be a table, not 1"),
        ("fields = { a = 1 }", "fields must be a table, not "),
        ("hooks = { a = 'x' }", "hooks cannot be written in a file"),
        ("calls = ['x']", "calls cannot be written in a file"),
        ("size = '1.5s'", "size must be a whole number"),
        ("expire_after = '1.5s'", "expire_after must be a whole number"),
        ("patience = '2 minutes'", 'patience must be a number of seconds, as in 30 or "5m"$'),
        ("keep = 1", "keep must be true or false, not 1"),
        ("auth = 'nobody'", 'auth must be "user:password"$'),
    ],
)
@pytest.mark.usefixtures("forward")
def test_arguments_that_are_refused(line: str, text: str) -> None:
    with pytest.raises(CommandError, match=r"mail\.toml, \[delivery\]: " + text):
        built(f"[[listen]]\n[delivery]\ntype = 'forward'\nurl = 'smtp://isp'\n{line}\n")


@pytest.mark.usefixtures("forward")
def test_a_delivery_without_its_extra() -> None:
    with pytest.raises(CommandError, match=r"\[delivery\]: import of trio_smtp\.delivery\.broken") as caught:
        built("[[listen]]\n[delivery]\ntype = 'broken'\n")
    assert caught.value.status == 1
    with pytest.raises(CommandError, match=r"\[delivery\]: forward needs the extra forward"):
        built("[[listen]]\n[delivery]\ntype = 'forward'\nurl = 'smtp://extra'\n")
    assert '# type = "forward"\n#   Pass mail on.\n# url = "..."\n#   needed: Where to\n' in show_configuration()


def test_functions_whose_arguments_are_not_known() -> None:
    def hinted(path: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    assert arguments_of(hinted)["path"].from_toml("x", Path()) == "x"
    assert arguments_of(hinted)["path"].wanted == "anything"
    assert arguments_of(type) == {}
    assert arguments_of(lambda *_, **__: None) == {}


@pytest.mark.parametrize("url", ["smtp://wrong", "smtp://crash"])
@pytest.mark.usefixtures("forward")
def test_secrets_are_never_shown(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("credentials").mkdir()
    Path("credentials/isp").write_text("user:T0p'Secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(Path("credentials").absolute()))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    Path("mail.toml").write_text(
        f"[[listen]]\n[delivery]\ntype = 'forward'\nurl = '{url}'\nauth_file = '$CREDENTIALS_DIRECTORY/isp'\n"
    )
    assert main(["--config", "mail.toml", "-vv"]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "***" in err
    assert "Secret" not in out + err


@pytest.mark.parametrize(
    ("octets", "text"), [(b"x" * 65_537, "has more than 65536 octets"), (b"\xffsecret", "secret is not UTF-8")]
)
def test_a_file_that_is_no_string(octets: bytes, text: str) -> None:
    Path("secret").write_bytes(octets)
    with pytest.raises(CommandError, match=rf"mail\.toml, listener 1: banner_file: {text}|{text}"):
        configs("[[listen]]\nbanner_file = 'secret'\n")


def test_a_secret_that_config_refuses_is_not_shown() -> None:
    Path("secret").write_text("hush\u00fc")
    with pytest.raises(CommandError, match=r"listener 1: banner must be .* not '\*\*\*'$"):
        configs("[[listen]]\nbanner_file = 'secret'\n")


PLUGINS = """
from trio_smtp import App

def itself(app):
    app.state.plugin = "itself"

def made(name: str):
    return lambda app: setattr(app.state, "plugin", name)

def make_app(table):
    app = App()
    app.state.table = table
    return app

def fail(table):
    raise OSError(13, "Permission denied")

app = App()
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_app(tmp_path, "mine", PLUGINS, monkeypatch)


@pytest.mark.usefixtures("mine")
def test_plugins_of_a_module() -> None:
    for written, plugin in (("plugin = 'mine:itself'", "itself"), ("plugin = 'mine:made'\nname = 'x'", "x")):
        ((app, _),) = built(f"[[listen]]\n[[use]]\n{written}\n").pairs
        assert app.state.plugin == plugin
    assert not built("[[listen]]\n").delivers


@pytest.mark.usefixtures("mine")
def test_an_app_and_its_factory() -> None:
    serving = built("app = 'mine:app'\n[[listen]]\nport = 1\n[[listen]]\nport = 2\n")
    assert serving.delivers
    assert serving.pairs[0][0] is serving.pairs[1][0]
    ((app, _),) = built("app = 'mine:make_app'\n[[listen]]\n").pairs
    assert app.state.table == {}
    Path("token").write_text("t0ken\n")
    table = "[app]\nfactory = 'mine:make_app'\nlimit = 3\ntoken_file = 'token'\n"
    ((app, _),) = built(f"[[listen]]\n{table}").pairs
    assert app.state.table == {"limit": 3, "token": "t0ken"}
    with pytest.raises(CommandError, match=r"\[app\]: mine:app is an App, which takes no arguments: limit"):
        built("[[listen]]\n[app]\nfactory = 'mine:app'\nlimit = 3\n")
    with pytest.raises(CommandError, match=r"cannot make the App: Permission denied") as caught:
        built("app = 'mine:fail'\n[[listen]]\n")
    assert caught.value.status == 1


@pytest.mark.parametrize(
    ("toml", "arguments", "text"),
    [
        ("[delivery]\ntype = 'maildir'\nroot = 'in'\n", ["mine:app"], "says what is served: APP mine:app cannot stand"),
        ("[delivery]\ntype = 'maildir'\nroot = 'in'\n", ["--maildir", "x"], "says where messages go"),
        ("[app]\nfactory = 'mine:app'\n", ["--maildir", "x"], "says where messages go"),
        ("", ["mine:app", "--maildir", "x"], "cannot stand beside APP"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_the_command_line_beside_a_file(
    toml: str, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mail.toml").write_text(f"[[listen]]\n{toml}")
    assert main(["--check", "--config", "mail.toml", *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.usefixtures("mine")
def test_what_is_right_beside_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text("[[listen]]\nport = 1\n[[listen]]\nport = 2\n")
    assert main(["--check", "--config", "mail.toml", "mine:app"]) == 0
    assert main(["--check", "--config", "mail.toml", "--maildir", "x"]) == 0
    assert capsys.readouterr().out == "mail.toml is right: 2 listeners\n" * 2
    assert not Path("x").exists()


async def test_users_may_log_in() -> None:
    pytest.importorskip("argon2")
    Path("users").write_text("")
    serving = built(
        "users = 'users'\nallow_insecure_auth = true\nauth_required = true\n"
        "[[listen]]\nport = 1\n[[listen]]\nport = 2\n"
    )
    (app, config), (other, _) = serving.pairs
    assert app is other
    async with open_client(app, config) as client:
        assert "AUTH PLAIN LOGIN" in (await client.command("EHLO client")).lines


async def test_a_maildir_for_each_recipient(tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        for directory in ("tmp", "new", "cur"):
            (tmp_path / "vmail/example.com" / name / directory).mkdir(parents=True)
    toml = "[[listen]]\n[delivery]\ntype = 'maildir'\nroot = 'vmail/{domain}/{local_part}'\n"
    ((app, _),) = built(toml).pairs
    replies = await sent(app, "Alice@example.com", "nobody@example.com")
    assert [reply[:9] for reply in replies] == ["250 2.1.5", "550 5.1.1", "250 2.0.0"]
    assert len(list((tmp_path / "vmail/example.com/alice/new").iterdir())) == 1
    built(toml.replace("vmail", "other"), check=True)
    assert not (tmp_path / "other").exists()


# What it prints


def test_each_key_is_in_one_group() -> None:
    named = [name for _, names in GROUPS for name in names]
    assert len(set(named)) == len(named)
    assert set(named) < set(listener_settings())


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [line[2:].partition(" = ")[0] for line in lines if line.startswith("# ") and " = " in line]
    for name in (*(each.name for each in COMMAND), *listener_settings(), "app", "root", "domains"):
        assert name in keys
    for line, following in pairwise(lines):
        if line.startswith("# ") and " = " in line and not line.startswith("#  "):
            assert tomllib.loads(line[2:])
            assert len(following) > len("#   ")


def test_what_is_printed_is_what_holds() -> None:
    above = show_configuration().partition("## plugins")[0]
    written = [line[2:] for line in above.splitlines() if line.startswith("# ") and " = " in line and line[2] != " "]
    not_kept = ("app", "hostname", "tls_")
    kept = [line for line in written if '"..."' not in line and not line.startswith(not_kept)]
    (config,) = configs("\n".join([*kept, "", "[[listen]]"]))
    assert config == Config()


@pytest.mark.parametrize(("words", "text"), [(["chek"], "did you mean 'check'"), (["--prot", "1"], "mean '--port'")])
def test_did_you_mean(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) if words[0].startswith("-") else pytest.MonkeyPatch.context():
        assert main(words) == 2
    assert text in capsys.readouterr().err


# JSON


def unset_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has set up no logging; pytest's own handlers come back after the test."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(logging, "captureWarnings", lambda _: None)


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_all_of_stderr_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    unset_logging(monkeypatch)
    Path("mail.toml").write_text("log_format = 'json'\nverbose = 1\n[[listen]]\n")
    assert main(["--config", "mail.toml", "--check"]) == 0
    log = logging.getLogger("trio_smtp")
    try:
        raise LookupError("\u00fc\n")
    except LookupError:
        log.exception("it %s", "fails", extra={"session": "s1", "level": "mine"})
    log.debug("not this")
    start, failure = json_lines(capsys)
    assert start | {"time": "", "process": 0} == {
        "time": "",
        "level": "INFO",
        "logger": "trio-smtp",
        "process": 0,
        "message": "mail.toml is right: 1 listener",
    }
    assert (failure["message"], failure["session"], failure["level"]) == ("it fails", "s1", "ERROR")
    assert failure["exception"].endswith("LookupError: \u00fc\n")


@pytest.mark.parametrize("words", [["--log-format", "json"], ["--log-format=json"]])
def test_mistakes_are_json(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unset_logging(monkeypatch)
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--nope"])
    assert main([*words, "-v", "nope"]) == 2
    first, second = json_lines(capsys)
    assert first["message"].startswith("unrecognized arguments: --nope")
    assert (second["level"], second["message"][:12]) == ("ERROR", "APP must be ")
    assert logging.getLogger().level == logging.INFO


def test_a_crash_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    unset_logging(monkeypatch)

    monkeypatch.setattr("trio_smtp.cli.command.trio.run", crash)
    assert main(["--log-format", "json"]) == 1
    (line,) = json_lines(capsys)
    assert (line["level"], "ZeroDivisionError" in line["exception"]) == ("CRITICAL", True)
    logging.getLogger().handlers.clear()
    with pytest.raises(ZeroDivisionError):
        main([])
