"""aiosmtpd as it is measured with its own handler for a Maildir, which syncs neither the file nor the directory.

python aiosmtpd_mailbox.py PORT DIRECTORY
"""

import asyncio
import logging
import sys
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP


async def main(port: int, directory: str) -> None:
    loop = asyncio.get_running_loop()
    handler = Mailbox(Path(directory, "mail"))
    # Without a name it would look one up.
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="localhost", loop=loop), "127.0.0.1", port, backlog=1000
    )
    await server.serve_forever()


logging.getLogger("mail.log").setLevel(logging.CRITICAL)
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
