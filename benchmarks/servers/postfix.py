"""Postfix as it is measured: smtpd writes and syncs a queue file, and virtual delivers that to a Maildir meanwhile.

python postfix.py PORT DIRECTORY

Its settings, queue and log are in DIRECTORY, which its own user must be able to get to. Needs root, as Postfix does.
"""

import os
import shutil
import sys
from pathlib import Path

#: It ends by itself after so many seconds.
LIFETIME = 3600
MASTER = "/usr/lib/postfix/sbin/master"
MASTER_CF = """\
postlog    unix-dgram n      -      n      -      1       postlogd
127.0.0.1:{port} inet n      -      n      -      200     smtpd
cleanup    unix      n       -      n      -      0       cleanup
qmgr       unix      n       -      n      300    1       qmgr
rewrite    unix      -       -      n      -      -       trivial-rewrite
bounce     unix      -       -      n      -      0       bounce
defer      unix      -       -      n      -      0       bounce
trace      unix      -       -      n      -      0       bounce
proxymap   unix      -       -      n      -      -       proxymap
virtual    unix      -       n      n      -      -       virtual
error      unix      -       -      n      -      -       error
retry      unix      -       -      n      -      -       error
"""
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = localhost
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
virtual_transport = virtual
virtual_mailbox_domains = example.com
virtual_mailbox_base = {directory}
virtual_mailbox_maps = static:mail/
virtual_mailbox_limit = 0
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
"""

port, root = sys.argv[1], Path(sys.argv[2])
for name in ("queue", "data", "mail"):
    (root / name).mkdir()
shutil.chown(root / "data", "postfix")
os.chown(root / "mail", 65534, 65534)
(root / "main.cf").write_text(MAIN_CF.format(directory=root), encoding="utf-8")
(root / "master.cf").write_text(MASTER_CF.format(port=port), encoding="utf-8")
os.environ["MAIL_CONFIG"] = str(root)
if os.spawnlp(os.P_WAIT, "postfix", "postfix", "check"):
    sys.exit("postfix does not like its settings")
os.execv(MASTER, [MASTER, "-d", "-e", str(LIFETIME)])
