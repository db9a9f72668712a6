"""Postfix's smtpd with STARTTLS, settings and queue of its own in a temporary directory, on 127.0.0.1 alone. Root only.

python postfix_server.py PORT CERTIFICATE KEY
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

#: Seconds after which it ends by itself.
LIFETIME = 3600

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = localhost
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key} {certificate}
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
postlog    unix-dgram n - n - 1 postlogd
cleanup    unix n - n - 0    cleanup
rewrite    unix - - n - -    trivial-rewrite
proxymap   unix - - n - -    proxymap
tlsmgr     unix - - n 1000? 1 tlsmgr
"""


def main() -> int:
    port, certificate, key = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = Path(tempfile.mkdtemp(prefix="postfix-"))
    try:
        directory.chmod(0o755)  # for Postfix's own user
        for name in ("queue", "data"):
            (directory / name).mkdir()
        shutil.chown(directory / "data", "postfix")
        (directory / "main.cf").write_text(MAIN_CF.format(directory=directory, certificate=certificate, key=key))
        (directory / "master.cf").write_text(MASTER_CF.format(port=port))
        environment = {**os.environ, "MAIL_CONFIG": str(directory)}
        subprocess.run(["postfix", "check"], env=environment, check=True)
        daemons = subprocess.check_output(["postconf", "-h", "daemon_directory"], text=True, env=environment).strip()
        with subprocess.Popen([f"{daemons}/master", "-d", "-e", str(LIFETIME)], env=environment) as master:
            try:
                return master.wait()
            finally:
                master.terminate()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
