"""Mistakes in a TOML file: each is one line that names the file, the table, the key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import test_cli
from .test_cli import assert_one_line

in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own

LISTEN = "[[listen]]\nport = 0\n"
MAILDIR = "[delivery]\ntype = 'maildir'\nroot = 'in'\n"
USE = "[[use]]\nplugin = 'recipient_filter'\ndomains = ['example.com']\n"

#: Each file, and what the line says after the file's name, as a regular expression.
MISTAKES = {
    # the file
    "an empty file": ("", r": it has no \[\[listen\]\] table: each listener needs one"),
    "a table that is not closed": ("[[listen]\n", r": Expected .* \(at line 1, column 9\)"),
    "a key twice": ("port = 1\nport = 2\n", r": Cannot overwrite a value \(at line 2"),
    "a value without quotes": ("host = mx\n", r": Invalid value \(at line 1"),
    "one table for all listeners": (
        "[listen]\nport = 25\n",
        r": a listener has two brackets on each side, \[\[listen\]\]",
    ),
    # names
    "a key with a typo": ("prot = 25\n" + LISTEN, r": unknown key 'prot', did you mean 'port'\?$"),
    "a listener's key with a typo": (LISTEN + "max_mesage_size = 1\n", r", listener 1: .*'max_message_size'\?$"),
    "a key of nobody": (LISTEN + "colour = 1\n", r", listener 1: unknown key 'colour'$"),
    "a table of nobody": (LISTEN + "[metrix]\n", r": unknown key 'metrix'"),
    "a Python object": (LISTEN + "ssl_context = 1\n", r", listener 1: unknown key 'ssl_context' \(tls_cert"),
    "a key of the command in a listener": (LISTEN + "log_format = 'json'\n", r"log_format is for all .*: move it to"),
    "an app in a listener": (LISTEN + "app = 'a:b'\n", r", listener 1: app is for all listeners: move it to the top"),
    "a queue at the top": ("queue = 'q'\n" + LISTEN, r": queue is not there yet"),
    "a queue as a delivery": (LISTEN + "[delivery]\ntype = 'queue'\n", r", \[delivery\]: queue is not there yet"),
    "a queue in a delivery": (MAILDIR + "queue = 'q'\n" + LISTEN, r", \[delivery\]: queue is not there yet"),
    # kinds of values
    "a port in words": (LISTEN.replace("0", "'smtp'"), r", listener 1: port must be a whole number, not 'smtp'"),
    "a port out of range": (LISTEN.replace("0", "65536"), r"port must be a whole number from 0 to 65535, not 65536"),
    "a switch as a number": (LISTEN + "lmtp = 1\n", r"lmtp must be true or false, not 1$"),
    "a switch as a word": (LISTEN + "lmtp = 'yes'\n", r"lmtp must be true or false, not 'yes'$"),
    "a size with a wrong unit": (LISTEN + "max_message_size = '10Q'\n", r"a number of octets.*\"10M\", not '10Q'$"),
    "a size of half an octet": (LISTEN + "max_data_line = '0.5'\n", r"max_data_line must be a number of octets"),
    "a time with a wrong unit": (LISTEN + "data_timeout = '5y'\n", r"or a time such as \"5m\", not '5y'$"),
    "a time below zero": (LISTEN + "data_timeout = -1\n", r"data_timeout must be a number of at least 0\.001"),
    "a time that must be whole": (LISTEN + "deliver_by = '1.5s'\n", r"deliver_by must be a number of seconds"),
    "a mode that is not octal": (LISTEN + "unix_mode = '0689'\n", r"unix_mode must be an octal number, as in 0660"),
    "a list as a string": (LISTEN + "xclient = '10.0.0.1'\n", r"xclient must be a list of strings, not '10"),
    "a list of numbers": (LISTEN + "xclient = [10]\n", r"xclient must be a list of strings, not \[10\]"),
    "a network that is none": (LISTEN + "xclient = ['10.0.0']\n", r"xclient must be several networks"),
    "a choice that is none": (LISTEN + "bare_newline = 'keep'\n", r"one of 'reject', 'normalize', not 'keep'"),
    "a profile that is none": (LISTEN + "profile = 'relay'\n", r"one of 'mx', 'submission', 'submissions', not"),
    "a mechanism that is none": (LISTEN + "auth_mechanisms = ['MAGIC']\n", r"auth_mechanisms: unknown MAGIC; allowed"),
    "no workers": ("workers = 0\n" + LISTEN, r": workers must be a whole number of at least 1, not 0"),
    "a log format that is none": ("log_format = 'xml'\n" + LISTEN, r": log_format must be one of 'text', 'json', not"),
    "verbose as a switch": ("verbose = true\n" + LISTEN, r": verbose must be a whole number of at least 0, not True"),
    # contradictions
    "a submission server without TLS": (LISTEN + "profile = 'submission'\n", r"needs an ssl_context \(tls_cert"),
    "a password without users": (LISTEN + "auth_required = true\n", r", listener 1: auth_required needs users = FILE"),
    "a key without a certificate": (LISTEN + "tls_key = 'k'\n", r", listener 1: tls_key needs tls_cert"),
    "a port and a Unix socket": (LISTEN + "unix_path = 's'\n", r", listener 1: port contradicts unix_path"),
    "one port twice": ("port = 25\n[[listen]]\n[[listen]]\n", r": listeners 1 and 2 both listen on port 25: change"),
    "an App and a delivery": ("app = 'a:b'\n" + MAILDIR + LISTEN, r": delivery cannot stand beside app"),
    "an App and a plugin": ("app = 'a:b'\n" + LISTEN + USE.replace("use", "listen.use"), r": use cannot stand beside"),
    "an App and users": ("app = 'a:b'\nusers = 'u'\n" + LISTEN, r": users cannot stand beside app"),
    # plugins
    "a plugin without a name": (LISTEN + "[[use]]\nlimit = 3\n", r", \[\[use\]\] 1: plugin must be a name.*no plugin$"),
    "a plugin with a typo": (
        LISTEN + "[[use]]\nplugin = 'recieved_loop'\n",
        r"'recieved_loop', did you mean 'received_loop'\?: it is",
    ),
    "plugins in one table": (LISTEN + "[use]\nplugin = 'logger'\n", r", use: a plugin has a table of its own, \[\[use"),
    "a plugin that is a number": (LISTEN + "[[use]]\nplugin = 1\n", r"plugin must be a name of ours, .* not 1$"),
    "an argument with a typo": (LISTEN + USE.replace("domains", "domain"), r"'domain', did you mean 'domains'\?; all"),
    "an argument that is missing": (LISTEN + "[[use]]\nplugin = 'sender_block'\n", r"1: it needs domains, a list$"),
    "an argument of another kind": (LISTEN + "[[use]]\nplugin = 'received_loop'\nlimit = [1]\n", r"limit must be a w"),
    "an argument with a wrong unit": (
        LISTEN + "[[use]]\nplugin = 'received_loop'\nlimit = 'x'\n",
        r"limit must be a w",
    ),
    "an argument out of range": (
        LISTEN + "[[use]]\nplugin = 'received_loop'\nlimit = 0\n",
        r"limit must be a positive",
    ),
    "an argument for Python": (LISTEN + "[[use]]\nplugin = 'logger'\nlog = 'x'\n", r"log cannot be written in a file"),
    "a domain that is none": (
        LISTEN + USE.replace("example.com", "a b"),
        r"\[\[use\]\] 1: domains must be domain names",
    ),
    "a listener's key in a plugin": (
        LISTEN + USE + "port = 2\n",
        r"\[\[use\]\] 1: port is no key of .*: move it to the",
    ),
    "a second plugin": (
        LISTEN + USE + "[[use]]\nplugin = 'nope'\n",
        r", \[\[use\]\] 2: there is no plugin 'nope': it is",
    ),
    "a listener's plugin": (
        LISTEN + USE.replace("use", "listen.use") + "x = 1\n",
        r", listener 1, \[\[listen.use\]\] 1: ",
    ),
    "a plugin of a missing module": (LISTEN + "[[use]]\nplugin = 'nope:x'\n", r"cannot import nope:x: ModuleNotFound"),
    "a plugin that is no function": (
        LISTEN + "[[use]]\nplugin = 'os:name'\n",
        r"os:name is no function but of type str",
    ),
    "a function that makes none": (
        LISTEN + "[[use]]\nplugin = 'os:getpid'\n",
        r"os:getpid gives no plugin: it is of type int",
    ),
    "half a name": (LISTEN + "[[use]]\nplugin = 'os:'\n", r"plugin must be module:attribute"),
    # deliveries
    "a delivery that is a string": ("delivery = 'maildir'\n" + LISTEN, r", delivery: it is a table, \[delivery\] with"),
    "a delivery without a type": (
        LISTEN + "[delivery]\nroot = 'in'\n",
        r", \[delivery\]: type must be a name.*no type$",
    ),
    "a delivery with a typo": (LISTEN + MAILDIR.replace("'maildir'", "'mailldir'"), r"did you mean 'maildir'\?"),
    "a listener's key in a delivery": (
        MAILDIR + "port = 25\n" + LISTEN,
        r", \[delivery\]: port is no key of this .*top",
    ),
    "the command's key in a delivery": (
        MAILDIR + "workers = 2\n" + LISTEN,
        r", \[delivery\]: workers is no key of this",
    ),
    "a Maildir without a root": (LISTEN + "[delivery]\ntype = 'maildir'\n", r", \[delivery\]: root must be the path"),
    "a field that a template has not": (LISTEN + MAILDIR.replace("'in'", "'{user}'"), r"root may have \{domain\} and"),
    "a brace that is not closed": (LISTEN + MAILDIR.replace("'in'", "'{domain'"), r"root may have \{domain\} and"),
    "a listener's delivery": (LISTEN + MAILDIR.replace("[del", "[listen.del") + "x = 1\n", r"1, \[listen.delivery\]: "),
    # Apps
    "an App that is half a name": ("app = 'mine'\n" + LISTEN, r": app must be module:attribute"),
    "an App of a missing module": ("app = 'nope:app'\n" + LISTEN, r": cannot import nope:app: ModuleNotFoundError"),
    "an App that is none": ("app = 'os:name'\n" + LISTEN, r": os:name is not a trio_smtp.App but of type str"),
    "a factory that is none": (
        "app = 'builtins:dict'\n" + LISTEN,
        r"builtins:dict gives no trio_smtp.App: it is of type dict",
    ),
    "a table without a factory": (LISTEN + "[app]\nx = 1\n", r", \[app\]: factory must be \"module:make_app\""),
    "a factory that fails": (
        LISTEN + "[app]\nfactory = 'os:fsencode'\n",
        r", \[app\]: cannot make the App: TypeError: ",
    ),
    # files beside it
    "both a key and its file": (
        LISTEN + "banner = 'x'\nbanner_file = 'b'\n",
        r"banner_file stands beside banner: write",
    ),
    "a file for what is a path": (LISTEN + "tls_key_file = 'k'\n", r", listener 1: tls_key is a file already: write"),
    "a file for a number": (LISTEN + "port_file = 'p'\n", r", listener 1: unknown key 'port_file'"),
    "a file that is a number": (LISTEN + "banner_file = 3\n", r", listener 1: banner_file must be the path of a file"),
    "credentials that systemd did not give": (
        LISTEN + "banner_file = '$CREDENTIALS_DIRECTORY/b'\n",
        r"is not set: sys",
    ),
    "a file that is missing": (LISTEN + "banner_file = 'nope'\n", r"banner_file: cannot read nope: No such file"),
    "a certificate that is missing": (LISTEN + "tls_cert = 'nope.pem'\n", r"listener 1: cannot read nope.pem: No such"),
    "users that are missing": (LISTEN + "users = 'nope'\n", r", listener 1: users: .*[nN]o such file"),
}
#: What the system refuses, so that the exit code is another.
REFUSED = ("credentials", "a file that is missing", "a certificate that is missing", "users that are missing")


@pytest.mark.parametrize(("toml", "text", "code"), [
    pytest.param(toml, text, 1 if name.startswith(REFUSED) else 2, id=name) for name, (toml, text) in MISTAKES.items()
])  # fmt: skip
def test_a_mistake_is_one_line(
    toml: str, text: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    Path("mail.toml").write_text(toml)
    assert_one_line(
        ["--check", "--config", "mail.toml"], code, rf"mail\.toml{'.*' if text[0] not in ':,' else ''}{text}", capsys
    )


def test_there_are_fifty_mistakes_at_least() -> None:
    assert len(MISTAKES) >= 50
