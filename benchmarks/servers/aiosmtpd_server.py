"""aiosmtpd as it is measured: a handler that says 250 to every message.

python aiosmtpd_server.py PORT [CERTIFICATE KEY]
"""

import asyncio
import logging
import ssl
import sys
from typing import Any

from aiosmtpd.smtp import SMTP


class Handler:
    """Says 250 to a message."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """The message is in envelope.content."""
        return "250 OK"


async def main(port: int, *files: str) -> None:
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    loop = asyncio.get_running_loop()

    def connected() -> SMTP:
        # The limit of 32 MiB is below what is measured; without a name it would look one up.
        return SMTP(Handler(), hostname="localhost", data_size_limit=2**30, tls_context=context, loop=loop)

    server = await loop.create_server(connected, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


logging.getLogger("mail.log").setLevel(logging.CRITICAL)
asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
