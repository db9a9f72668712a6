"""An SMTP and LMTP server library for Trio: a connection is a task, a message is a channel that a handler reads."""

from typing import TYPE_CHECKING

from .app.application import App as App
from .app.application import CallNext as CallNext
from .app.application import Filter as Filter
from .app.application import Handler as Handler
from .app.application import Middleware as Middleware
from .app.application import Plugin as Plugin
from .app.companion import Companion as Companion
from .app.config import Config as Config
from .app.contexts import AuthContext as AuthContext
from .app.contexts import ConnectContext as ConnectContext
from .app.contexts import DataStartContext as DataStartContext
from .app.contexts import HeloContext as HeloContext
from .app.contexts import MailFromContext as MailFromContext
from .app.contexts import RcptToContext as RcptToContext
from .app.contexts import SecureContext as SecureContext
from .app.contexts import VerifyContext as VerifyContext
from .app.data_context import DataContext as DataContext
from .app.delivering import DeliveryWatcher as DeliveryWatcher
from .app.extension import CommandHandler as CommandHandler
from .app.extension import Extension as Extension
from .app.fields import HeaderField as HeaderField
from .app.hooks import CloseContext as CloseContext
from .app.hooks import CloseReason as CloseReason
from .app.hooks import CommandContext as CommandContext
from .app.hooks import ReplyContext as ReplyContext
from .app.hooks import TransactionEndContext as TransactionEndContext
from .app.hooks import TransactionEndReason as TransactionEndReason
from .app.measures import Histogram as Histogram
from .app.measures import Measures as Measures
from .app.message import MessageIncomplete as MessageIncomplete
from .app.message import MessageMalformed as MessageMalformed
from .app.message import MessageStream as MessageStream
from .app.message import MessageTooLarge as MessageTooLarge
from .app.message import MessageUnparsable as MessageUnparsable
from .app.message import StreamConsumed as StreamConsumed
from .app.running import Running as Running
from .app.session import Envelope as Envelope
from .app.session import Session as Session
from .app.session import TLSInfo as TLSInfo
from .app.spool import SpooledMessage as SpooledMessage
from .app.stats import Stats as Stats
from .protocol.addresses import Address as Address
from .protocol.credentials import CramMD5Credentials as CramMD5Credentials
from .protocol.credentials import Credentials as Credentials
from .protocol.credentials import ExternalCredentials as ExternalCredentials
from .protocol.credentials import OAuthCredentials as OAuthCredentials
from .protocol.credentials import PlainCredentials as PlainCredentials
from .protocol.credentials import ScramCredentials as ScramCredentials
from .protocol.credentials import ScramSecret as ScramSecret
from .protocol.credentials import XClientCredentials as XClientCredentials
from .protocol.errors import Aborted as Aborted
from .protocol.errors import ProtocolError as ProtocolError
from .protocol.errors import SMTPError as SMTPError
from .protocol.parameters import DeliverBy as DeliverBy
from .protocol.parameters import DSNEnvelope as DSNEnvelope
from .protocol.parameters import DSNRecipient as DSNRecipient
from .protocol.parameters import ParameterParser as ParameterParser
from .protocol.proxy import ProxyHeader as ProxyHeader
from .protocol.replies import Reply as Reply
from .protocol.sasl import AuthenticationFailed as AuthenticationFailed
from .protocol.sasl import Exchange as Exchange
from .protocol.sasl import Mechanism as Mechanism
from .protocol.sasl import SASLContext as SASLContext
from .protocol.sasl import SecretNeeded as SecretNeeded
from .server.running import run as run
from .server.server import SMTPServer as SMTPServer
from .server.serving import serve as serve
from .server.workers import Reload as Reload
from .server.workers import serve_workers as serve_workers
from .tls import create_context as create_context

if TYPE_CHECKING:
    from .reading import message_text as message_text

#: The version of the installed distribution, ``"0+unknown"`` where the package is not installed.
__version__: str

__all__ = [
    "Aborted",
    "Address",
    "App",
    "AuthContext",
    "AuthenticationFailed",
    "CallNext",
    "CloseContext",
    "CloseReason",
    "CommandContext",
    "CommandHandler",
    "Companion",
    "Config",
    "ConnectContext",
    "CramMD5Credentials",
    "Credentials",
    "DSNEnvelope",
    "DSNRecipient",
    "DataContext",
    "DataStartContext",
    "DeliverBy",
    "DeliveryWatcher",
    "Envelope",
    "Exchange",
    "Extension",
    "ExternalCredentials",
    "Filter",
    "Handler",
    "HeaderField",
    "HeloContext",
    "Histogram",
    "MailFromContext",
    "Measures",
    "Mechanism",
    "MessageIncomplete",
    "MessageMalformed",
    "MessageStream",
    "MessageTooLarge",
    "MessageUnparsable",
    "Middleware",
    "OAuthCredentials",
    "ParameterParser",
    "PlainCredentials",
    "Plugin",
    "ProtocolError",
    "ProxyHeader",
    "RcptToContext",
    "Reload",
    "Reply",
    "ReplyContext",
    "Running",
    "SASLContext",
    "SMTPError",
    "SMTPServer",
    "ScramCredentials",
    "ScramSecret",
    "SecretNeeded",
    "SecureContext",
    "Session",
    "SpooledMessage",
    "Stats",
    "StreamConsumed",
    "TLSInfo",
    "TransactionEndContext",
    "TransactionEndReason",
    "VerifyContext",
    "XClientCredentials",
    "create_context",
    "message_text",
    "run",
    "serve",
    "serve_workers",
]


def __getattr__(name: str) -> object:
    """Look up what takes longer to import than the library when it is asked for: `__version__`, `message_text`."""
    if name == "message_text":
        from .reading import message_text

        return message_text
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("trio-smtp")
    except PackageNotFoundError:
        found = "0+unknown"
    globals()[name] = found
    return found
